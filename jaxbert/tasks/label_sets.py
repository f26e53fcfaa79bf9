"""Several labels for a text, or shares of classes: a column of lists, or columns of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxbert.data.sources import Column, refuse
from jaxbert.data.tables import some
from jaxbert.errors import InputError
from jaxbert.tasks.labels import (
    Labels,
    class_index,
    in_order,
    label_text,
    number_of,
    refuse_unknown,
)
from jaxbert.tasks.options import MULTI_LABEL, TEXT_CLASSIFICATION

_LISTS = list | tuple | np.ndarray
_WORDS = {"true": 1.0, "false": 0.0}
_SUM = 2e-3  # how far from 1 shares may add up: they have three digits at least


def holds_lists(column: Column) -> bool:
    """Whether every row that has something in the column has a list."""
    values = [value for value in column.values if value is not None]
    return bool(values) and all(isinstance(value, _LISTS) for value in values)


def read_lists(column: Column, label_names: Sequence[str] | None, task: str | None) -> Labels:
    """A column of lists: of the labels that a text has, or of a share for each class.

    Args:
      label_names: those of the model at hand.
      task: which of the two; None = shares where there is a number with a decimal point.

    Raises:
      InputError: lists that are neither.
    """
    values, where = column
    missing = [i for i, value in enumerate(values) if value is None]
    remedy = "write [] where a text has no label, or delete it"
    refuse(where, "no list", missing, remedy)
    other = [i for i, value in enumerate(values) if not isinstance(value, _LISTS)]
    kind = type(values[other[0]]).__name__ if other else ""
    remedy = "want one in each row (jsonl, parquet, hub), or a column of 0 and 1 for each label, "
    refuse(where, f"{kind} where a list is wanted", other, f"{remedy}named by label_columns")
    lists = [v.tolist() if isinstance(v, np.ndarray) else list(v) for v in values]
    if task is None:
        shares = any(isinstance(one, float) for row in lists for one in row)
        task = TEXT_CLASSIFICATION if shares else MULTI_LABEL
    if task == MULTI_LABEL:
        return _sets(lists, where, label_names)
    return _shares(lists, where, label_names)


def read_label_columns(
    columns: Mapping[str, Column], label_names: Sequence[str] | None, task: str | None, name: str
) -> Labels:
    """A column for each label: of 0 and 1, or of the label's share.

    Args:
      columns: {label: its column}.
      label_names: those of the model at hand, whose order counts.
      task: shares are for text classification; None = they are 0 and 1, and say what a text has.
      name: of the table.

    Raises:
      InputError: other labels than the model's; what is no such number.
    """
    names = tuple(label_names or columns)
    if set(names) != set(columns):
        raise InputError(
            f"{name}: label_columns are {some(map(repr, columns), 20)}, the model's labels "
            f"{some(map(repr, names), 20)}: they must be the same"
        )
    values = np.stack([_numbers(columns[label]) for label in names], axis=1)
    where = f"{name}: columns {some(map(repr, names))}"
    if task == TEXT_CLASSIFICATION:
        _check_shares(values, where)
        return Labels(values, names, task, f"{where} hold shares that add to 1")
    for column, label in enumerate(names):
        rows = np.flatnonzero(~np.isin(values[:, column], (0, 1))).tolist()
        shown = f"{values[rows[0], column]:g}" if rows else ""
        remedy = f"mend it, or name task {TEXT_CLASSIFICATION} for shares that add to 1"
        refuse(columns[label].where, f"{shown} where 0 or 1 is wanted", rows, remedy)
    reason = f"{where} hold 0 and 1"
    if (values.sum(axis=1) == 1).all():
        reason += f"; each row has one 1, task {TEXT_CLASSIFICATION} makes classes of them"
    return Labels(values, names, MULTI_LABEL, reason)


def _sets(lists: list[list[Any]], where: str, label_names: Sequence[str] | None) -> Labels:
    """Which labels each text has, by their names."""
    good = str | int | float
    other = [i for i, row in enumerate(lists) if not all(isinstance(v, good) for v in row)]
    refuse(where, "something else than names of labels", other, "want a list of texts")
    texts = [[label_text(value) for value in row] for row in lists]
    empty = [i for i, row in enumerate(texts) if not all(row)]
    refuse(where, "a label without a name", empty, "fill or delete it")
    twice = [i for i, row in enumerate(texts) if len(set(row)) < len(row)]
    remedy = "delete one; if it is 0 or 1 for each label, make columns of them: label_columns"
    refuse(where, "a label twice", twice, remedy)
    there = {text for row in texts for text in row}
    if not there and not label_names:
        raise InputError(f"{where} has only empty lists: want labels in some of them")
    names = tuple(label_names) if label_names else in_order(there)
    index = class_index(names)
    refuse_unknown((text for row in texts for text in row), index, names, where)
    values = np.zeros((len(texts), len(names)), np.float32)
    for i, row in enumerate(texts):
        values[i, [index[text] for text in row]] = 1
    return Labels(values, names, MULTI_LABEL, f"{where} holds lists of labels")


def _shares(lists: list[list[Any]], where: str, label_names: Sequence[str] | None) -> Labels:
    """How much of each class a text is."""
    count = len(label_names or lists[0])
    bad = [i for i, row in enumerate(lists) if len(row) != count]
    shown = f"{len(lists[bad[0]])} numbers" if bad else ""
    refuse(where, f"{shown} where {count} are wanted, one for each class,", bad, "mend it")
    if count < 2:
        raise InputError(f"{where} has one share a row: want one for each of two or more classes")
    numbers = [_numbers(Column(row, where), i) for i, row in enumerate(lists)]
    values = np.stack(numbers)
    _check_shares(values, where)
    names = tuple(label_names) if label_names else tuple(map(str, range(count)))
    return Labels(values, names, TEXT_CLASSIFICATION, f"{where} holds shares that add to 1")


def _check_shares(values: np.ndarray, where: str) -> None:
    below = np.flatnonzero((values < 0).any(axis=1)).tolist()
    refuse(where, "a share below 0", below, "want shares that add to 1")
    sums = values.sum(axis=1, dtype=np.float64)
    bad = np.flatnonzero(np.abs(sums - 1) > _SUM).tolist()
    shown = f"{sums[bad[0]]:.4g}" if bad else ""
    remedy = f"want 1; task {MULTI_LABEL} takes any number of labels a text, each 0 or 1"
    refuse(where, f"shares that add to {shown}", bad, remedy)


def _numbers(column: Column, row: int | None = None) -> np.ndarray:
    """A column of numbers, or a row of them; true and false are 1 and 0."""
    found = [_number(value) for value in column.values]
    bad = [i for i, one in enumerate(found) if one is None]
    shown = repr(column.values[bad[0]]) if bad else ""
    rows = bad if row is None else [row] * bool(bad)
    refuse(column.where, f"{shown} where a number is wanted", rows, "want 0 and 1, or shares")
    return np.array(found, np.float32)


def _number(value: Any) -> float | None:
    text = label_text(value).lower() if isinstance(value, str | int | float) else ""
    return _WORDS.get(text, number_of(text))
