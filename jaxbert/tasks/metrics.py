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


def _macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0))


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


# The first of each is the one that models are selected by.
CLASSIFICATION: dict[str, Metric] = {
    "accuracy": Metric(_accuracy),
    "macro_f1": Metric(_macro_f1),
    "matthews": Metric(_matthews),
}
REGRESSION: dict[str, Metric] = {
    "mse": Metric(_mse, higher_is_better=False),
    "pearson": Metric(_pearson),
    "spearman": Metric(_spearman),
}


def compute_scores(
    metrics: Mapping[str, Metric], labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
    """Every metric, for labels [N] and predictions [N] (class index or value)."""
    return {name: metric.score(labels, predictions) for name, metric in metrics.items()}
