"""Each claim comes out supported, contradicted, equivalent or undecided as its numbers say."""

import lab_journals
import numpy as np
import pytest

from jaxbert.lab.claims import compared
from jaxbert.lab.comparisons import IN_DOMAIN, effect
from jaxbert.lab.journals import read
from jaxbert.lab.plan_file import OWN
from jaxbert.lab.sequential import BEYOND
from jaxbert.lab.tables import wanted
from jaxbert.lab.verdicts import (
    CONTRADICTED,
    DEPENDS,
    EQUIVALENT,
    NOT_TESTED,
    SUPPORTED,
    UNDECIDED,
    judge,
    summary,
)

FIVE = ["high", "pretraining", "annealing", "cyclical", "discriminative"]


def runs(mean, spread=0.002, count=5, **numbers):
    """Runs around a mean, of numbers that do not vary."""
    return [{"test": mean + spread * i, **numbers} for i in np.linspace(-1, 1, count)]


def study(tmp_path, sizes=("200",), strategies=("uniform", *FIVE), **cells):
    given = {(s, name): cell for name, cell in cells.items() for s in sizes}
    return read(lab_journals.study(tmp_path, strategies, sizes=sizes, seeds=5, cells=given))


def verdicts(tmp_path, **cells):
    return {v.strategy: v for v in judge(study(tmp_path, **cells))}


def test_all_supported(tmp_path):
    # The noise of strategies differs in its size, so that differences have some too.
    found = verdicts(
        tmp_path,
        uniform=runs(0.80),
        high=runs(0.55, 0.01, overlap=0.1),
        pretraining=runs(0.77, 0.003, drift=0.4),
        annealing=runs(0.79, 0.004),
        cyclical=runs(0.50, 0.1),
        discriminative=runs(0.85, 0.003, outside=0.7, cka=0.99),
    )
    assert [v.verdict for v in found.values()] == [SUPPORTED] * 5
    assert found["high"].by_size == (("200", SUPPORTED),)


def test_contradicted(tmp_path):
    found = verdicts(
        tmp_path,
        uniform=runs(0.80),
        high=runs(0.85, 0.003),
        pretraining=runs(0.85, 0.003, drift=0.05),
        annealing=runs(0.90, 0.003),
        cyclical=runs(0.88, 0.003),
        discriminative=runs(0.75, 0.003),
    )
    assert [v.verdict for v in found.values()] == [CONTRADICTED] * 5


def test_equivalent_within_the_margin(tmp_path):
    """A tenth of a point is no difference, though it is significant."""
    found = verdicts(
        tmp_path,
        uniform=runs(0.80),
        high=runs(0.801, 0.0022, overlap=0.1),
        pretraining=runs(0.801, 0.0022, drift=0.4),
        annealing=runs(0.801, 0.0024),
        cyclical=runs(0.801, 0.0026),
        discriminative=runs(0.801, 0.0022, cka=0.99),
    )
    assert found["high"].verdict == found["pretraining"].verdict == EQUIVALENT
    assert found["annealing"].verdict == EQUIVALENT
    assert found["discriminative"].verdict == EQUIVALENT
    answers = [part.answer for part in found["discriminative"].parts]
    assert answers == ["yes", "equivalent", "equivalent", "yes"]


def test_undecided_within_the_noise_says_how_many_more(tmp_path):
    noisy = [{"test": 0.8 + d} for d in (0.01, -0.01, 0.002, 0.0, -0.002)]
    found = verdicts(tmp_path, uniform=runs(0.80, 0), **dict.fromkeys(FIVE, noisy))
    # But for annealing, whose runs are those of the two that it is compared with.
    assert found.pop("annealing").verdict == EQUIVALENT
    assert {v.verdict for v in found.values()} == {UNDECIDED}
    high = found["high"].parts[0].answers[0]
    # A standard deviation of .72 points: a width of .5 at 2 t s / sqrt n, n = 73; of 12 tests, t is
    # that of .05 / 12.
    assert (high.seeds, high.projected, high.lacking) == (5, 73, 68)
    assert high.toward == "equivalent"
    # Neighbours are the same in all runs: nothing will ever tell them apart.
    assert found["high"].lacking("200") is None
    cyclical = found["cyclical"]
    # No more than the control by the margin: half an interval as wide as that, n = 22.
    gain = cyclical.parts[0].answers[0]
    assert (gain.toward, gain.lacking) == ("yes", 17)
    assert "no number of seeds known" in wanted(cyclical, "200")


