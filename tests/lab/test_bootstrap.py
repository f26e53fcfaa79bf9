"""Effects over seeds and over test examples: by hand, against scipy, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from jaxbert.errors import InputError
from jaxbert.lab.bootstrap import crossed_effect, student_effect

THREE = [0.01, 0.02, 0.03]  # mean .02, standard deviation .01


def test_students_effect_by_hand():
    effect = student_effect(THREE)
    error = 0.01 / 3**0.5
    assert (effect.mean, effect.standard_error) == pytest.approx((0.02, error))
    found = effect.interval()
    # t(.975, 2) = 4.3027
    assert (found.low, found.high) == pytest.approx(
        (0.02 - 4.3027 * error, 0.02 + 4.3027 * error), rel=1e-3
    )
    # With two degrees of freedom P(T > t) is 1/2 - t / 2 sqrt(2 + t^2); t = .02 / error = sqrt 12.
    assert effect.p == pytest.approx(2 * (0.5 - 12**0.5 / (2 * 14**0.5)))


def test_two_one_sided_tests_by_hand_and_as_scipy_has_them():
    effect = student_effect(THREE)
    # The upper side decides: t = (.05 - .02) / error = sqrt 27.
    assert effect.equivalence_p(0.05) == pytest.approx(0.5 - 27**0.5 / (2 * 29**0.5))
    for margin in (0.005, 0.02, 0.05):
        above = stats.ttest_1samp(THREE, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(THREE, margin, alternative="less").pvalue
        assert effect.equivalence_p(margin) == pytest.approx(max(above, below))
        # As the 90% interval within the margin.
        within = effect.interval(0.9)
        inside = within.low > -margin and within.high < margin
        assert (effect.equivalence_p(margin) < 0.05) == inside


def test_no_variance_and_no_seeds():
    same = student_effect([0.1, 0.1])
    assert (same.p, same.equivalence_p(0.2), same.equivalence_p(0.05)) == (0, 0, 1)
    one = student_effect([0.3])
    assert (one.interval().low, one.p, one.equivalence_p(1.0)) == (None, 1, 1)
    alone = crossed_effect([np.ones((1, 5))])
    assert (alone.interval().high, alone.p) == (None, 1)
    with pytest.raises(InputError, match="no differences"):
        student_effect([])
    for tables in ([], [np.zeros((2, 3)), np.zeros((3, 3))], [np.zeros((0, 3))]):
        with pytest.raises(InputError, match="each of the same seeds"):
            crossed_effect(tables)


def test_where_only_seeds_differ_it_is_students():
    rows = np.array([0.0, 1.0, 3.0, 4.0, 1.0])
    effect = crossed_effect([np.tile(rows[:, None], 40)], resamples=40_000)
    plain = student_effect(rows)
    assert effect.standard_error == pytest.approx(plain.standard_error)
    assert effect.degrees == 4
    half = plain.interval().high - plain.mean
    assert effect.interval().high - effect.mean == pytest.approx(half, rel=0.03)
    assert effect.p == pytest.approx(plain.p, rel=0.1)


def test_where_only_examples_differ_no_seed_helps():
    columns = np.random.default_rng(0).integers(-1, 2, 500).astype(float)
    effect = crossed_effect([np.tile(columns, (4, 1))])
    error = columns.std(ddof=1) / 500**0.5
    assert effect.standard_error == pytest.approx(error)
    assert effect.seed_variance == 0
    found = effect.interval()
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.03)


def test_the_error_is_that_of_the_analysis_of_variance():
    rng = np.random.default_rng(1)
    rows, columns = rng.normal(size=(6, 1)), rng.normal(size=30)
    table = rows + columns + rng.normal(size=(6, 30))
    mean = table.mean()
    square_rows = 30 * ((table.mean(1) - mean) ** 2).sum() / 5
    square_columns = 6 * ((table.mean(0) - mean) ** 2).sum() / 29
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + mean
    square_rest = (rest**2).sum() / (5 * 29)
    # E of it is the variance of the mean (Cornfield & Tukey 1956): rows, columns, less the noise
    # that both hold.
    wanted = (square_rows + square_columns - square_rest) / (6 * 30)
    assert crossed_effect([table]).standard_error ** 2 == pytest.approx(wanted)
    # Of two sets the means count alike, whatever their sizes.
    other = rows + rng.normal(size=8)
    both = crossed_effect([table, other])
    assert both.mean == pytest.approx((mean + other.mean()) / 2)
    together = (table.mean(1) + other.mean(1)) / 2
    own = max(0, (square_columns - square_rest) / 6) / 30
    assert both.standard_error**2 == pytest.approx(
        together.var(ddof=1) / 6 + own / 4 + other.mean(0).var(ddof=1) / 8 / 4
    )


def test_p_and_interval_agree_and_repeat():
    for shift in np.linspace(-0.1, 0.1, 9):
        table = np.random.default_rng(3).normal(shift, 1, size=(5, 80))
        effect, again = crossed_effect([table]), crossed_effect([table])
        found = effect.interval()
        assert (effect.p < 0.05) == (found.low > 0 or found.high < 0)
        assert found == again.interval()
        inner = effect.interval(0.9)
        assert (effect.equivalence_p(0.2) < 0.05) == (inner.low > -0.2 and inner.high < 0.2)


def simulated(rng, seeds, examples, of_seed, of_example):
    """Right or wrong, of two strategies that are equally good: [S, E] differences, the truth 0.

    Examples are easy or hard for both, and by `of_example` for one of them; a seed is lucky by
    `of_seed`; the rest is the toss of each answer.
    """
    easy = rng.normal(1, 1.5, size=examples)
    right = []
    for _ in range(2):
        odds = easy + rng.normal(0, of_example, examples) + rng.normal(0, of_seed, (seeds, 1))
        right.append(rng.random((seeds, examples)) < 1 / (1 + np.exp(-odds)))
    return right[0].astype(float) - right[1]


TIMES = 400


@pytest.mark.parametrize(
    ("seeds", "of_seed", "of_example"),
    [(5, 0.3, 0.0), (5, 0.0, 2.0), (5, 0.2, 0.5), (12, 0.2, 0.5), (3, 0.2, 0.5)],
)
def test_the_interval_covers_as_often_as_it_says(seeds, of_seed, of_example):
    """Nominal 95%: 380 of 400.

    How often an exact interval covers is binomial with a standard deviation of 4.4 in 400; three
    and a half of them are 15: a right one leaves 365 to 395 in one of two thousand tries.
    """
    rng = np.random.default_rng(seeds)
    covered, blind = 0, 0
    for _ in range(TIMES):
        table = simulated(rng, seeds, 300, of_seed, of_example)
        found = crossed_effect([table], resamples=600).interval()
        covered += found.low <= 0 <= found.high
        alone = student_effect(table.mean(axis=1)).interval()
        blind += alone.low <= 0 <= alone.high
    assert 365 <= covered <= 395
    if of_example == 2.0:  # seeds alone do not know that another test set would say something else
        assert blind < 340
