"""How wide the good rates are: development scores by base rate, and the region near the best."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxbert.lab.journals import Cell, Study
from jaxbert.lab.records import DEVELOPMENT

NEAR = 0.01  # of the best score: what is within is good


@dataclass(frozen=True)
class Region:
    """The base rates around the best whose score is near it.

    Attributes:
      best: the rate with the best mean score.
      score: that score.
      octaves: how wide the region is: how often the rate can be doubled in it.
      open_ended: whether it goes on at an end of the grid, so that it is at least so wide.
    """

    best: float
    score: float
    octaves: float
    open_ended: bool

    def __str__(self) -> str:
        return f"{'at least ' if self.open_ended else ''}{self.octaves:.1f} octaves"


def rate_scores(study: Study, size: str, strategy: str) -> dict[float, float]:
    """{base rate: mean score on the development set} of the grid; a diverged run has guessed.

    The more the better; of rates with a run that has no score there is none.
    """
    cells = study.grid.get(size, {}).get(strategy, {})
    means = {rate: _mean(study, cell) for rate, cell in cells.items()}
    return {rate: mean for rate, mean in means.items() if mean is not None}


def _mean(study: Study, cell: Cell) -> float | None:
    merits = (study.metric.merit(run.score(DEVELOPMENT)) for run in cell.values())
    known = [study.guess if merit is None else merit for merit in merits]
    scores = [score for score in known if score is not None]
    return statistics.mean(scores) if scores and len(scores) == len(known) else None


def good_region(scores: Mapping[float, float], near: float = NEAR) -> Region | None:
    """The region within `near` of the best, by straight lines between rates; None without scores.

    Example:
      >>> str(good_region({1e-5: 0.70, 2e-5: 0.80, 4e-5: 0.80, 8e-5: 0.78}))
      '1.6 octaves'
    """
    if not scores:
        return None
    rates = sorted(scores)
    points = [(math.log2(rate), scores[rate]) for rate in rates]
    top = max(range(len(points)), key=lambda i: points[i][1])
    bar = points[top][1] - near
    low, low_open = _edge(points[top::-1], bar)
    high, high_open = _edge(points[top:], bar)
    return Region(rates[top], points[top][1], high - low, low_open or high_open)


def _edge(points: Sequence[tuple[float, float]], bar: float) -> tuple[float, bool]:
    """(where the line from the best falls below the bar, whether it does not)."""
    for (x, y), (next_x, next_y) in itertools.pairwise(points):
        if next_y < bar:
            return x + (next_x - x) * (y - bar) / (y - next_y), False
    return points[-1][0], True


def on_the_edge(study: Study, size: str, strategy: str) -> bool:
    """Whether the best of the rates tried is the lowest or the highest of them."""
    scores = rate_scores(study, size, strategy)
    if len(scores) < 2:
        return False
    best = max(sorted(scores), key=lambda rate: scores[rate])
    return best in (min(scores), max(scores))


def without_search(studies: Sequence[Study]) -> dict[str, tuple[float, float]]:
    """{strategy: (a base rate, how far it is behind at most)}, the least first.

    For who tries no rates: of those tried at every train size of every study, the one that is least
    far, where it is farthest, from the best strategy at its best rate there, by the development
    sets. Sizes at which the control guesses say nothing; of fewer than two there is no answer.
    """
    sizes = [(study, size) for study in studies for size in study.sizes if not study.guesses(size)]
    behind: dict[tuple[float, str], list[float]] = {}
    for study, size in sizes:
        scores = {
            (rate, name): score
            for name in study.strategies
            for rate, score in rate_scores(study, size, name).items()
        }
        best = max(scores.values(), default=0.0)
        for pair, score in scores.items():
            behind.setdefault(pair, []).append(best - score)
    most = {pair: max(costs) for pair, costs in behind.items() if len(costs) == len(sizes) > 1}
    found: dict[str, tuple[float, float]] = {}
    for rate, name in sorted(most, key=lambda pair: (most[pair], pair)):
        found.setdefault(name, (rate, most[rate, name]))
    return found
