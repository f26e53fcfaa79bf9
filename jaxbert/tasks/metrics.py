"""Scores of predictions, on the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Metric(NamedTuple):
    """How to compute a score from (labels, predictions), and whether more is better."""

    score: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool = True


class ClassCounts(NamedTuple):
    """How many examples of each class [C] are predicted right, have its label, are predicted it."""

    right: np.ndarray
    labelled: np.ndarray
    predicted: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """Of each class; 0 where nothing is predicted it. So too the next two."""
        return _ratio(self.right, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """Of each class."""
        return _ratio(self.right, self.labelled)

    @property
    def f1(self) -> np.ndarray:
        """Of each class."""
        return _ratio(2 * self.right, self.labelled + self.predicted)


def count_classes(labels: np.ndarray, predictions: np.ndarray) -> ClassCounts:
    """Of the classes that come, in their order, or of all columns.

    Not by scikit-learn: it takes two seconds to import, of every run, for sums.

    Args:
      labels, predictions: [N] class indices, negative ones for none; or [N, C], 0 or 1.

    Example:
      >>> count_classes(np.array([0, 0, 2]), np.array([0, 2, 2]))
      ClassCounts(right=array([1, 1]), labelled=array([2, 1]), predicted=array([1, 2]))
    """
    if labels.ndim == 1:
        classes = np.union1d(labels, predictions)
        classes = classes[classes >= 0]
        labels, predictions = (values[:, None] == classes for values in (labels, predictions))
    labels, predictions = labels.astype(bool), predictions.astype(bool)
    counted = (labels & predictions, labels, predictions)
    return ClassCounts(*(values.sum(axis=0) for values in counted))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)


def _accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float((labels == predictions).mean())


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Of any number of classes (Gorodkin 2004); 0 where labels or predictions are all the same."""
    count = count_classes(labels, predictions)
    total, right = len(labels), float(count.right.sum())
    spread = [total**2 - float(np.square(n).sum()) for n in (count.labelled, count.predicted)]
    if not all(spread):
        return 0.0
    chance = float(count.labelled @ count.predicted)
    return (right * total - chance) / math.sqrt(spread[0] * spread[1])


def _mse(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(np.square(labels - predictions).mean())


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0  # a constant tells nothing of the other
    return float(np.corrcoef(labels, predictions)[0, 1])


def _spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(labels), rankdata(predictions))


def _macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(count_classes(labels, predictions).f1.mean())


def _micro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    count = count_classes(labels, predictions)
    return float(ClassCounts(*(n.sum() for n in count)).f1)


def _subset_accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float((labels == predictions).all(axis=1).mean())


def mean_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """The mean of the average precision of those labels that some text has; 0 without any.

    Args:
      labels: [N, C], 0 or 1.
      scores: [N, C], the higher the surer.
    """
    from sklearn.metrics import average_precision_score

    there = np.flatnonzero(labels.any(axis=0))
    found = [average_precision_score(labels[:, c], scores[:, c]) for c in there]
    return float(np.mean(found)) if found else 0.0


# The first of each is the one that models are selected by.
CLASSIFICATION: dict[str, Metric] = {
    "accuracy": Metric(_accuracy),
    "macro_f1": Metric(_macro_f1),
    "matthews": Metric(_matthews),
}
# Of labels and guesses [N, C], 0 or 1; with them goes the mean average precision, of probabilities.
MULTI_LABEL: dict[str, Metric] = {
    "micro_f1": Metric(_micro_f1),
    "macro_f1": Metric(_macro_f1),
    "subset_accuracy": Metric(_subset_accuracy),
}
REGRESSION: dict[str, Metric] = {
    "mse": Metric(_mse, higher_is_better=False),
    "pearson": Metric(_pearson),
    "spearman": Metric(_spearman),
}


def directions(metrics: Mapping[str, Metric]) -> dict[str, bool]:
    """{metric: whether more is better}."""
    return {name: metric.higher_is_better for name, metric in metrics.items()}


def compute_scores(
    metrics: Mapping[str, Metric], labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
    """Every metric, for labels [N] and predictions [N] (class index or value)."""
    return {name: metric.score(labels, predictions) for name, metric in metrics.items()}