def test_what_a_thousand_seeds_would_not_decide_is_said_so(tmp_path):
    noisy = [{"test": 0.8 + d, "overlap": 0.1} for d in (0.1, -0.1, 0.02, 0.0, -0.02)]
    found = verdicts(tmp_path, uniform=runs(0.80, 0), high=noisy)
    assert wanted(found["high"], "200") == " (1,000 seeds would not do)"


def test_how_many_runs_an_undecided_claim_wants(tmp_path):
    noisy = [{"test": 0.8 + d, "overlap": 0.1} for d in (0.01, -0.01, 0.002, 0.0, -0.002)]
    found = verdicts(tmp_path, uniform=runs(0.80, 0), high=noisy)
    assert found["high"].lacking("200") == 68
    assert wanted(found["high"], "200") == " (about 68 more seeds, 136 runs a comparison)"


def test_a_large_difference_takes_fewer_seeds_than_a_narrow_interval(tmp_path):
    away = (0.06, -0.06, 0.04, 0.0, -0.04)  # 5.1 points of deviation
    noisy = [{"test": 0.75 + d, "overlap": 0.1} for d in away]
    found = verdicts(tmp_path, uniform=runs(0.80, 0), high=noisy)
    high = found["high"].parts[0].answers[0]
    assert (high.answer, high.toward) == ("unclear", "yes")
    assert high.projected == 13  # t s / sqrt n: 5.0 points, as far as it is from none


@pytest.mark.parametrize(("mean", "toward", "projected"), [(0.75, "no", 13), (0.8, "yes", 859)])
def test_worse_than_any_or_no_worse_than_all(tmp_path, mean, toward, projected):
    # Seeds until t s / sqrt n is the mean, or the margin: 5.0 or .5 points, s = 5.1.
    noisy = [{"test": mean + d} for d in (0.06, -0.06, 0.04, 0.0, -0.04)]
    others = dict.fromkeys(["uniform", *FIVE], runs(0.80, 0))
    claim = verdicts(tmp_path, **{**others, "discriminative": noisy})["discriminative"]
    answer = claim.parts[0].answers[0]
    assert (answer.answer, answer.toward, answer.projected) == ("unclear", toward, projected)


def test_one_part_that_says_no_decides_a_claim(tmp_path):
    away = (0.06, -0.06, 0.04, 0.0, -0.04)
    more = [{"test": 0.85 + d, "overlap": 0.499 + 2 * d} for d in away]
    claim = verdicts(tmp_path, uniform=runs(0.80, 0), high=more)["high"]
    accuracy, overlap = (part.answers[0] for part in claim.parts)
    assert (accuracy.toward, overlap.toward) == ("no", "yes")
    assert overlap.lacking == BEYOND
    assert claim.lacking("200") == accuracy.lacking == 8  # of 13


def test_a_strategy_that_diverges_has_guessed(tmp_path):
    dead = [{"diverged": True}] * 5
    found = verdicts(tmp_path, uniform=runs(0.8), **dict.fromkeys(FIVE, dead))
    assert found["high"].verdict == SUPPORTED
    assert "-30.0 points" in found["high"].parts[0].answers[0].numbers  # against a coin
    assert "failed runs: 5 of 5, 0 of 5" in found["high"].parts[0].answers[0].numbers
    assert found["discriminative"].verdict == CONTRADICTED


def test_missing_strategies_are_not_tested(tmp_path):
    found = verdicts(tmp_path, strategies=("uniform", "high"), uniform=runs(0.8), high=runs(0.5))
    assert found["high"].verdict != NOT_TESTED
    assert {found[name].verdict for name in FIVE[1:]} == {NOT_TESTED}


def test_what_depends_on_the_train_size_says_so(tmp_path):
    cells = {
        ("200", "uniform"): runs(0.8), ("200", "high"): runs(0.5, 0.003, overlap=0.1),
        ("full", "uniform"): runs(0.8), ("full", "high"): runs(0.9, 0.003, overlap=0.1),
    }  # fmt: skip
    lab_journals.study(tmp_path, ["uniform", "high"], sizes=("200", "full"), seeds=5, cells=cells)
    high, *_ = judge(read(tmp_path))
    accuracy, overlap = high.parts
    assert [a.answer for a in accuracy.answers] == ["yes", "no"]
    assert (accuracy.answer, overlap.answer) == (DEPENDS, "yes")
    assert high.by_size == (("200", SUPPORTED), ("full", CONTRADICTED))
    assert high.verdict == DEPENDS


