"""By which score a study compares its runs, and what else its description says of its task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """The score that runs are compared by.

    full_score: what is perfect, where more is better; where less is better there is no such end.

    Example:
      >>> Metric("f1", True, 100.0).share(81.5), Metric("perplexity", False).merit(7.5)
      (0.815, -7.5)
    """

    name: str = "accuracy"
    higher_is_better: bool = True
    full_score: float = 1.0

    @property
    def in_percent(self) -> bool:
        """Whether scores are shares of a perfect one, and shown as such."""
        return self.higher_is_better

    def share(self, score: float) -> float:
        """A score that a task has given, as one of the lab's: 1 is perfect, if anything is."""
        return score / self.full_score

    def merit(self, score: float | None) -> float | None:
        """The higher, the better."""
        return score if score is None or self.higher_is_better else -score

    def show(self, score: float) -> str:
        """As in tables."""
        return f"{100 * score:.1f}" if self.in_percent else f"{score:.3g}"


ACCURACY = Metric()
# What descriptions do not say that are of a time when there was nothing else.
FIRST: Mapping[str, Any] = {
    "task": "text-classification",
    "task_options": {},
    "metric": ACCURACY.name,
    "higher_is_better": ACCURACY.higher_is_better,
    "full_score": ACCURACY.full_score,
}


def metric_of(about: Mapping[str, Any]) -> Metric:
    """Of study.json or sweep.json, with what `FIRST` has where they say nothing."""
    found = {**FIRST, **about}
    return Metric(found["metric"], found["higher_is_better"], found["full_score"])
