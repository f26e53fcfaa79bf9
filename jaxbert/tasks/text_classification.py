"""A class, or a number, for each text or pair of texts: what its labels mean, and the two tasks."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxbert.data import Examples, read_columns, texts_of, tokenize
from jaxbert.data.sources import Column, refuse
from jaxbert.data.tables import some
from jaxbert.errors import InputError
from jaxbert.models import EncoderConfig
from jaxbert.models.heads import ForSequenceClassification
from jaxbert.models.outputs import ClassifierOutput
from jaxbert.tasks import losses, metrics
from jaxbert.tasks.losses import SumAndCount
from jaxbert.tasks.task import Batch, Results, Task

CLASSIFICATION, REGRESSION = "text-classification", "text-regression"

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def load_examples(
    source: Any,
    *,
    text_column: str = "text",
    text_pair_column: str | None = None,
    label_column: str | None = None,
    split: str | None = None,
    label_names: Sequence[str] | None = None,
    task: str | None = None,
) -> Examples:
    """Reads texts and their labels from a file, a `datasets` hub id, or memory.

    Labels that are whole numbers or text are classes, in numeric or alphabetic order; a column with
    a decimal point anywhere is a regression target.

    Args:
      source, split: as in `data.tables.read_table`.
      label_column: None reads no labels.
      label_names: the classes of the model at hand; labels are mapped onto them.
      task: "text-classification" or "text-regression"; None decides by the labels.

    Raises:
      InputError: content that cannot be used; FileNotFoundError: no such file; ConnectionError: the
        hub did not answer. All in one line.

    Example:
      >>> films = load_examples({"text": ["good", "dull"], "label": ["yes", "no"]},
      ...                       label_column="label")
      >>> films.label_names, films.labels.tolist(), films.task
      (('no', 'yes'), [1, 0], 'text-classification')
    """
    if task not in (None, CLASSIFICATION, REGRESSION):
        raise InputError(f"{task=}: want {CLASSIFICATION!r} or {REGRESSION!r}")
    wanted = {
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "label_column": label_column,
    }
    columns, name = read_columns(source, wanted, split)
    examples = texts_of(columns, name)
    if label_column is None:
        return examples
    return dataclasses.replace(
        examples, **_labels(columns["label_column"], label_names, task)._asdict()
    )


class _Labels(NamedTuple):
    """What `Examples` say of their labels."""

    labels: np.ndarray
    label_names: tuple[str, ...] | None
    task: str
    reason: str


def _labels(column: Column, label_names: Sequence[str] | None, task: str | None) -> _Labels:
    texts, where = _label_texts(*column), column.where
    task, reason = (task, "as asked for") if task else _decide(texts, where, bool(label_names))
    if task == REGRESSION:
        return _Labels(_numbers(texts, where), None, task, reason)
    names = tuple(label_names) if label_names else _class_names(texts, where)
    return _Labels(_class_indices(texts, names, where), names, task, reason)


def _decide(texts: list[str], where: str, named: bool) -> tuple[str, str]:
    """(the task that labels are for, why)."""
    if named:
        return CLASSIFICATION, "the classes' names are given"
    numbers = [_NUMBER.fullmatch(text) is not None for text in texts]
    decimal = [i for i, text in enumerate(texts) if numbers[i] and not _INTEGER.fullmatch(text)]
    if not decimal:
        kind = "whole numbers" if all(numbers) else "names"
        return CLASSIFICATION, f"{where} holds {kind}"
    reason = (
        f"{where} holds numbers with a decimal point, {texts[decimal[0]]} in data row "
        f"{decimal[0] + 1} for one"
    )
    if all(numbers) and all(float(text).is_integer() for text in texts):
        reason += f"; they are whole, task {CLASSIFICATION} makes classes of them"
    return REGRESSION, reason


def _label_texts(values: list[Any], where: str) -> list[str]:
    """Labels as text, whole numbers in their shortest form; refuses missing ones and lists."""
    other = [i for i, v in enumerate(values) if not isinstance(v, str | int | float | None)]
    kind = type(values[other[0]]).__name__ if other else ""
    refuse(where, f"{kind} where one label is wanted", other, "name another column")
    texts = [_label_text(value) for value in values]
    missing = [i for i, text in enumerate(texts) if not text]
    refuse(where, "no label", missing, "fill or delete it, or leave the label column out")
    # What spreadsheets and pandas write where there is nothing.
    nothing = [i for i, text in enumerate(texts) if text.lower() == "nan"]
    shown = repr(texts[nothing[0]]) if nothing else ""
    remedy = "fill or delete it, or give the class another name if it is one"
    refuse(where, f"{shown}, which stands for no label,", nothing, remedy)
    return texts


def _label_text(value: str | float | None) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    text = str(value).strip()
    return str(int(text)) if _INTEGER.fullmatch(text) else text


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


def _class_names(texts: list[str], where: str) -> tuple[str, ...]:
    names = set(texts)
    if len(names) == 1:
        raise InputError(f"{where} holds one label only, {texts[0]!r}: want at least two classes")
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
        raise InputError(
            f"{where} has labels the model does not know: {some(map(repr, unknown))}; it knows "
            f"{some(map(repr, names), 20)}"
        )
    return np.array([index[text] for text in texts], np.int32)


def _configure_classes(config: EncoderConfig, examples: Examples) -> EncoderConfig:
    theirs, ours = examples.label_names, config.id2label
    if theirs is None:
        return config
    if len(theirs) > config.num_labels:
        raise InputError(
            f"{examples.source} has {len(theirs)} labels ({', '.join(theirs[:5])} ...), the model "
            f"has num_labels={config.num_labels}"
        )
    if ours is not None and ours[: len(theirs)] != tuple(theirs):
        raise InputError(
            f"{examples.source} numbers its labels {', '.join(theirs)}, the model "
            f"{', '.join(ours)}; load the examples with label_names={list(ours)}, or the model "
            f"with labels={list(theirs)}"
        )
    if ours is None and len(theirs) == config.num_labels:
        return dataclasses.replace(config, id2label=tuple(theirs))
    return config


def _configure_number(config: EncoderConfig, examples: Examples) -> EncoderConfig:
    del examples
    if config.num_labels != 1:
        raise InputError(f"regression needs num_labels=1, the model has {config.num_labels}")
    return config


def _class_loss(outputs: ClassifierOutput, batch: Batch, smoothing: float) -> SumAndCount:
    return losses.classification(
        outputs.logits, batch["labels"], batch["weights"], smoothing=smoothing
    )


def _number_loss(outputs: ClassifierOutput, batch: Batch, smoothing: float) -> SumAndCount:
    return losses.regression(outputs.logits, batch["labels"], batch["weights"], smoothing=smoothing)


def _classes_score(examples: Examples, results: Results) -> dict[str, float]:
    guesses = results["logits"].argmax(axis=-1)
    return metrics.compute_scores(metrics.CLASSIFICATION, np.asarray(examples.labels), guesses)


def _numbers_score(examples: Examples, results: Results) -> dict[str, float]:
    values = results["logits"][:, 0]
    return metrics.compute_scores(metrics.REGRESSION, np.asarray(examples.labels), values)


def _decode_classes(config: EncoderConfig, results: Results) -> list[dict[str, Any]]:
    logits = results["logits"]
    names = config.id2label or tuple(map(str, range(logits.shape[1])))
    return [
        {
            "label": names[int(row.argmax())],
            "probabilities": dict(zip(names, map(float, row), strict=True)),
        }
        for row in probabilities(logits)
    ]


def _decode_numbers(config: EncoderConfig, results: Results) -> list[dict[str, Any]]:
    del config
    return [{"score": float(row[0])} for row in results["logits"]]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _class_target(examples: Examples) -> Mapping[str, Any]:
    return {"labels": examples.label_names}


def _number_target(examples: Examples) -> Mapping[str, Any]:
    del examples
    return {"num_labels": 1}


TEXT_CLASSIFICATION = Task(
    name=CLASSIFICATION,
    head=ForSequenceClassification,
    problem_type="single_label_classification",
    read=partial(load_examples, task=CLASSIFICATION),
    encode=tokenize,
    target=_class_target,
    configure=_configure_classes,
    loss=_class_loss,
    score=_classes_score,
    decode=_decode_classes,
    metrics={name: metric.higher_is_better for name, metric in metrics.CLASSIFICATION.items()},
)
TEXT_REGRESSION = Task(
    name=REGRESSION,
    head=ForSequenceClassification,
    problem_type="regression",
    read=partial(load_examples, task=REGRESSION),
    encode=tokenize,
    target=_number_target,
    configure=_configure_number,
    loss=_number_loss,
    score=_numbers_score,
    decode=_decode_numbers,
    metrics={name: metric.higher_is_better for name, metric in metrics.REGRESSION.items()},
    smooths_labels=False,
)
