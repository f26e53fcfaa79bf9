"""The five claims about learning rates, as rows: parts, each a test of runs at one train size.

Nothing is judged here: a test gives the p of a difference and, where a margin says what matters,
of there being none that does; `verdicts` corrects and decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from jaxbert.lab.bootstrap import Effect
from jaxbert.lab.comparisons import (
    DRIFT,
    EARLY,
    IN_DOMAIN,
    OUT_OF_DOMAIN,
    OVERLAP,
    Outcome,
    describe,
    effect,
    values,
)
from jaxbert.lab.journals import Study
from jaxbert.lab.plan_file import OWN, PRETRAINING
from jaxbert.lab.sequential import ALPHA, projected_seeds, seeds_for_ratio
from jaxbert.lab.statistics import variance_ratio

YES, NO, SAME, UNCLEAR = "yes", "no", "equivalent", "unclear"
CONTROL = ""  # the study's


@dataclass(frozen=True)
class Finding:
    """What a test found at one train size, before any correction.

    Attributes:
      numbers: in words.
      p: of "there is no difference", two-sided.
      direction: what the difference says of the part, yes or no, if it is one.
      margin_p: of "there is one that matters"; None where no margin says so.
      within: what it says of the part if there is none: equivalent, or yes.
      seeds: that it is of.
      toward: the answer that more seeds would give, if the difference is what it seems.
      projected: seeds that this would take with the strictest correction, `BEYOND` = over 1,000;
        None = cannot be said.
    """

    numbers: str
    p: float
    direction: str
    margin_p: float | None = None
    within: str = SAME
    seeds: int = 0
    toward: str = UNCLEAR
    projected: float | None = None


class Compared(NamedTuple):
    """A comparison that seeds are added for."""

    first: str
    second: str
    outcome: Outcome


class Test(Protocol):
    """A part of a claim."""

    @property
    def text(self) -> str:
        """What is claimed."""

    @property
    def outcome(self) -> Outcome:
        """Of what it is said."""

    def names(self, study: Study) -> tuple[str, ...]:
        """Strategies without which it cannot be tested."""

    def compared(self, study: Study) -> Iterator[Compared]:
        """Comparisons that have a margin."""

    def __call__(self, study: Study, size: str) -> Finding | None:
        """None where there are no runs for it."""


def named(study: Study, name: str) -> str:
    """A strategy of a claim as the study calls it."""
    if name == PRETRAINING and OWN in study.strategies:
        return OWN
    return name or study.control


@dataclass(frozen=True)
class _Pair:
    """Two strategies and an outcome."""

    text: str
    outcome: Outcome
    first: str
    second: str = CONTROL

    def names(self, study: Study) -> tuple[str, ...]:
        return named(study, self.first), named(study, self.second)

    def compared(self, study: Study) -> Iterator[Compared]:
        if self.outcome.margin(study) is not None:
            first, second = self.names(study)
            yield Compared(first, second, self.outcome)


@dataclass(frozen=True)
class More(_Pair):
    """ "`first` has more than `second`", or less with sign -1."""

    sign: int = 1

    def __call__(self, study: Study, size: str) -> Finding | None:
        found = effect(study, size, *self.names(study), self.outcome)
        if found is None:
            return None
        margin = self.outcome.margin(study)
        # Until the interval leaves out 0, or has no more than the margin.
        width = max(2 * abs(found.mean), margin or 0.0)
        direction = YES if found.mean * self.sign > 0 else NO
        percent = self.outcome.sets is not None and study.metric.in_percent
        return Finding(
            describe(found.interval(), percent) + _failures(study, size, self.names(study)),
            found.p,
            direction,
            None if margin is None else found.equivalence_p(margin),
            seeds=found.seeds,
            toward=SAME if margin is not None and width == margin else direction,
            projected=_needed(found, width),
        )


@dataclass(frozen=True)
class NoGain(_Pair):
    """ "`first` has no more than `second`", but for the margin."""

    def __call__(self, study: Study, size: str) -> Finding | None:
        found = effect(study, size, *self.names(study), self.outcome)
        margin = self.outcome.margin(study)
        if found is None:
            return None
        told = describe(found.interval(), study.metric.in_percent)
        gain = NO if found.mean > (margin or 0.0) / 2 else YES
        return Finding(
            told + _failures(study, size, self.names(study)),
            found.p,
            NO if found.mean > 0 else YES,
            None if margin is None else found.p_below(margin),
            YES,
            found.seeds,
            gain,
            _until_one_sided(found, found.mean, margin or 0.0),
        )


@dataclass(frozen=True)
class NotWorse:
    """ "`first` has no less than any other strategy of the claims", but for the margin."""

    text: str
    outcome: Outcome
    first: str

    def names(self, study: Study) -> tuple[str, ...]:
        return (self.first,)

    def _others(self, study: Study) -> list[str]:
        own = {named(study, name) for claim in CLAIMS for name in (claim.strategy, CONTROL)}
        return [name for name in study.strategies if name in own and name != self.first]

    def compared(self, study: Study) -> Iterator[Compared]:
        if self.outcome.margin(study) is not None:
            for other in self._others(study):
                yield Compared(self.first, other, self.outcome)

    def __call__(self, study: Study, size: str) -> Finding | None:
        margin = self.outcome.margin(study)
        found = {
            name: gap
            for name in self._others(study)
            if (gap := effect(study, size, self.first, name, self.outcome)) is not None
        }
        if not found:
            return None
        name, worst = min(found.items(), key=lambda item: item[1].mean)
        told = describe(worst.interval(), study.metric.in_percent)
        toward, projected = _projected([*found.values()], margin or 0.0)
        return Finding(
            f"least against {name}: {told}",
            # Worse than any: the smallest of as many (Bonferroni). Worse than none: the largest.
            min(1.0, len(found) * 2 * min(gap.p_below() for gap in found.values())),
            NO,
            None if margin is None else max(gap.p_above(-margin) for gap in found.values()),
            YES,
            worst.seeds,
            toward,
            projected,
        )


def _projected(gaps: Sequence[Effect], margin: float) -> tuple[str, float | None]:
    """What they will say together, and the seeds: one that is worse decides, else the slowest."""
    still = [gap for gap in gaps if gap.p_above(-margin) >= ALPHA]
    worse = [gap for gap in still if gap.mean < -margin / 2]
    wanted = [_until_one_sided(gap, -gap.mean, margin) for gap in worse or still]
    known = [number for number in wanted if number is not None]
    if worse:
        return NO, min(known, default=None)
    return YES, max(known, default=None) if len(known) == len(wanted) else None


def _until_one_sided(gap: Effect, much: float, margin: float) -> float | None:
    """Seeds until the interval leaves out the margin, or 0, whichever is further from `much`."""
    return _needed(gap, 2 * max(margin - much, much))


def _needed(gap: Effect, width: float) -> float | None:
    """Seeds until the interval is no wider, at the level that Holm's procedure begins with."""
    return projected_seeds(gap, width, _strictest()) if width else None


