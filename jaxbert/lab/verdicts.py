"""Judges the claims by the tests of their parts, corrected for their number, and a stated rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jaxbert.lab.claims import CLAIMS, NO, SAME, UNCLEAR, Claim, Finding
from jaxbert.lab.journals import Study
from jaxbert.lab.statistics import holm

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
EQUIVALENT = "equivalent within the margin"
DEPENDS = "depends on the train size"
NOT_TESTED = "not tested"
ALPHA = 0.05

RULE = (
    "Differences are those of runs with the same seed. Where the journals say which test examples "
    "were right, an interval is that of a bootstrap over seeds and test examples, else Student's "
    "over seeds. At each train size, a part of a claim is equivalent if two one-sided tests put "
    "the difference within the margin; else yes or no if the difference is significant, whichever "
    "way it goes; and unclear otherwise. 'No more' and 'no less' mean: not by the margin, by one "
    "such test. All parts of all claims at one train size are one family, in which Holm's "
    f"procedure keeps the chance of any false yes or no at {ALPHA:.0%}, and that of any false "
    "equivalence too. A claim is supported if all its parts are yes, contradicted if one is no, "
    "equivalent if all parts are decided and some are equivalent, and undecided otherwise. A run "
    "that diverged scores as guessing; no run is left out. A part about sets from elsewhere is "
    "left out where there are none."
)


@dataclass(frozen=True)
class Answer:
    """A part of a claim at one train size: yes, no, equivalent or unclear, and why.

    seeds, toward, projected: of what it is, what more are expected to say, and how many would,
    `sequential.BEYOND` = more than can be run; None = cannot be said.
    """

    size: str
    answer: str
    numbers: str
    seeds: int = 0
    toward: str = UNCLEAR
    projected: float | None = None

    @property
    def lacking(self) -> float | None:
        """Seeds that an unclear answer still wants, one at least; None = cannot be said."""
        return None if self.projected is None else max(1, self.projected - self.seeds)


@dataclass(frozen=True)
class Part:
    """A part of a claim: in words, and its answers by train size."""

    text: str
    answers: tuple[Answer, ...]

    @property
    def answer(self) -> str:
        """Over all train sizes: what is decided, unless it depends on the size."""
        found = {a.answer for a in self.answers} - {UNCLEAR}
        return UNCLEAR if not found else found.pop() if len(found) == 1 else DEPENDS

    def at(self, size: str) -> Answer | None:
        """The answer at a train size."""
        return next((a for a in self.answers if a.size == size), None)


@dataclass(frozen=True)
class Verdict:
    """A claim, and what became of it, over all train sizes and at each."""

    claim: str
    strategy: str
    verdict: str
    parts: tuple[Part, ...]
    by_size: tuple[tuple[str, str], ...] = ()

    def lacking(self, size: str) -> float | None:
        """Seeds for each strategy that the undecided claim still wants; None = cannot be said.

        Until all its parts are decided, or one is no.
        """
        answers = [part.at(size) for part in self.parts]
        still = [answer for answer in answers if answer is None or answer.answer == UNCLEAR]
        wanted = [(answer.toward, answer.lacking) for answer in still if answer is not None]
        known = [seeds for _, seeds in wanted if seeds is not None]
        ways = [seeds for toward, seeds in wanted if toward == NO and seeds is not None]
        if known and len(known) == len(still):
            ways.append(max(known))
        return min(ways, default=None)


def judge(study: Study) -> list[Verdict]:
    """A verdict on each of the five claims."""
    found: dict[tuple[int, int, str], Finding] = {}
    for size in study.sizes:
        for i, claim in enumerate(CLAIMS):
            for j, test in enumerate(claim.parts):
                finding = test(study, size) if _is_there(study, claim) else None
                if finding is not None:
                    found[i, j, size] = finding
    answers = {
        key: answer
        for size in study.sizes
        for key, answer in _decide({k: f for k, f in found.items() if k[2] == size}).items()
    }
    return [_verdict(study, i, claim, answers) for i, claim in enumerate(CLAIMS)]


def _is_there(study: Study, claim: Claim) -> bool:
    names = {name for test in claim.parts for name in test.names(study)}
    return names <= set(study.strategies)


Key = tuple[int, int, str]


def _decide(family: dict[Key, Finding]) -> dict[Key, Answer]:
    """The answers of a family of tests."""
    key_of = {str(key): key for key in family}
    differ = holm({name: family[key].p for name, key in key_of.items()})
    within = holm({n: p for n, k in key_of.items() if (p := family[k].margin_p) is not None})
    answers = {}
    for name, key in key_of.items():
        finding, answer = family[key], UNCLEAR
        if within.get(name, 1.0) < ALPHA:
            answer = finding.within
        elif differ[name] < ALPHA:
            answer = finding.direction
        answers[key] = Answer(
            key[2], answer, finding.numbers, finding.seeds, finding.toward, finding.projected
        )
    return answers


def _verdict(study: Study, number: int, claim: Claim, answers: dict[Key, Answer]) -> Verdict:
    if not _is_there(study, claim):
        return Verdict(claim.text, claim.strategy, NOT_TESTED, ())
    parts = tuple(
        Part(
            test.text,
            tuple(a for size in study.sizes if (a := answers.get((number, j, size))) is not None),
        )
        for j, test in enumerate(claim.parts)
        if test.outcome.sets is None or test.outcome.sets(study)
    )
    by_size = []
    for size in study.sizes:
        there = [part.at(size) for part in parts]
        if any(there):
            by_size.append((size, _word([UNCLEAR if a is None else a.answer for a in there])))
    overall = summary(word for _, word in by_size)
    if any(part.answer == DEPENDS for part in parts):
        overall = DEPENDS
    return Verdict(claim.text, claim.strategy, overall, parts, tuple(by_size))


def _word(answers: list[str]) -> str:
    """The verdict at one train size."""
    if NO in answers:
        return CONTRADICTED
    if UNCLEAR in answers:
        return UNDECIDED
    return EQUIVALENT if SAME in answers else SUPPORTED


def summary(words: Iterable[str], several: str = DEPENDS) -> str:
    """One word for verdicts at several sizes, or tasks: what is decided, if it is one thing."""
    every = list(words)
    if not every:
        return NOT_TESTED
    decided = set(every) - {UNDECIDED, NOT_TESTED}
    return UNDECIDED if not decided else decided.pop() if len(decided) == 1 else several