def test_one_seed_decides_nothing(tmp_path):
    found = verdicts(tmp_path, uniform=runs(0.8)[:1], high=runs(0.3, overlap=0.3)[:1])
    assert found["high"].verdict == UNDECIDED
    assert "one seed" in found["high"].parts[0].answers[0].numbers
    assert found["pretraining"].parts[0].answers == ()


def test_a_train_sizes_tests_are_one_family(tmp_path):
    """A p of .03 is no finding where eleven are looked at."""
    near = [0.8 + d for d in (0.004, 0.012, 0.013, 0.005, 0.001)]
    found = study(tmp_path, uniform=runs(0.8, 0), high=[{"test": v, "overlap": 0.1} for v in near])
    assert 0.02 < effect(found, "200", "high", "uniform", IN_DOMAIN).p < 0.05
    # Of this and the neighbours, whose p is 0, the larger is left as it is.
    assert judge(found)[0].parts[0].answer == "no"
    more = {name: [{"test": v} for v in near] for name in FIVE[1:]}
    lab_journals.study(tmp_path, ["uniform", *FIVE], seeds=5,
                       cells={("200", name): cell for name, cell in more.items()})  # fmt: skip
    assert judge(read(tmp_path))[0].parts[0].answer == "unclear"


def test_examples_count_where_they_are_known(tmp_path):
    """Seeds that all fail on the same examples say little of another test set."""
    rng = np.random.default_rng(0)
    easy = rng.random(300) < 0.8
    better = easy.copy()
    better[rng.permutation(np.flatnonzero(~easy))[:6]] = True  # two points, always the same six
    flips = lambda hits, seed: hits ^ (np.arange(300) == seed)  # noqa: E731
    cells = {
        ("200", name): [{"hits": {"test": flips(hits, s), "mail": hits}} for s in range(5)]
        for name, hits in (("uniform", easy), ("high", better))
    }
    lab_journals.study(tmp_path / "with", ["uniform", "high"], seeds=5, cells=cells)
    plain = {
        key: [{"test": run["hits"]["test"].mean()} for run in cell] for key, cell in cells.items()
    }
    lab_journals.study(tmp_path / "without", ["uniform", "high"], seeds=5, cells=plain)
    found = [effect(read(tmp_path / name), "200", "high", "uniform", IN_DOMAIN)
             for name in ("with", "without")]  # fmt: skip
    assert found[0].mean == pytest.approx(found[1].mean)
    assert found[0].standard_error > 5 * found[1].standard_error
    # 6 of 300 examples: sqrt(.02 .98 / 300) = .8 points.
    assert found[0].standard_error == pytest.approx(0.0081, rel=0.1)


def test_the_models_own_pretraining_rate_is_what_is_judged(tmp_path):
    found = study(
        tmp_path,
        strategies=("uniform", "pretraining", OWN),
        uniform=runs(0.8),
        pretraining=runs(0.8, 0.0022, drift=0.1),
        **{OWN: runs(0.7, 0.003, drift=0.4)},
    )
    assert judge(found)[1].verdict == SUPPORTED
    assert (OWN, "uniform", IN_DOMAIN) in compared(found)
    assert ("pretraining", "uniform", IN_DOMAIN) not in compared(found)


@pytest.mark.parametrize("control", ["high", "discriminative"])
def test_any_strategy_may_be_the_control(tmp_path, control):
    cells = {("200", name): runs(0.7 + 0.02 * i) for i, name in enumerate(["uniform", *FIVE])}
    lab_journals.study(tmp_path, ["uniform", *FIVE], seeds=5, control=control, cells=cells)
    assert len(judge(read(tmp_path))) == 5


def test_without_sets_from_elsewhere_nothing_is_asked_of_them(tmp_path):
    cells = {("200", name): runs(m, cka=c) for name, m, c in (("uniform", 0.8, 0.9),
             ("discriminative", 0.85, 0.99))}  # fmt: skip
    lab_journals.study(tmp_path, ["uniform", "discriminative"], seeds=5, cells=cells,
                       out_of_domain=[])  # fmt: skip
    found = judge(read(tmp_path))[-1]
    assert [part.answer for part in found.parts] == ["yes", "yes", "yes"]
    assert found.verdict == SUPPORTED


def test_one_word_for_several():
    assert summary([]) == NOT_TESTED
    assert summary([UNDECIDED, NOT_TESTED]) == UNDECIDED
    assert summary([SUPPORTED, UNDECIDED]) == SUPPORTED
    assert summary([SUPPORTED, EQUIVALENT]) == DEPENDS
