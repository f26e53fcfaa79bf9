"""Means and paired differences over seeds: intervals, permutation tests, Holm's correction."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxbert.errors import InputError

_EXACT = 12  # up to so many pairs every pattern of signs is tried
_PATTERNS = 20_000  # drawn where there are more


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


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of "the differences are symmetric about 0", by flipping their signs.

    The share of sign patterns whose mean is at least as far from 0: exact, all 2^n of them, up to
    n = 12; beyond, of 20,000 drawn with a fixed seed and the one observed. With n pairs it is at
    least 2 / 2^n: .0625 for 5 seeds.
    """
    array = np.asarray(differences, np.float64)
    observed = abs(array.sum())
    if len(array) <= _EXACT:
        signs = np.array(list(itertools.product((1, -1), repeat=len(array))))
    else:
        drawn = np.random.default_rng(0).choice((1, -1), size=(_PATTERNS, len(array)))
        signs = np.concatenate([np.ones((1, len(array))), drawn])
    slack = 1e-12 * np.abs(array).sum()  # sums of the same numbers in another order
    return float((np.abs(signs @ array) >= observed - slack).mean())


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p-values corrected for their number (Holm 1979), in the order given."""
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> list[float]:
    """first - second for every seed that both have."""
    return [first[seed] - second[seed] for seed in first if seed in second]


def variance_ratio(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """(ratio, low, high): variance of `first` over that of `second`, with the F 95% interval.

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
    return ratio, ratio / f.ppf(0.975, a, b), ratio / f.ppf(0.025, a, b)
