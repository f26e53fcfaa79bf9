"""A class, or a number, for each text or pair of texts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxbert.data import Examples, texts_of, tokenize
from jaxbert.data.sources import columns_of
from jaxbert.data.tables import Table
from jaxbert.errors import InputError
from jaxbert.models import EncoderConfig
from jaxbert.models.heads import ForSequenceClassification
from jaxbert.models.outputs import ClassifierOutput
from jaxbert.tasks import losses, metrics
from jaxbert.tasks.label_sets import holds_lists, read_label_columns, read_lists
from jaxbert.tasks.labels import class_index, number_of, read_labels, refuse_unknown
from jaxbert.tasks.losses import SumAndCount
from jaxbert.tasks.options import MULTI_LABEL, TEXT_CLASSIFICATION, TEXT_REGRESSION, TaskOptions
from jaxbert.tasks.task import Batch, Predicted, Task

COLUMNS: dict[str, str | None] = {
    "text_column": "text",
    "text_pair_column": None,
    "label_column": "label",
}
# Of what may have a number for each label.
WITH_LABEL_COLUMNS = {**COLUMNS, "label_columns": None}


def read_texts(
    table: Table,
    columns: Mapping[str, Any],
    *,
    labelled: bool = True,
    label_names: Sequence[str] | None = None,
    task: str | None = None,
) -> Examples:
    """Texts or pairs of texts with their labels.

    Args:
      columns: {argument: the column's name}, those of `COLUMNS`; `label_columns`: several names,
        and then `label_column` is not read.
      task: which one of those for texts; None = the labels decide, see `read_labels`, `read_lists`
        and `read_label_columns`.
    """
    wanted = dict(columns)
    several = _label_columns(table, wanted, label_names, task) if labelled else ()
    wanted.pop("label_columns", None)
    if several or not labelled:
        wanted["label_column"] = None
    own = {f"label_columns {name}": name for name in several}
    found = columns_of(table.columns, table.name, wanted | own)
    examples = texts_of(found, table.name)
    if several:
        by_label = {name: found[place] for place, name in own.items()}
        read = read_label_columns(by_label, label_names, task, table.name)
    elif not labelled:
        return examples
    elif task == MULTI_LABEL or (task != TEXT_REGRESSION and holds_lists(found["label_column"])):
        read = read_lists(found["label_column"], label_names, task)
    else:
        read = read_labels(found["label_column"], label_names, task)
    return dataclasses.replace(examples, **read._asdict())


def _label_columns(
    table: Table, wanted: Mapping[str, Any], label_names: Sequence[str] | None, task: str | None
) -> tuple[str, ...]:
    """The columns that hold a number for each label; none where one column holds all.

    Nobody has to name them again for a model whose labels they are called like.
    """
    given = wanted.get("label_columns") or ()
    names = (given,) if isinstance(given, str) else tuple(given)
    column = wanted["label_column"]
    if names and column != COLUMNS["label_column"]:
        raise InputError(f"label_columns and label_column={column!r} are both given: leave one out")
    if len(set(names)) < len(names):
        raise InputError(f"label_columns names one twice: {', '.join(map(repr, names))}")
    if names or column in table.columns or not label_names or task == TEXT_REGRESSION:
        return names
    return tuple(label_names) if set(label_names) <= table.columns.keys() else ()


def encode_texts(*args: Any, options: TaskOptions) -> Any:
    """See `tokenize`."""
    return tokenize(*args, stride=options.stride)


def pooled_logits(predicted: Predicted) -> np.ndarray:
    """[N, C]: of each example; of a long text the mean over its windows."""
    logits, features = predicted.results["logits"], predicted.tokenized.example_of
    if features is None:
        return logits
    totals = np.zeros((features[-1] + 1, logits.shape[1]), np.float32)
    np.add.at(totals, features, logits)
    return totals / np.bincount(features)[:, None].astype(np.float32)


def configure_classes(config: EncoderConfig, examples: Examples) -> EncoderConfig:
    """With the labels' names, where the model has none; InputError where it has others."""
    theirs, ours = examples.label_names, config.id2label
    if theirs is None:
        return config
    if len(theirs) > config.num_labels:
        raise InputError(
            f"{examples.source} has {len(theirs)} labels ({', '.join(theirs[:5])} ...), the model "
            f"has num_labels={config.num_labels}"
        )
    labels = examples.labels
    if labels is not None and labels.ndim == 2 and labels.shape[1] != config.num_labels:
        raise InputError(
            f"{examples.source} has a number for each of {labels.shape[1]} labels, the model has "
            f"num_labels={config.num_labels}: they must be as many"
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
    labels, logits = batch["labels"], outputs.logits
    loss = losses.soft_classification if labels.ndim == logits.ndim else losses.classification
    return loss(logits, labels, batch["weights"], smoothing=smoothing)


def _number_loss(outputs: ClassifierOutput, batch: Batch, smoothing: float) -> SumAndCount:
    return losses.regression(outputs.logits, batch["labels"], batch["weights"], smoothing=smoothing)


def _score_classes(config: EncoderConfig, predicted: Predicted) -> dict[str, float]:
    del config
    labels = np.asarray(predicted.examples.labels)
    guesses = pooled_logits(predicted).argmax(axis=-1)
    if labels.ndim == 2:  # shares
        labels = labels.argmax(axis=-1)
    return metrics.compute_scores(metrics.CLASSIFICATION, labels, guesses)


def _score_numbers(config: EncoderConfig, predicted: Predicted) -> dict[str, float]:
    del config
    labels, values = predicted.examples.labels, pooled_logits(predicted)[:, 0]
    return metrics.compute_scores(metrics.REGRESSION, np.asarray(labels), values)


def _decode_classes(config: EncoderConfig, predicted: Predicted) -> list[dict[str, Any]]:
    logits = pooled_logits(predicted)
    names = names_of(config)
    return [
        {
            "label": names[int(row.argmax())],
            "probabilities": dict(zip(names, map(float, row), strict=True)),
        }
        for row in probabilities(logits)
    ]


def _decode_numbers(config: EncoderConfig, predicted: Predicted) -> list[dict[str, Any]]:
    del config
    return [{"score": float(row[0])} for row in pooled_logits(predicted)]


def names_of(config: EncoderConfig) -> tuple[str, ...]:
    """The names of the labels; their numbers where there are none."""
    return config.id2label or tuple(map(str, range(config.num_labels)))


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _class_weights(text: str) -> dict[str, float] | None:
    """{class: how much it counts} of NAME=WEIGHT,...; None = balanced.

    Raises:
      InputError: what is neither.
    """
    if text == "balanced":
        return None
    found: dict[str, float] = {}
    for one in text.split(","):
        name, equals, number = one.rpartition("=")
        weight = number_of(number.strip())
        name = name.strip()
        if not (equals and name and weight is not None and 0 <= weight < math.inf):
            raise InputError(f"class_weights={text!r}: want balanced, or NAME=WEIGHT,... from 0 up")
        if name in found:
            raise InputError(f"class_weights={text!r} names {name!r} twice")
        found[name] = weight
    return found


def weigh_classes(examples: Examples, weights: Mapping[str, float] | None) -> Examples:
    """The examples, each with the weight of its class.

    Args:
      weights: {class: weight}, 1 for others; None = balanced: all classes count alike, and the mean
        weight is 1, as scikit-learn's "balanced".

    Raises:
      InputError: a class that there is not; shares, which are of no one class.
    """
    labels, names = examples.labels, examples.label_names
    assert labels is not None, "training examples have labels"
    assert names is not None, "and their classes names"
    if labels.ndim == 2:
        raise InputError(
            f"{examples.source}: class_weights are for one class a text, and the labels are shares "
            "of classes: leave class_weights out"
        )
    if weights is None:
        counts = np.bincount(labels, minlength=len(names))
        there = np.count_nonzero(counts)
        table = len(labels) / (there * np.maximum(counts, 1))
    else:
        index = class_index(names)
        refuse_unknown(weights, index, names, "class_weights")
        table = np.ones(len(names))
        table[[index[name] for name in weights]] = list(weights.values())
    found = table.astype(np.float32)[labels]
    if not found.any():
        raise InputError(
            f"class_weights are 0 for every text of {examples.source}: want some above"
        )
    return dataclasses.replace(examples, weights=found)


def class_target(examples: Examples) -> Mapping[str, Any]:
    """A head for these labels."""
    return {"labels": examples.label_names}


def _number_target(examples: Examples) -> Mapping[str, Any]:
    del examples
    return {"num_labels": 1}


def text_classification(options: TaskOptions) -> Task:
    """A class for each text or pair of texts."""
    weigh: Callable[[Examples], Examples] = lambda examples: examples  # noqa: E731
    if options.class_weights is not None:
        weigh = partial(weigh_classes, weights=_class_weights(options.class_weights))
    return Task(
        name=TEXT_CLASSIFICATION,
        head=ForSequenceClassification,
        problem_type="single_label_classification",
        columns=WITH_LABEL_COLUMNS,
        read=partial(read_texts, task=TEXT_CLASSIFICATION),
        encode=partial(encode_texts, options=options),
        target=class_target,
        configure=configure_classes,
        weigh=weigh,
        loss=_class_loss,
        score=_score_classes,
        decode=_decode_classes,
        metrics=metrics.directions(metrics.CLASSIFICATION),
    )


def text_regression(options: TaskOptions) -> Task:
    """A number for each text or pair of texts."""
    return Task(
        name=TEXT_REGRESSION,
        head=ForSequenceClassification,
        problem_type="regression",
        columns=COLUMNS,
        read=partial(read_texts, task=TEXT_REGRESSION),
        encode=partial(encode_texts, options=options),
        target=_number_target,
        configure=_configure_number,
        loss=_number_loss,
        score=_score_numbers,
        decode=_decode_numbers,
        metrics=metrics.directions(metrics.REGRESSION),
        smooths_labels=False,
    )
