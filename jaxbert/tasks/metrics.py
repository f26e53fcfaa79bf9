"""Scores of predictions, on the host, by scikit-learn and scipy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Metric(NamedTuple):
    """How to compute a score from (labels, predictions), and whether more is better."""

    score: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool = True


def _accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float((labels == predictions).mean())


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def _mse(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(np.square(labels - predictions).mean())


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0  # a constant tells nothing of the other
    return float(np.corrcoef(labels, predictions)[0, 1])


def _spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(labels), rankdata(predictions))


def _f1(average: str) -> Callable[[np.ndarray, np.ndarray], float]:
    def score(labels: np.ndarray, predictions: np.ndarray) -> float:
        from sklearn.metrics import f1_score

        return float(f1_score(labels, predictions, average=average, zero_division=0))

    return score


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
    "macro_f1": Metric(_f1("macro")),
    "matthews": Metric(_matthews),
}
# Of labels and guesses [N, C], 0 or 1; with them goes the mean average precision, of probabilities.
MULTI_LABEL: dict[str, Metric] = {
    "micro_f1": Metric(_f1("micro")),
    "macro_f1": Metric(_f1("macro")),
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
