"""Columns of text and labels as `Examples`: what is a class, what a number, what is missing.

Nothing is guessed and nothing dropped: a row that cannot be used is an error of one line that names
the source, the column, the row and what to do.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxbert.data.tables import Columns, read_table, some

CLASSIFICATION = "single_label_classification"
REGRESSION = "regression"

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Examples:
    """N texts, or pairs of texts, with or without labels.

    texts, pairs: N strings each; pairs None for single texts.
    labels: [N] int32 indices into `label_names`, or [N] float32 for regression; None without.
    problem_type: "single_label_classification", "regression", or None without labels.
    source: where they came from, for messages.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    problem_type: str | None = None
    source: str = "memory"

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of texts, pairs, labels and label names; not of where they came from."""
        digest = hashlib.sha256()
        for strings in (self.texts, self.pairs, self.label_names):
            encoded = None if strings is None else [s.encode() for s in strings]
            # The lengths go in too: ("ab", "c") and ("a", "bc") must differ.
            digest.update(repr(encoded and [len(e) for e in encoded]).encode())
            digest.update(b"".join(encoded or ()))
        if self.labels is not None:
            digest.update(str(self.labels.dtype).encode() + self.labels.tobytes())
        return digest.hexdigest()


def load_examples(
    source: Any,
    *,
    text_column: str = "text",
    text_pair_column: str | None = None,
    label_column: str | None = None,
    split: str | None = None,
    label_names: Sequence[str] | None = None,
    problem_type: str | None = None,
) -> Examples:
    """Reads examples from a file, a `datasets` hub id, or memory.

    Labels that are whole numbers or text are classes, in numeric or alphabetic order; a column with
    a decimal point anywhere is a regression target.

    Args:
      source, split: as in `tables.read_table`.
      label_column: None reads no labels.
      label_names: the classes of the model at hand; labels are mapped onto them.
      problem_type: that of the model at hand; None decides by the labels.

    Raises:
      ValueError: content that cannot be used; FileNotFoundError: no such file; ConnectionError: the
        hub did not answer. All in one line.
    """
    columns, name = read_table(source, split)
    wanted = {
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "label_column": label_column,
    }
    wanted = {argument: column for argument, column in wanted.items() if column is not None}
    _check_columns(columns, wanted, name)
    values = {argument: _as_list(columns[column]) for argument, column in wanted.items()}
    _check_lengths(values, name)
    where = {argument: f"{name}: column {column!r}" for argument, column in wanted.items()}
    texts, pairs = (
        _texts(values[argument], where[argument]) if argument in values else None
        for argument in ("text_column", "text_pair_column")
    )
    if label_column is None:
        return Examples(texts, pairs, source=name)
    labels, names, problem_type = _labels(
        values["label_column"], label_names, problem_type, where["label_column"]
    )
    return Examples(texts, pairs, labels, names, problem_type, name)


def _as_list(column: Any) -> list[Any]:
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
    raise ValueError(
        f"{name} has no column {' and no column '.join(parts)}; its columns are "
        f"{some(map(repr, columns), 20)}"
    )


def _check_lengths(values: Mapping[str, list[Any]], name: str) -> None:
    lengths = {argument: len(column) for argument, column in values.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{name}: columns of different lengths, {lengths}: make them equal")
    if not lengths["text_column"]:
        raise ValueError(f"{name} holds no examples: there must be at least one")


def _texts(values: list[Any], where: str) -> tuple[str, ...]:
    _refuse(where, "no text", [i for i, v in enumerate(values) if v is None], "fill or delete it")
    other = [i for i, v in enumerate(values) if not isinstance(v, str)]
    kind = type(values[other[0]]).__name__ if other else ""
    _refuse(where, f"{kind} where text is wanted", other, "name another column or convert it")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        broken = [i for i, v in enumerate(values) if v.encode(errors="ignore").decode() != v]
        _refuse(where, "half a surrogate pair, which is no text,", broken, "mend or delete it")
    return tuple(values)


def _labels(
    values: list[Any], label_names: Sequence[str] | None, problem_type: str | None, where: str
) -> tuple[np.ndarray, tuple[str, ...] | None, str]:
    if problem_type not in (None, CLASSIFICATION, REGRESSION):
        raise ValueError(f"{problem_type=}: want {CLASSIFICATION!r} or {REGRESSION!r}")
    texts = _label_texts(values, where)
    if problem_type is None:
        decimal = any(_NUMBER.fullmatch(t) and not _INTEGER.fullmatch(t) for t in texts)
        problem_type = REGRESSION if decimal and not label_names else CLASSIFICATION
    if problem_type == REGRESSION:
        return _numbers(texts, where), None, problem_type
    names = tuple(label_names) if label_names else _class_names(texts, where)
    return _class_indices(texts, names, where), names, problem_type


def _label_texts(values: list[Any], where: str) -> list[str]:
    """Labels as text, whole numbers in their shortest form; refuses missing ones and lists."""
    other = [i for i, v in enumerate(values) if not isinstance(v, str | int | float | None)]
    kind = type(values[other[0]]).__name__ if other else ""
    _refuse(where, f"{kind} where one label is wanted", other, "name another column")
    texts = [_label_text(value) for value in values]
    missing = [i for i, text in enumerate(texts) if not text]
    _refuse(where, "no label", missing, "fill or delete it, or leave the label column out")
    return texts


def _label_text(value: str | float | None) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    text = str(value).strip()
    return str(int(text)) if _INTEGER.fullmatch(text) else text


def _numbers(texts: list[str], where: str) -> np.ndarray:
    bad = [i for i, text in enumerate(texts) if not _NUMBER.fullmatch(text)]
    shown = repr(texts[bad[0]]) if bad else ""
    _refuse(where, f"{shown} where decimals elsewhere make it a regression target,", bad, "mend it")
    return np.array([float(text) for text in texts], np.float32)


def _class_names(texts: list[str], where: str) -> tuple[str, ...]:
    names = set(texts)
    if len(names) == 1:
        raise ValueError(f"{where} holds one label only, {texts[0]!r}: want at least two classes")
    if all(_NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))


def _class_indices(texts: list[str], names: Sequence[str], where: str) -> np.ndarray:
    index = {name: i for i, name in enumerate(names)}
    for i, name in enumerate(names):
        if name == f"LABEL_{i}":  # what Hugging Face calls classes without names
            index.setdefault(str(i), i)
    unknown = dict.fromkeys(text for text in texts if text not in index)
    if unknown:
        raise ValueError(
            f"{where} has labels the model does not know: {some(map(repr, unknown))}; it knows "
            f"{some(map(repr, names), 20)}"
        )
    return np.array([index[text] for text in texts], np.int32)


def _refuse(where: str, what: str, rows: list[int], remedy: str) -> None:
    if rows:
        shown = some(str(i + 1) for i in rows)
        raise ValueError(f"{where} has {what} in data row {shown} (counted from 1): {remedy}")
