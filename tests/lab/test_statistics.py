"""Statistics against closed forms, scipy and hand-computed values."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from jaxbert.lab.statistics import holm, mean_interval, variance_ratio


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
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_holm_by_hand():
    # Sorted .01 .02 .04 times 3, 2, 1: .03 .04 .04; order kept.
    assert holm({"a": 0.04, "b": 0.01, "c": 0.02}) == pytest.approx(
        {"a": 0.04, "b": 0.03, "c": 0.04}
    )
    assert holm({"a": 0.6, "b": 0.5}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@pytest.mark.parametrize("seed", range(20))
def test_holm_rejects_what_stepping_down_rejects(seed):
    """Holm 1979 as he writes it: the smallest p against a / m, the next against a / (m - 1), ..."""
    p = dict(enumerate(np.random.default_rng(seed).beta(0.3, 4, size=7)))
    rejected, order = set(), sorted(p, key=p.get)
    for step, name in enumerate(order):
        if p[name] > 0.05 / (len(p) - step):
            break
        rejected.add(name)
    corrected = holm({str(name): value for name, value in p.items()})
    assert {int(name) for name, value in corrected.items() if value <= 0.05} == rejected


def test_variance_ratio_against_scipy():
    first, second = [1.0, 5.0, 9.0, 2.0], [3.0, 3.5, 4.0, 2.5, 3.2]
    ratio, low, high, p = variance_ratio(first, second)
    assert ratio == pytest.approx(np.var(first, ddof=1) / np.var(second, ddof=1))
    assert p == pytest.approx(2 * min(stats.f.sf(ratio, 3, 4), stats.f.cdf(ratio, 3, 4)))
    # The interval excludes 1 exactly where the F test at 5% rejects.
    assert (low > 1 or high < 1) == (p < 0.05)
    with pytest.raises(ValueError, match="two values"):
        variance_ratio([1.0], second)
    with pytest.raises(ValueError, match="no variance"):
        variance_ratio(first, [1.0, 1.0])
