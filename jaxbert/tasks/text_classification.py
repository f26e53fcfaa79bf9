"""A class, or a number, for each text or pair of texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
from jaxbert.tasks.labels import read_labels
from jaxbert.tasks.losses import SumAndCount
from jaxbert.tasks.options import TEXT_CLASSIFICATION, TEXT_REGRESSION, TaskOptions
from jaxbert.tasks.task import Batch, Predicted, Task

COLUMNS = {"text_column": "text", "text_pair_column": None, "label_column": "label"}


def read_texts(
    table: Table,
    columns: Mapping[str, str | None],
    *,
    labelled: bool = True,
    label_names: Sequence[str] | None = None,
    task: str | None = None,
) -> Examples:
    """Texts or pairs of texts with their labels, see `read_labels`.

    Args:
      columns: {argument: the column's name}, those of `COLUMNS`.
      task: which of the two; None = the labels decide.
    """
    wanted = dict(columns) if labelled else {**columns, "label_column": None}
    found = columns_of(table.columns, table.name, wanted)
    examples = texts_of(found, table.name)
    if not labelled:
        return examples
    read = read_labels(found["label_column"], label_names, task)
    return dataclasses.replace(examples, **read._asdict())


def _encode(*args: Any, options: TaskOptions) -> Any:
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


def _score_classes(config: EncoderConfig, predicted: Predicted) -> dict[str, float]:
    del config
    labels, guesses = predicted.examples.labels, pooled_logits(predicted).argmax(axis=-1)
    return metrics.compute_scores(metrics.CLASSIFICATION, np.asarray(labels), guesses)


def _score_numbers(config: EncoderConfig, predicted: Predicted) -> dict[str, float]:
    del config
    labels, values = predicted.examples.labels, pooled_logits(predicted)[:, 0]
    return metrics.compute_scores(metrics.REGRESSION, np.asarray(labels), values)


def _decode_classes(config: EncoderConfig, predicted: Predicted) -> list[dict[str, Any]]:
    logits = pooled_logits(predicted)
    names = config.id2label or tuple(map(str, range(logits.shape[1])))
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


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def class_target(examples: Examples) -> Mapping[str, Any]:
    """A head for these labels."""
    return {"labels": examples.label_names}


def _number_target(examples: Examples) -> Mapping[str, Any]:
    del examples
    return {"num_labels": 1}


def text_classification(options: TaskOptions) -> Task:
    """A class for each text or pair of texts."""
    return Task(
        name=TEXT_CLASSIFICATION,
        head=ForSequenceClassification,
        problem_type="single_label_classification",
        columns=COLUMNS,
        read=partial(read_texts, task=TEXT_CLASSIFICATION),
        encode=partial(_encode, options=options),
        target=class_target,
        configure=configure_classes,
        loss=_class_loss,
        score=_score_classes,
        decode=_decode_classes,
        metrics={name: metric.higher_is_better for name, metric in metrics.CLASSIFICATION.items()},
    )


def text_regression(options: TaskOptions) -> Task:
    """A number for each text or pair of texts."""
    return Task(
        name=TEXT_REGRESSION,
        head=ForSequenceClassification,
        problem_type="regression",
        columns=COLUMNS,
        read=partial(read_texts, task=TEXT_REGRESSION),
        encode=partial(_encode, options=options),
        target=_number_target,
        configure=_configure_number,
        loss=_number_loss,
        score=_score_numbers,
        decode=_decode_numbers,
        metrics={name: metric.higher_is_better for name, metric in metrics.REGRESSION.items()},
        smooths_labels=False,
    )
