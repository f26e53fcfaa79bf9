"""Each claim comes out supported, contradicted or undecided as its numbers say."""

import lab_journals
import pytest

from jaxbert.lab.journals import read
from jaxbert.lab.verdicts import (
    CONTRADICTED,
    NOT_TESTED,
    SUPPORTED,
    UNCLEAR,
    UNDECIDED,
    judge,
)

FIVE = ["high", "pretraining", "annealing", "cyclical", "discriminative"]


def runs(mean, spread=0.002, **numbers):
    """Three runs around a mean, of numbers that do not vary."""
    return [{"test": mean + spread * i, **numbers} for i in (-1, 0, 1)]


def verdicts(tmp_path, sizes=("200",), strategies=("uniform", *FIVE), **cells):
    given = {(s, name): cell for name, cell in cells.items() for s in sizes}
    lab_journals.study(tmp_path, strategies, sizes=sizes, cells=given)
    return {v.strategy: v for v in judge(read(tmp_path))}


def test_all_supported(tmp_path):
    # The noise of strategies differs in its pattern, so that differences have some too.
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


def test_undecided_within_the_noise(tmp_path):
    noisy = [{"test": 0.8 + d} for d in (0.05, -0.05, 0.01)]
    even = runs(0.80)
    found = verdicts(tmp_path, uniform=even, **dict.fromkeys(FIVE, noisy))
    assert {v.verdict for v in found.values()} == {UNDECIDED}


def test_a_strategy_that_diverges_is_worse(tmp_path):
    dead = [{"test": 0, "diverged": True}] * 3
    found = verdicts(tmp_path, uniform=runs(0.8), **dict.fromkeys(FIVE, dead))
    assert found["high"].verdict == SUPPORTED
    assert "failed runs: 3 of 3, 0 of 3" in found["high"].parts[0].answers[0].numbers
    assert found["discriminative"].verdict == CONTRADICTED


def test_missing_strategies_are_not_tested(tmp_path):
    found = verdicts(tmp_path, strategies=("uniform", "high"), uniform=runs(0.8), high=runs(0.5))
    assert found["high"].verdict != NOT_TESTED
    assert {found[name].verdict for name in FIVE[1:]} == {NOT_TESTED}


def test_what_depends_on_the_train_size_is_unclear_and_says_so(tmp_path):
    cells = {
        ("200", "uniform"): runs(0.8), ("200", "high"): runs(0.5, 0.003, overlap=0.1),
        ("full", "uniform"): runs(0.8), ("full", "high"): runs(0.9, 0.003, overlap=0.1),
    }  # fmt: skip
    lab_journals.study(tmp_path, ["uniform", "high"], sizes=("200", "full"), cells=cells)
    high, *_ = judge(read(tmp_path))
    accuracy, overlap = high.parts
    assert [a.answer for a in accuracy.answers] == ["yes", "no"]
    assert accuracy.depends_on_size
    assert accuracy.answer == UNCLEAR
    assert overlap.answer == "yes"
    assert high.verdict == UNDECIDED


def test_one_seed_decides_nothing(tmp_path):
    found = verdicts(tmp_path, uniform=runs(0.8)[:1], high=runs(0.3, overlap=0.3)[:1])
    # But for a failure: a Matthews correlation below .1 is one.
    assert found["high"].parts[0].answer == "yes"
    assert (
        found["high"].parts[0].answers[0].numbers.startswith("-49.8 points (one seed: no interval)")
        or "one seed" in found["high"].parts[0].answers[0].numbers
    )
    assert found["pretraining"].parts[0].answers == ()


@pytest.mark.parametrize("control", ["high", "discriminative"])
def test_any_strategy_may_be_the_control(tmp_path, control):
    cells = {("200", name): runs(0.7 + 0.02 * i) for i, name in enumerate(["uniform", *FIVE])}
    lab_journals.study(tmp_path, ["uniform", *FIVE], control=control, cells=cells)
    assert len(judge(read(tmp_path))) == 5
