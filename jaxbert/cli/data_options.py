"""Which data a command reads: columns and splits. Imports no jax."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from jaxbert.settings import check_choices, check_kinds, fields_of, kind_of, setting

_data = functools.partial(setting, group="data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
    """Settings whose plain values are of their fields' types; lists, as JSON has them, tuples."""

    def __post_init__(self) -> None:
        for name, (_, hint) in fields_of(type(self)).items():
            kind, value = kind_of(hint), getattr(self, name)
            if kind is not None and kind.repeated and isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        check_kinds(self)
        check_choices(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns(Checked):
    """Which columns of the data are read, by the names that tasks have for them.

    None = as the task calls it. Each says which tasks have it: others refuse it.
    """

    text_column: str | None = _data("column of the text (text)", default=None)
    text_pair_column: str | None = _data("column of the second text of a pair", default=None)
    label_column: str | None = _data("column of the label (label)", default=None)
    label_columns: tuple[str, ...] = _data("column of 0 and 1 of a label; repeatable", default=())
    context_column: str | None = _data("column of what a question is about (context)", default=None)
    question_column: str | None = _data("column of the question (question)", default=None)
    answers_column: str | None = _data("column of the answers (answers)", default=None)
    id_column: str | None = _data("column of the questions' names (id, if any)", default=None)
    choices_column: str | None = _data("column of the lists of choices (choices)", default=None)
    tokens_column: str | None = _data("column of a sentence's words (tokens)", default=None)
    tags_column: str | None = _data("column of the words' tags (tags)", default=None)
    header: bool = _data("csv, tsv begin with the columns' names; else 1, 2, ...", default=True)

    def given(self) -> dict[str, Any]:
        """Those that are not left to the task, as `load_examples` takes them."""
        values = dataclasses.asdict(self)
        header = {} if values.pop("header") else {"header": False}
        return {name: value for name, value in values.items() if value} | header


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splits(Checked):
    """Which splits of data sets from the hub are read; files have none."""

    train_split: str | None = _data("split of --train, for a hub data set", default=None)
    eval_split: str | None = _data("split of --eval, for a hub data set", default=None)
    test_split: str | None = _data("split of every --test, for hub data sets", default=None)
