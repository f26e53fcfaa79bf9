"""Any number of labels for each text or pair of texts."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from jaxbert.models import EncoderConfig
from jaxbert.models.heads import ForSequenceClassification
from jaxbert.models.outputs import ClassifierOutput
from jaxbert.tasks import losses, metrics
from jaxbert.tasks.losses import SumAndCount
from jaxbert.tasks.options import MULTI_LABEL, TaskOptions
from jaxbert.tasks.task import Batch, Predicted, Task
from jaxbert.tasks.text_classification import (
    WITH_LABEL_COLUMNS,
    class_target,
    configure_classes,
    encode_texts,
    names_of,
    pooled_logits,
    read_texts,
)

HALF = 0.5  # the threshold of a label that has none of its own
MEAN_AVERAGE_PRECISION = "mean_average_precision"


def _loss(outputs: ClassifierOutput, batch: Batch, smoothing: float) -> SumAndCount:
    del smoothing
    return losses.multi_label(outputs.logits, batch["labels"], batch["weights"])


def _probabilities(predicted: Predicted) -> np.ndarray:
    """[N, C] float64."""
    logits = pooled_logits(predicted).astype(np.float64)
    return np.exp(-np.logaddexp(0, -logits))


def thresholds_of(config: EncoderConfig) -> np.ndarray:
    """[C] float64: the least probability at which a text is said to have the label."""
    own = dict(config.thresholds)
    return np.array([own.get(name, HALF) for name in names_of(config)])


def best_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The threshold with the highest F1; of several that nearest to 0.5, which is also tried.

    A threshold lies half way between two probabilities. Of a label that no text has nothing can be
    learned: 0.5.

    Args:
      labels: [N], 0 or 1.
      probabilities: [N] float64.

    Example:
      >>> best_threshold(np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4])).__round__(9)
      0.15
    """
    if not labels.any():
        return HALF
    falling = np.argsort(-probabilities, kind="stable")
    upper = probabilities[falling]
    following = np.append(upper[1:], -1.0)
    lower = np.maximum(following, 0)
    middle = (upper + lower) / 2
    # Where no number lies between two, the upper one is the threshold: what is as large counts.
    tried = np.where(middle > lower, middle, upper)
    told = np.arange(1, len(upper) + 1)
    f1 = 2 * labels[falling].cumsum(dtype=np.float64) / (told + labels.sum(dtype=np.float64))
    f1[upper == following] = 0  # equal ones are told together
    at_half = probabilities >= HALF
    half = 2 * (labels * at_half).sum() / (at_half.sum() + labels.sum())
    if half >= f1.max():
        return HALF
    best = tried[f1 == f1.max()]
    return float(best[np.abs(best - HALF).argmin()])


def _calibrate(config: EncoderConfig, predicted: Predicted) -> EncoderConfig:
    found, labels = _probabilities(predicted), np.asarray(predicted.examples.labels)
    return dataclasses.replace(
        config,
        thresholds=tuple(
            (name, best_threshold(labels[:, c], found[:, c]))
            for c, name in enumerate(names_of(config))
        ),
    )


def _score(config: EncoderConfig, predicted: Predicted) -> dict[str, float]:
    found, labels = _probabilities(predicted), np.asarray(predicted.examples.labels)
    guesses = found >= thresholds_of(config)
    scores = metrics.compute_scores(metrics.MULTI_LABEL, labels > 0, guesses)
    return scores | {MEAN_AVERAGE_PRECISION: metrics.mean_average_precision(labels, found)}


def _decode(config: EncoderConfig, predicted: Predicted) -> list[dict[str, Any]]:
    names, least = names_of(config), thresholds_of(config)
    return [
        {
            "labels": [names[c] for c in np.flatnonzero(row >= least)],
            "probabilities": dict(zip(names, map(float, row), strict=True)),
        }
        for row in _probabilities(predicted)
    ]


def multi_label_classification(options: TaskOptions) -> Task:
    """Any number of labels for each text or pair of texts."""
    return Task(
        name=MULTI_LABEL,
        head=ForSequenceClassification,
        problem_type="multi_label_classification",
        columns=WITH_LABEL_COLUMNS,
        read=partial(read_texts, task=MULTI_LABEL),
        encode=partial(encode_texts, options=options),
        target=class_target,
        configure=configure_classes,
        loss=_loss,
        score=_score,
        decode=_decode,
        calibrate=_calibrate,
        metrics={**metrics.directions(metrics.MULTI_LABEL), MEAN_AVERAGE_PRECISION: True},
        smooths_labels=False,
    )
