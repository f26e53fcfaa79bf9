"""Means and variances over seeds with their intervals, and Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxbert.errors import InputError


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval, None where one value gives none."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def above_zero(self) -> bool:
        """Whether all of it is."""
        return self.low is not None and self.low > 0

    @property
    def below_zero(self) -> bool:
        """Whether all of it is."""
        return self.high is not None and self.high < 0


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of n values with Student's 95% interval, n - 1 degrees of freedom.

    Raises:
      InputError: no values.
    """
    from scipy.stats import t

    if not len(values):
        raise InputError("no values: a mean wants one at least")
    array = np.asarray(values, np.float64)
    mean, count = float(array.mean()), len(array)
    if count < 2:
        return Interval(mean, None, None, count)
    half = float(t.ppf(0.975, count - 1) * array.std(ddof=1) / count**0.5)
    return Interval(mean, mean - half, mean + half, count)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p-values corrected for their number (Holm 1979), in the order given."""
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


class Ratio(NamedTuple):
    """A ratio of variances with its 95% interval, and the two-sided p of "they are equal"."""

    ratio: float
    low: float
    high: float
    p: float


def variance_ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """The variance of `first` over that of `second`, by the F distribution.

    Raises:
      InputError: fewer than two values in either, or no variance in `second`.
    """
    from scipy.stats import f

    if min(len(first), len(second)) < 2:
        raise InputError("a variance wants two values at least")
    below = np.var(second, ddof=1)
    if below == 0:
        raise InputError("no variance to compare with")
    ratio = float(np.var(first, ddof=1) / below)
    a, b = len(first) - 1, len(second) - 1
    p = min(1.0, 2 * float(min(f.sf(ratio, a, b), f.cdf(ratio, a, b))))
    return Ratio(ratio, ratio / f.ppf(0.975, a, b), ratio / f.ppf(0.025, a, b), p)
