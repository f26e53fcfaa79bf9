"""Which of several continuations of a context, or answers to a question, is the right one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from jaxbert.data import Examples, Form, Tokenized, encode, texts_of
from jaxbert.data.sources import Column, columns_of, refuse
from jaxbert.data.tables import Columns, Table, some
from jaxbert.errors import InputError
from jaxbert.models import EncoderConfig
from jaxbert.models.heads import ForMultipleChoice
from jaxbert.models.outputs import ClassifierOutput
from jaxbert.tasks import losses
from jaxbert.tasks.losses import SumAndCount
from jaxbert.tasks.options import MULTIPLE_CHOICE, TaskOptions
from jaxbert.tasks.task import Batch, Predicted, Task
from jaxbert.tasks.text_classification import probabilities

COLUMNS = {
    "context_column": "context",
    "question_column": "question",
    "choices_column": "choices",
    "label_column": "label",
}
# As SWAG calls them; its choices are ending0, ending1, ...
_SWAG = {"context_column": "sent1", "question_column": "sent2", "choices_column": "ending"}
_OPTIONAL = ("context_column", "question_column")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Questions(Examples):
    """N questions with choices.

    texts: the contexts, or the questions of a table without contexts.
    pairs: the questions where there are contexts too, or None.
    labels: [N] int32, which of a question's choices is right, from 0.
    choices: of each question, two or more.

    Example:
      >>> one = Questions(("Where do fish live?",), choices=(("in trees", "in water"),))
      >>> one.rows(0)
      [('Where do fish live?', 'in trees'), ('Where do fish live?', 'in water')]
    """

    choices: tuple[tuple[str, ...], ...] = ()

    def take(self, chosen: np.ndarray) -> Self:
        """The examples at these places, in this order."""
        return dataclasses.replace(
            super().take(chosen), choices=tuple(self.choices[i] for i in chosen)
        )

    def strings(self) -> tuple[Sequence[str] | None, ...]:
        """All texts in it, and how many choices each question has."""
        counts = [str(len(choices)) for choices in self.choices]
        return *super().strings(), tuple(itertools.chain.from_iterable(self.choices)), counts

    def plain(self) -> Examples:
        """What the model reads of all choices."""
        texts, pairs = zip(*(pair for i in range(len(self)) for pair in self.rows(i)), strict=True)
        return Examples(texts, pairs, source=self.source)

    def rows(self, number: int) -> list[tuple[str, str]]:
        """What the model reads of a question: for each choice a pair of texts.

        With a context and a question it is (context, question and choice), as in Hugging Face's
        examples for SWAG and RACE.
        """
        start = "" if self.pairs is None else f"{self.pairs[number]} "
        return [(self.texts[number], start + choice) for choice in self.choices[number]]


def read_questions(
    table: Table,
    columns: Mapping[str, str | None],
    *,
    labelled: bool = True,
    label_names: Sequence[str] | None = None,
) -> Questions:
    """Questions with their choices and, with `labelled`, which is right.

    The choices are a column of lists of texts or, where there is no such column, columns of that
    name with 0, 1, ... behind it. The right one is its number from 0, its letter from A, or its
    text, and all rows say it alike.

    Args:
      columns: {argument: the column's name}, those of `COLUMNS`; SWAG's names need not be given.
    """
    del label_names
    wanted = _there(table, columns)
    column, label = wanted.pop("choices_column"), wanted.pop("label_column")
    many = [] if column in table.columns else _numbered(table.columns, column)
    lists: dict[str, str | None] = {f"choice {name}": name for name in many}
    lists = lists or {"choices_column": column}
    found = columns_of(
        table.columns, table.name, {**wanted, **lists, "label_column": label if labelled else None}
    )
    texts = [found[name] for name in _OPTIONAL if name in found]
    roles = dict(zip(("text_column", "text_pair_column"), texts, strict=False))
    examples = texts_of(roles, table.name)
    given = (
        _joined([found[name] for name in lists], table.name) if many else found["choices_column"]
    )
    choices, names = _choices(given)
    asked = Questions(examples.texts, examples.pairs, source=table.name, choices=choices)
    if "label_column" not in found:
        return asked
    labels, how = _answers(found["label_column"], choices, names)
    return dataclasses.replace(
        asked,
        labels=labels,
        task=MULTIPLE_CHOICE,
        reason=f"{given.where} holds choices, {found['label_column'].where} {how} of the right one",
    )


def _there(table: Table, columns: Mapping[str, str | None]) -> dict[str, str | None]:
    """The columns that are to be read, those that nobody has to have only where they are there."""
    wanted, there = dict(columns), table.columns
    if (
        all(wanted[name] == COLUMNS[name] for name in _SWAG)
        and COLUMNS["choices_column"] not in there
    ):
        swag = {name: column for name, column in _SWAG.items() if name != "choices_column"}
        if set(swag.values()) <= there.keys() and _numbered(there, _SWAG["choices_column"]):
            wanted |= _SWAG
    for name in _OPTIONAL:
        if wanted[name] == COLUMNS[name] and wanted[name] not in there:
            wanted[name] = None
    if not any(wanted[name] for name in _OPTIONAL):
        raise InputError(
            f"{table.name} has neither a column 'question' nor a column 'context'; its columns are "
            f"{some(map(repr, there), 20)}: name them with question_column, context_column"
        )
    return wanted


def _numbered(columns: Columns, name: str | None) -> list[str]:
    """The columns called `name` with 0, 1, ... behind it; none where there are not two."""
    found = list(
        itertools.takewhile(columns.__contains__, (f"{name}{i}" for i in itertools.count()))
    )
    return found if len(found) > 1 else []


def _joined(columns: Sequence[Column], name: str) -> Column:
    """Columns of a choice each as one of lists; what is empty is no choice."""
    rows = zip(*(column.values for column in columns), strict=True)
    lists = [[value for value in row if value not in (None, "")] for row in rows]
    first, last = (
        columns[0].where.rpartition("column ")[2],
        columns[-1].where.rpartition("column ")[2],
    )
    return Column(lists, f"{name}: columns {first} to {last}")


def _choices(
    column: Column,
) -> tuple[tuple[tuple[str, ...], ...], list[Sequence[Any]] | None]:
    """(the choices of each question, what the data call them where it says).

    Some data of the hub have {"text": [...], "label": [...]} in the place of a list.
    """
    values, where = column
    named = all(
        isinstance(value, Mapping) and {"text", "label"} <= value.keys() for value in values
    )
    names = [value["label"] for value in values] if named else None
    lists = [value["text"] for value in values] if named else values
    other = [i for i, v in enumerate(lists) if not isinstance(v, list | tuple | np.ndarray)]
    kind = type(lists[other[0]]).__name__ if other else ""
    remedy = "want a list of texts in each row (jsonl, parquet, hub), or columns of one choice each"
    refuse(where, f"{kind} where choices are wanted", other, f"{remedy}: choices0, choices1, ...")
    few = [i for i, choices in enumerate(lists) if len(choices) < 2]
    refuse(where, "fewer than two choices", few, "add some or delete it")
    bad = [i for i, choices in enumerate(lists) if not all(isinstance(c, str) for c in choices)]
    refuse(where, "a choice that is no text", bad, "convert or delete it")
    broken = [i for i, choices in enumerate(lists) if any(map(_is_broken, choices))]
    refuse(where, "half a surrogate pair, which is no text,", broken, "mend or delete it")
    return tuple(tuple(choices) for choices in lists), names


def _is_broken(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)


def _answers(
    column: Column, choices: Sequence[Sequence[str]], names: list[Sequence[Any]] | None
) -> tuple[np.ndarray, str]:
    """([N] int32, how the column says it)."""
    values, where = [_plain(value) for value in column.values], column.where
    missing = [i for i, value in enumerate(values) if value in (None, "", -1)]
    refuse(where, "no label", missing, "fill or delete it, or leave the label column out")
    readings: dict[str, list[int | None]] = {}
    if names is not None:
        readings["the name"] = [_place(v, n) for v, n in zip(values, names, strict=True)]
    for how, read in _READINGS.items():
        readings[how] = [read(v, c) for v, c in zip(values, choices, strict=True)]
    whole = {how: found for how, found in readings.items() if None not in found}
    if not whole:
        found = max(readings.values(), key=lambda found: sum(one is not None for one in found))
        rows = [i for i, one in enumerate(found) if one is None]
        what = f"{values[rows[0]]!r}, which is no choice's number from 0, letter or text,"
        refuse(where, what, rows, "mend it; all rows must say it alike")
    how, first = next(iter(whole.items()))
    for other, found in whole.items():
        differ = [i for i, pair in enumerate(zip(first, found, strict=True)) if pair[0] != pair[1]]
        if differ and how != "the name":
            raise InputError(
                f"{where} can be {how} or {other} of the right choice, which differ in data row "
                f"{differ[0] + 1} (counted from 1): say it by letters, or by numbers in JSON"
            )
    return np.array(first, np.int32), how


def _plain(value: Any) -> Any:
    """A label as a whole number or text; None where it is none."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None if value != value else value
    return value.strip() if isinstance(value, str) else value


def _place(value: Any, among: Sequence[Any]) -> int | None:
    """Where the value is among these, once."""
    places = [i for i, one in enumerate(among) if one == value]
    return places[0] if len(places) == 1 else None


def _by_number(value: Any, choices: Sequence[str]) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    is_one = isinstance(value, int) and not isinstance(value, bool)
    return value if is_one and 0 <= value < len(choices) else None


def _by_letter(value: Any, choices: Sequence[str]) -> int | None:
    return _place(value.upper(), _LETTERS[: len(choices)]) if isinstance(value, str) else None


def _by_text(value: Any, choices: Sequence[str]) -> int | None:
    return _place(value, [choice.strip() for choice in choices])


_READINGS: dict[str, Callable[[Any, Sequence[str]], int | None]] = {
    "the number": _by_number,
    "the letter": _by_letter,
    "the text": _by_text,
}


def _encode(
    examples: Examples, tokenizer: Any, max_length: int, cache_dir: str | Path | None = None
) -> Tokenized:
    """Each choice is a feature, those of a question are a unit."""
    if not isinstance(examples, Questions):
        raise InputError(
            f"{examples.source}: multiple choice takes questions with choices, not texts: read "
            "them with load_examples(..., task='multiple-choice')"
        )
    pairs = [pair for i in range(len(examples)) for pair in examples.rows(i)]
    found = encode(
        pairs, Form(pairs=True), tokenizer, max_length, source=examples.source, cache_dir=cache_dir
    )
    counts = [len(choices) for choices in examples.choices]
    return dataclasses.replace(
        found,
        labels=examples.labels,
        label_layout="choice",
        example_of=np.repeat(np.arange(len(counts)), counts),
        units=np.concatenate([[0], np.cumsum(counts)]),
    )


def _loss(outputs: ClassifierOutput, batch: Batch, smoothing: float) -> SumAndCount:
    return losses.choice(outputs.logits, batch["labels"], batch["weights"], smoothing=smoothing)


def choice_logits(predicted: Predicted) -> np.ndarray:
    """[N, W]: of each question's choices, -inf where it has no more."""
    logits, units = predicted.results["logits"], predicted.tokenized.features_of
    counts = np.diff(units)
    table = np.full((len(counts), counts.max()), -np.inf, np.float32)
    table[np.arange(table.shape[1]) < counts[:, None]] = logits
    return table


def _score(config: EncoderConfig, predicted: Predicted) -> dict[str, float]:
    del config
    guesses = choice_logits(predicted).argmax(axis=1)
    return {"accuracy": float((guesses == predicted.examples.labels).mean())}


def _decode(config: EncoderConfig, predicted: Predicted) -> list[dict[str, Any]]:
    del config
    asked = predicted.examples
    assert isinstance(asked, Questions), "encode has seen to it"
    shares = probabilities(choice_logits(predicted))
    return [
        {
            "choice": int(row.argmax()),
            "text": choices[int(row.argmax())],
            "probabilities": row[: len(choices)].tolist(),
        }
        for row, choices in zip(shares, asked.choices, strict=True)
    ]


def multiple_choice(options: TaskOptions) -> Task:
    """Which of several continuations of a context, or answers to a question, is the right one."""
    del options
    return Task(
        name=MULTIPLE_CHOICE,
        head=ForMultipleChoice,
        columns=COLUMNS,
        signatures=(
            frozenset({"question", "choices"}),
            frozenset({"context", "choices"}),
            frozenset({"sent1", "sent2", "ending0", "ending1"}),
        ),
        read=read_questions,
        encode=_encode,
        target=lambda examples: {},
        configure=lambda config, examples: config,
        loss=_loss,
        score=_score,
        decode=_decode,
        metrics={"accuracy": True},
        label_layout="choice",
    )
