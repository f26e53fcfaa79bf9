"""How many seeds: when a comparison has enough, how many it is projected to need, and power.

Seeds are added until the interval of a comparison is narrower than the margin. That looks at its
width and not at what it says, so that looking again and again makes no difference out of none. One
that is far beyond the margin stops as well, at 99%: nobody waits for its last digit.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from jaxbert.lab.bootstrap import Effect, degrees

K = TypeVar("K", bound=Hashable)

MOST = 30  # seeds that a comparison may spend
FAR_LEVEL = 0.99
ALPHA, POWER = 0.05, 0.8
BEYOND = math.inf  # more seeds than the following, which is further than anybody runs
_PROJECTED = 1000


class Comparison(NamedTuple):
    """What the rule needs to know of a comparison: its effect, and what does not matter."""

    effect: Effect
    margin: float


@dataclass(frozen=True)
class Power:
    """Seeds that a comparison would need, at the noise seen; None of one seed.

    Attributes:
      width: until its 95% interval is narrower than the margin.
      equivalence: to find the two equivalent with 80% power, if they are the same.
      difference: to see a difference as large as the margin with 80% power.
    """

    width: float | None
    equivalence: float | None
    difference: float | None


def has_enough(effect: Effect, margin: float) -> bool:
    """Whether the rule asks for no more seeds: narrow, or far beyond the margin."""
    found, far = effect.interval(), effect.interval(FAR_LEVEL)
    if found.low is None or found.high is None or far.low is None or far.high is None:
        return False
    return found.high - found.low <= margin or far.low > margin or far.high < -margin


def more_seeds(comparisons: Mapping[K, Comparison], most: int = MOST) -> dict[K, int]:
    """{comparison: how many seeds it shall have next}, of those that need more.

    As many as it is projected to need, but at most twice those it has (few seeds know their noise
    badly), and never more than `most`.

    Args:
      comparisons: as they are now.
      most: seeds that may be spent on one.
    """
    wanted = {}
    for name, (effect, margin) in comparisons.items():
        if effect.seeds >= most or has_enough(effect, margin):
            continue
        projected = min(projected_seeds(effect, margin) or most, 2 * effect.seeds, most)
        wanted[name] = min(most, max(effect.seeds + 1, int(projected)))
    return wanted


def projected_seeds(effect: Effect, width: float, alpha: float = ALPHA) -> float | None:
    """Seeds in all until the 95% interval (1 - alpha) is no wider than that, at the noise seen.

    `BEYOND` where 1,000 do not suffice (the test set is too small, or the noise too large); None of
    one seed, which knows no noise.
    """
    from scipy.stats import t

    seeds, error, freedom = _projection(effect)
    return _first(seeds, 2 * t.isf(alpha / 2, freedom) * error <= width, effect)


def seeds_for_ratio(ratio: float, alpha: float = ALPHA) -> float:
    """Seeds of each of two strategies until the F test at alpha sees such a ratio of variances.

    `BEYOND` where 1,000 do not suffice.
    """
    from scipy.stats import f

    seeds = np.arange(2, _PROJECTED + 1)
    seen = f.isf(alpha / 2, seeds - 1, seeds - 1) <= max(ratio, 1 / ratio if ratio else np.inf)
    return int(seeds[seen.argmax()]) if seen.any() else BEYOND


def power(effect: Effect, margin: float) -> Power:
    """What a comparison with this noise takes: normal errors, Student's limits."""
    from scipy.stats import norm, t

    seeds, error, freedom = _projection(effect)
    distance = margin / np.maximum(error, 1e-300)
    equal = 2 * norm.cdf(distance - t.isf(ALPHA, freedom)) - 1
    different = norm.cdf(distance - t.isf(ALPHA / 2, freedom))
    return Power(
        projected_seeds(effect, margin),
        _first(seeds, equal >= POWER, effect),
        _first(seeds, different >= POWER, effect),
    )


def width_of_examples(effect: Effect) -> float:
    """How wide the 95% interval stays whatever the seeds: another test set would say otherwise."""
    from scipy.stats import norm

    return float(2 * norm.isf(0.025) * effect.example_variance**0.5)


def _projection(effect: Effect) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(numbers of seeds, the standard error with each, its degrees of freedom)."""
    seeds = np.arange(2, _PROJECTED + 1)
    error = np.sqrt(effect.seed_variance / seeds + effect.example_variance)
    freedom = degrees(seeds, effect.seed_variance, effect.example_variance)
    return seeds, error, np.asarray(freedom)


def _first(seeds: np.ndarray, enough: np.ndarray, effect: Effect) -> float | None:
    if effect.seeds < 2:
        return None
    return int(seeds[enough.argmax()]) if enough.any() else BEYOND
