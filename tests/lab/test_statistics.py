"""Statistics against closed forms, scipy and hand-computed values."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from jaxbert.lab.statistics import holm, mean_interval, paired, sign_flip_p, variance_ratio


def test_the_interval_is_students():
    values = [0.81, 0.84, 0.79, 0.88, 0.83]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert dataclasses.astuple(found) == pytest.approx((np.mean(values), low, high, 5))
    # By hand: two values 1 apart, t(.975, 1) = 12.706, standard error 1/2.
    assert mean_interval([1, 2]).high == pytest.approx(1.5 + 12.7062 / 2, rel=1e-4)


def test_one_value_has_no_interval():
    found = mean_interval([0.5])
    assert (found.low, found.high) == (None, None)
    assert (found.above_zero, found.below_zero) == (False, False)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_sides_of_zero():
    assert mean_interval([1, 1.1, 0.9]).above_zero
    assert mean_interval([-1, -1.1, -0.9]).below_zero
    both = mean_interval([1, -1])
    assert (both.above_zero, both.below_zero) == (False, False)


def test_sign_flips_by_hand():
    assert sign_flip_p([1, 2, 3, 4, 5]) == 2 / 32  # only all signs alike reach it
    # |sum| = 2 of (3, -1): the patterns give 2, 4, -4, -2: all reach it.
    assert sign_flip_p([3, -1]) == 1
    # (3, 2, -1), |sum| = 4: of +-3 +-2 +-1 these reach it: 6, 4, -4, -6.
    assert sign_flip_p([3, 2, -1]) == 4 / 8
    assert sign_flip_p([0, 0]) == 1


def test_drawn_signs_agree_with_the_exact_test():
    values = np.random.default_rng(1).normal(0.4, 1, 13)
    exact = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p(values) == pytest.approx(exact.pvalue, abs=0.015)
    assert sign_flip_p(values) == sign_flip_p(values)


def test_holm_by_hand():
    # Sorted .01 .02 .04 times 3, 2, 1: .03 .04 .04; order kept.
    assert holm({"a": 0.04, "b": 0.01, "c": 0.02}) == pytest.approx(
        {"a": 0.04, "b": 0.03, "c": 0.04}
    )
    assert holm({"a": 0.6, "b": 0.5}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_pairs_are_of_the_same_seed():
    assert paired({0: 5, 1: 7, 2: 9}, {2: 1, 0: 2, 5: 100}) == [3, 8]


def test_variance_ratio_against_scipy():
    first, second = [1.0, 5.0, 9.0, 2.0], [3.0, 3.5, 4.0, 2.5, 3.2]
    ratio, low, high = variance_ratio(first, second)
    assert ratio == pytest.approx(np.var(first, ddof=1) / np.var(second, ddof=1))
    # The interval excludes 1 exactly where the F test at 5% rejects.
    p = 2 * min(stats.f.sf(ratio, 3, 4), stats.f.cdf(ratio, 3, 4))
    assert (low > 1 or high < 1) == (p < 0.05)
    with pytest.raises(ValueError, match="two values"):
        variance_ratio([1.0], second)
    with pytest.raises(ValueError, match="no variance"):
        variance_ratio(first, [1.0, 1.0])