def _strictest() -> float:
    return ALPHA / sum(len(claim.parts) for claim in CLAIMS)


@dataclass(frozen=True)
class MoreVariable(_Pair):
    """ "`first` varies more over seeds than `second`", by the F test of the variances."""

    def compared(self, study: Study) -> Iterator[Compared]:
        yield from ()

    def __call__(self, study: Study, size: str) -> Finding | None:
        cells = [values(study, size, name, self.outcome) for name in self.names(study)]
        try:
            found = variance_ratio(*(list(cell.values()) for cell in cells))
        except ValueError:
            return None
        direction = YES if found.ratio > 1 else NO
        return Finding(
            f"variance ratio {found.ratio:.2g} ({found.low:.2g} to {found.high:.2g})",
            found.p,
            direction,
            seeds=min(map(len, cells)),
            toward=direction,
            projected=seeds_for_ratio(found.ratio, _strictest()),
        )


def _failures(study: Study, size: str, names: tuple[str, ...]) -> str:
    cells = [study.cell(size, name).values() for name in names]
    failed = [sum(run.failed for run in cell) for cell in cells]
    if not any(failed):
        return ""
    counts = (f"{f} of {len(cell)}" for f, cell in zip(failed, cells, strict=True))
    return f"; failed runs: {', '.join(counts)}"


class Claim(NamedTuple):
    """A claim, the strategy that it is about, and its parts."""

    text: str
    strategy: str
    parts: tuple[Test, ...]


CLAIMS = (
    Claim(
        "A very high learning rate throughout diverges, or forgets what pre-training learned.",
        "high",
        (
            More("less accurate in domain than the control", IN_DOMAIN, "high", sign=-1),
            More(
                "keeps fewer of the nearest neighbours of sentence embeddings than the control",
                OVERLAP, "high", sign=-1,
            ),
        ),
    ),
    Claim(
        "The pre-training rate, unchanged, makes larger updates than fine-tuning on a small set "
        "wants.",
        PRETRAINING,
        (
            More("moves the layers further than the control", DRIFT, PRETRAINING),
            More("less accurate in domain than the control", IN_DOMAIN, PRETRAINING, sign=-1),
        ),
    ),
    Claim(
        "Annealing from a relatively high rate is good, but blind to the layers.",
        "annealing",
        (
            More(
                "more accurate in domain than the constant pre-training rate",
                IN_DOMAIN, "annealing", PRETRAINING,
            ),
            More(
                "less accurate in domain than `discriminative`",
                IN_DOMAIN, "annealing", "discriminative", sign=-1,
            ),
        ),
    ),
    Claim(
        "A cyclical rate brings extra variability with little use here.",
        "cyclical",
        (
            NoGain("no more accurate in domain than the control", IN_DOMAIN, "cyclical"),
            MoreVariable("accuracy varies more over seeds than the control's", IN_DOMAIN,
                         "cyclical"),
        ),
    ),
    Claim(
        "A rate lower than in pre-training, lowest for the early layers, is the best: early layers "
        "keep their general representations.",
        "discriminative",
        (
            NotWorse("no less accurate in domain than any other strategy", IN_DOMAIN,
                     "discriminative"),
            More("more accurate in domain than the control", IN_DOMAIN, "discriminative"),
            More("more accurate out of domain than the control", OUT_OF_DOMAIN, "discriminative"),
            More(
                "early layers stay more similar (CKA) to the pre-trained ones than the control's",
                EARLY, "discriminative",
            ),
        ),
    ),
)  # fmt: skip


def compared(study: Study) -> list[Compared]:
    """Every comparison of the claims that has a margin, and whose strategies the study has."""
    there = set(study.strategies)
    found = [c for claim in CLAIMS for test in claim.parts for c in test.compared(study)]
    return [c for c in dict.fromkeys(found) if {c.first, c.second} <= there]
