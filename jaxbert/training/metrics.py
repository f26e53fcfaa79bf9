"""Scores of predictions, on the host, by scikit-learn and scipy."""

from __future__ import annotations

from collections.abc import Callable
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


# problem_type -> name -> metric; the first is the one that models are selected by.
METRICS: dict[str, dict[str, Metric]] = {
    "single_label_classification": {
        "accuracy": Metric(_accuracy),
        "macro_f1": Metric(_macro_f1),
        "matthews": Metric(_matthews),
    },
    "regression": {
        "mse": Metric(_mse, higher_is_better=False),
        "pearson": Metric(_pearson),
        "spearman": Metric(_spearman),
    },
}


def compute_scores(
    problem_type: str, labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
    """Every metric of a problem type, for labels [N] and predictions [N] (class index or value)."""
    return {name: m.score(labels, predictions) for name, m in METRICS[problem_type].items()}


def selection_metric(problem_type: str, name: str | None) -> tuple[str, bool]:
    """The score that models are selected by, and whether more of it is better.

    Args:
      name: a metric of the problem type, or "loss"; None = the problem type's first metric.

    Raises:
      ValueError: there is none of that name for this problem; lists those there are.
    """
    known = {key: metric.higher_is_better for key, metric in METRICS[problem_type].items()}
    known["loss"] = False
    name = name or next(iter(known))
    if name not in known:
        raise ValueError(f"metric={name!r} is not one of {', '.join(known)} ({problem_type})")
    return name, known[name]
