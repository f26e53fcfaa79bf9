"""A column of labels as numbers: which task they are for, and which classes there are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxbert.data.sources import Column, refuse
from jaxbert.data.tables import some
from jaxbert.errors import InputError
from jaxbert.tasks.options import TEXT_CLASSIFICATION, TEXT_REGRESSION

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Labels(NamedTuple):
    """What `Examples` say of their labels."""

    labels: np.ndarray
    label_names: tuple[str, ...] | None
    task: str
    reason: str


def read_labels(column: Column, label_names: Sequence[str] | None, task: str | None) -> Labels:
    """A column as classes or, where it has a decimal point anywhere, as regression targets.

    Classes are whole numbers or text, in numeric or alphabetic order.

    Args:
      label_names: the classes of the model at hand; labels are mapped onto them.
      task: decides; None = the labels do.

    Raises:
      InputError: labels that are missing, of no use, or unknown.
    """
    texts, where = _label_texts(*column), column.where
    task, reason = (task, "as asked for") if task else _decide(texts, where, bool(label_names))
    if task == TEXT_REGRESSION:
        return Labels(_numbers(texts, where), None, task, reason)
    names = tuple(label_names) if label_names else _class_names(texts, where)
    return Labels(_class_indices(texts, names, where), names, task, reason)


def _decide(texts: list[str], where: str, named: bool) -> tuple[str, str]:
    """(the task that labels are for, why)."""
    if named:
        return TEXT_CLASSIFICATION, "the classes' names are given"
    numbers = [_NUMBER.fullmatch(text) is not None for text in texts]
    decimal = [i for i, text in enumerate(texts) if numbers[i] and not _INTEGER.fullmatch(text)]
    if not decimal:
        kind = "whole numbers" if all(numbers) else "names"
        return TEXT_CLASSIFICATION, f"{where} holds {kind}"
    reason = (
        f"{where} holds numbers with a decimal point, {texts[decimal[0]]} in data row "
        f"{decimal[0] + 1} for one"
    )
    if all(numbers) and all(float(text).is_integer() for text in texts):
        reason += f"; they are whole, task {TEXT_CLASSIFICATION} makes classes of them"
    return TEXT_REGRESSION, reason


def _label_texts(values: list[Any], where: str) -> list[str]:
    """Labels as text, whole numbers in their shortest form; refuses missing ones and lists."""
    other = [i for i, v in enumerate(values) if not isinstance(v, str | int | float | None)]
    kind = type(values[other[0]]).__name__ if other else ""
    refuse(where, f"{kind} where one label is wanted", other, "name another column")
    texts = [label_text(value) for value in values]
    missing = [i for i, text in enumerate(texts) if not text]
    refuse(where, "no label", missing, "fill or delete it, or leave the label column out")
    # What spreadsheets and pandas write where there is nothing.
    nothing = [i for i, text in enumerate(texts) if text.lower() == "nan"]
    shown = repr(texts[nothing[0]]) if nothing else ""
    remedy = "fill or delete it, or give the class another name if it is one"
    refuse(where, f"{shown}, which stands for no label,", nothing, remedy)
    return texts


def label_text(value: str | float | None) -> str:
    """A label as text, whole numbers in their shortest form; empty where it is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    text = str(value).strip()
    short = len(text) < 1000  # Python makes no number of some thousand digits
    return str(int(text)) if short and _INTEGER.fullmatch(text) else text


def _numbers(texts: list[str], where: str) -> np.ndarray:
    bad = [i for i, text in enumerate(texts) if not _NUMBER.fullmatch(text)]
    shown = repr(texts[bad[0]]) if bad else ""
    refuse(where, f"{shown} where decimals elsewhere make it a regression target,", bad, "mend it")
    values = [float(text) for text in texts]
    largest = float(np.finfo(np.float32).max)
    far = [i for i, value in enumerate(values) if abs(value) > largest]
    shown = texts[far[0]] if far else ""
    refuse(where, f"{shown}, which is beyond what 32 bits hold,", far, "mend or scale it")
    return np.array(values, np.float32)


def number_of(text: str) -> float | None:
    """The number that a label is; None where it is none."""
    return float(text) if _NUMBER.fullmatch(text) else None


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Different names in numeric order or, where one is no number, in that of the alphabet."""
    names = set(names)
    if all(_NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))


def class_index(names: Sequence[str]) -> dict[str, int]:
    """{what a label may be called: its index}."""
    index = {name: i for i, name in enumerate(names)}
    for i, name in enumerate(names):
        if name == f"LABEL_{i}":  # what Hugging Face calls classes without names
            index.setdefault(str(i), i)
    return index


def refuse_unknown(
    texts: Iterable[str], index: Mapping[str, int], names: Sequence[str], where: str
) -> None:
    """InputError of the labels that are not in the index, if there are any."""
    unknown = dict.fromkeys(text for text in texts if text not in index)
    if unknown:
        raise InputError(
            f"{where} has labels the model does not know: {some(map(repr, unknown))}; it knows "
            f"{some(map(repr, names), 20)}"
        )


def _class_names(texts: list[str], where: str) -> tuple[str, ...]:
    if len(set(texts)) == 1:
        raise InputError(f"{where} holds one label only, {texts[0]!r}: want at least two classes")
    return in_order(texts)


def _class_indices(texts: list[str], names: Sequence[str], where: str) -> np.ndarray:
    index = class_index(names)
    refuse_unknown(texts, index, names, where)
    return np.array([index[text] for text in texts], np.int32)
