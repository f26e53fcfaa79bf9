"""How many seeds: the rule, its projections and power, against formulae and hand-chosen effects."""

import numpy as np
import pytest
from scipy import stats

from jaxbert.lab.bootstrap import Effect, student_effect
from jaxbert.lab.sequential import (
    BEYOND,
    Comparison,
    has_enough,
    more_seeds,
    power,
    projected_seeds,
    seeds_for_ratio,
    width_of_examples,
)

NOISY = Effect(0.0, 5, 1.0)  # a standard deviation of 1 from seed to seed


def width(effect, seeds):
    error = (effect.seed_variance / seeds + effect.example_variance) ** 0.5
    return 2 * stats.t.ppf(0.975, seeds - 1) * error


def test_the_projection_is_the_first_number_that_suffices():
    for wanted in (0.5, 1.0, 3.0):
        seeds = projected_seeds(NOISY, wanted)
        assert width(NOISY, seeds) <= wanted < width(NOISY, seeds - 1)
    assert projected_seeds(Effect(0.0, 5, 0.0), 0.1) == 2


def test_no_seed_makes_a_test_set_larger():
    floor = Effect(0.0, 5, 1.0, example_variance=0.1)  # 2 * 1.96 * sqrt .1 = 1.24
    assert width_of_examples(floor) == pytest.approx(1.2396, abs=1e-4)
    assert projected_seeds(floor, 1.2) == BEYOND
    assert projected_seeds(floor, 1.5) < 1000
    assert projected_seeds(Effect(0.0, 1, 0.0), 1.0) is None  # one seed knows no noise


def test_enough_is_narrow_or_far_beyond():
    assert has_enough(student_effect([0.1, 0.11, 0.09]), 0.06)
    # Its width is .0497, its 99% interval .043 to .157.
    assert not has_enough(student_effect([0.1, 0.11, 0.09]), 0.045)
    noise = np.array([-1.0, 0.0, 1.0, -0.5, 0.5])
    assert not has_enough(student_effect(noise + 2), 0.5)  # 95% beyond the margin, 99% not
    assert student_effect(noise + 2).interval().low > 0.5
    assert has_enough(student_effect(noise + 3), 0.5)
    assert has_enough(student_effect(noise - 3), 0.5)
    assert not has_enough(student_effect([0.1]), 9.0)


def test_seeds_are_added_by_the_rule():
    def of(seeds, deviation, mean=0.0):
        return Comparison(Effect(mean, seeds, deviation**2), 1.0)

    found = more_seeds(
        {
            "narrow": of(5, 0.1),
            "far": of(5, 1.0, mean=9.0),
            "near": of(8, 0.8),
            "noisy": of(5, 9.0),
            "noisy for long": of(20, 9.0),
            "spent": of(30, 9.0),
        }
    )
    # sd .8: 2 t sd / sqrt n falls below 1 at 13; the noisy ones are doubled, and stop at 30.
    assert projected_seeds(Effect(0.0, 8, 0.64), 1.0) == 13
    assert found == {"near": 13, "noisy": 10, "noisy for long": 30}
    assert more_seeds({"a": of(5, 9.0)}, most=7) == {"a": 7}


def test_a_ratio_of_variances_wants_many_seeds():
    seeds = seeds_for_ratio(2.0)
    p = [2 * stats.f.sf(2.0, n - 1, n - 1) for n in (seeds - 1, seeds)]
    assert p[1] <= 0.05 < p[0]
    assert seeds_for_ratio(0.5) == seeds
    assert seeds_for_ratio(1.01) == BEYOND
    assert seeds_for_ratio(0.0) == 2


def test_power_is_near_the_textbooks_numbers():
    """n = (z + z)^2 sd^2 / margin^2, and two or three more for Student's t."""
    found = power(NOISY, 0.2)
    equal = (stats.norm.ppf(0.95) + stats.norm.ppf(0.9)) ** 2 / 0.04
    different = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 / 0.04
    assert equal < found.equivalence < equal + 4
    assert different < found.difference < different + 4
    assert found.width == projected_seeds(NOISY, 0.2)
    assert power(NOISY, 0.01).equivalence == BEYOND


def test_power_by_simulation():
    """With the seeds that it names, eight of ten studies find equal strategies equivalent."""
    seeds = power(NOISY, 1.0).equivalence
    rng = np.random.default_rng(0)
    found = [student_effect(rng.normal(size=seeds)).equivalence_p(1.0) < 0.05 for _ in range(400)]
    # The standard deviation of 400 tosses at .8 is .02; the approximation is a little optimistic.
    assert np.mean(found) == pytest.approx(0.8, abs=0.07)
