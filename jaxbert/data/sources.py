"""Columns of text as `Examples`; what a label means is a task's to say.

Nothing is guessed and nothing dropped: a row that cannot be used is an error of one line that names
the source, the column, the row and what to do.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from jaxbert.data.tables import NO_HEADER, Columns, Headed, read_table, some
from jaxbert.errors import InputError


@dataclass(frozen=True)
class Examples:
    """N texts, or pairs of texts, with or without labels.

    texts, pairs: N strings each; pairs None for single texts.
    labels: [N] int32 indices into `label_names`, or [N] float32 for regression, or what else the
      task says; None without.
    task: the name of the task that the labels are for; None without labels.
    source: where they came from, for messages.
    reason: why they are for that task, for people.
    weights: [N] float32, how much each counts in the loss; None = 1.

    A task whose examples hold more derives a class from this one.

    Example:
      >>> films = Examples(("good", "dull"), labels=np.array([1, 0], np.int32),
      ...                  label_names=("no", "yes"), task="text-classification")
      >>> len(films), films.label_names[films.labels[0]]
      (2, 'yes')
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    task: str | None = None
    source: str = "memory"
    reason: str = ""
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, chosen: np.ndarray) -> Self:
        """The examples at these places, in this order.

        Example:
          >>> Examples(("good", "dull")).take(np.array([1])).texts
          ('dull',)
        """
        pick = lambda values: None if values is None else tuple(values[i] for i in chosen)  # noqa: E731
        return dataclasses.replace(
            self,
            texts=tuple(self.texts[i] for i in chosen),
            pairs=pick(self.pairs),
            labels=None if self.labels is None else self.labels[chosen],
            weights=None if self.weights is None else self.weights[chosen],
        )

    def unlabelled(self) -> Self:
        """The same without labels."""
        return dataclasses.replace(self, labels=None, weights=None, task=None)

    def plain(self) -> Examples:
        """Its texts, or pairs of them, and nothing that a task is about.

        Example:
          >>> Examples(("good",), task="text-classification").plain() == Examples(("good",))
          True
        """
        return Examples(self.texts, self.pairs, source=self.source)

    def strings(self) -> tuple[Sequence[str] | None, ...]:
        """All texts in it, which with the labels make its fingerprint."""
        return self.texts, self.pairs, self.label_names

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of texts, labels, their names and weights; not of where they came from."""
        digest = hashlib.sha256()
        for strings in self.strings():
            encoded = None if strings is None else [s.encode() for s in strings]
            # The lengths go in too: ("ab", "c") and ("a", "bc") must differ.
            digest.update(repr(encoded and [len(e) for e in encoded]).encode())
            digest.update(b"".join(encoded or ()))
        for numbers in (self.labels, self.weights):
            if numbers is not None:
                digest.update(str(numbers.dtype).encode() + numbers.tobytes())
        return digest.hexdigest()


class Column(NamedTuple):
    """The values of one column, and where they are, for messages."""

    values: list[Any]
    where: str


def load_texts(
    source: Any,
    *,
    text_column: str = "text",
    text_pair_column: str | None = None,
    split: str | None = None,
) -> Examples:
    """Texts, or pairs of texts, without labels; arguments and errors as `read_columns`.

    Example:
      >>> load_texts({"text": ["a good film", "dull"]}).texts
      ('a good film', 'dull')
    """
    wanted = {"text_column": text_column, "text_pair_column": text_pair_column}
    columns, name = read_columns(source, wanted, split)
    return texts_of(columns, name)


def read_columns(
    source: Any, wanted: Mapping[str, str | None], split: str | None = None
) -> tuple[dict[str, Column], str]:
    """({argument: column}, name of the source) of the columns that are asked for.

    Args:
      source, split: as in `tables.read_table`: a file, a `datasets` hub id, or memory.
      wanted: {argument: name of its column}, for messages; None = not wanted.

    Raises:
      InputError: content that cannot be used; FileNotFoundError: no such file; ConnectionError: the
        hub did not answer. All in one line.

    Example:
      >>> table = {"review": ["good", "dull"], "stars": [5, 1]}
      >>> columns, name = read_columns(table, {"text_column": "review", "label_column": None})
      >>> columns["text_column"].values
      ['good', 'dull']
    """
    table, name = read_table(source, split)
    return columns_of(table, name, wanted), name


def columns_of(table: Columns, name: str, wanted: Mapping[str, str | None]) -> dict[str, Column]:
    """Of a table that is read already, otherwise as `read_columns`.

    Args:
      name: what to call the table in a message.

    Example:
      >>> columns_of({"text": ["good"]}, "films", {"text_column": "text"})["text_column"].where
      "films: column 'text'"
    """
    named = {argument: column for argument, column in wanted.items() if column is not None}
    twice = [a for a, column in named.items() if list(named.values()).count(column) > 1]
    if twice:
        raise InputError(
            f"{name}: {' and '.join(twice)} are both {named[twice[0]]!r}: name different columns"
        )
    _check_columns(table, named, name)
    found = {
        argument: Column(values_of(table[column]), f"{name}: column {column!r}")
        for argument, column in named.items()
    }
    _check_lengths(found, name)
    return found


def texts_of(columns: Mapping[str, Column], name: str) -> Examples:
    """The texts of `text_column`, and of `text_pair_column` where it is there.

    Example:
      >>> columns, name = read_columns({"text": ["good", "dull"]}, {"text_column": "text"})
      >>> len(texts_of(columns, name))
      2
    """
    texts = _texts(columns["text_column"])
    pair = columns.get("text_pair_column")
    return Examples(texts, None if pair is None else _texts(pair), source=name)


def values_of(column: Any) -> list[Any]:
    """Of a column of a table, whatever holds them.

    Example:
      >>> values_of(np.array([1, 2]))
      [1, 2]
    """
    for method in ("to_pylist", "tolist"):  # pyarrow; numpy and pandas
        if hasattr(column, method):
            return getattr(column, method)()
    return [value.item() if isinstance(value, np.generic) else value for value in column]


def _check_columns(columns: Columns, wanted: Mapping[str, str], name: str) -> None:
    missing = {argument: column for argument, column in wanted.items() if column not in columns}
    if not missing:
        return
    lower = {str(column).lower(): column for column in columns}
    parts = []
    for argument, column in missing.items():
        close = difflib.get_close_matches(column.lower(), lower, 1)
        hint = f"; did you mean {lower[close[0]]!r}?" if close else ""
        parts.append(f"{column!r} ({argument}{hint})")
    headless = isinstance(columns, Headed) and len(missing) == len(wanted)
    raise InputError(
        f"{name} has no column {' and no column '.join(parts)}; its columns are "
        f"{some(map(repr, columns), 20)}{NO_HEADER if headless else ''}"
    )


def _check_lengths(columns: Mapping[str, Column], name: str) -> None:
    lengths = {argument: len(column.values) for argument, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{name}: columns of different lengths, {lengths}: make them equal")
    if not any(lengths.values()):
        raise InputError(f"{name} holds no examples: there must be at least one")


def _texts(column: Column) -> tuple[str, ...]:
    values, where = column
    refuse(where, "no text", [i for i, v in enumerate(values) if v is None], "fill or delete it")
    other = [i for i, v in enumerate(values) if not isinstance(v, str)]
    kind = type(values[other[0]]).__name__ if other else ""
    refuse(where, f"{kind} where text is wanted", other, "name another column or convert it")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        broken = [i for i, v in enumerate(values) if v.encode(errors="ignore").decode() != v]
        refuse(where, "half a surrogate pair, which is no text,", broken, "mend or delete it")
    return tuple(values)


def refuse(where: str, what: str, rows: list[int], remedy: str) -> None:
    """InputError of what is wrong with these rows of a column, if there are any."""
    if rows:
        shown = some(str(i + 1) for i in rows)
        raise InputError(f"{where} has {what} in data row {shown} (counted from 1): {remedy}")
