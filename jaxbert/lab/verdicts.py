"""The five claims about learning rates, each judged by comparisons of numbers and a stated rule.

A claim has parts, and a part is a comparison at each train size: yes, no, or unclear. It is decided
by the 95% interval of the difference over paired seeds: it must lie on one side of zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxbert.lab.journals import TEST, Run, Study
from jaxbert.lab.statistics import Interval, mean_interval, paired, variance_ratio

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
NOT_TESTED = "not tested"
YES, NO, UNCLEAR = "yes", "no", "unclear"
MARGIN = 0.01  # accuracy: what is smaller does not count as a gain, or as a loss

RULE = (
    "A part of a claim is decided at a train size when the 95% interval of the difference, over "
    "the seeds that both strategies have, lies wholly on one side of zero. Over the train sizes a "
    "part holds (yes) if it is yes at one at least and no at none, fails (no) if it is no at one "
    "at least and yes at none, and is unclear otherwise. A claim is supported if all its parts "
    "hold, contradicted if one fails, and undecided at this sample size otherwise. Where the "
    "scores leave it open, the strategy with more failed runs is taken to be worse. 'No more' and "
    f"'no less' accurate mean by less than {100 * MARGIN:g} point, at that end of the interval."
)


@dataclass(frozen=True)
class Answer:
    """A part of a claim at one train size: yes, no or unclear, and the numbers that say so."""

    size: str
    answer: str
    numbers: str


@dataclass(frozen=True)
class Part:
    """A part of a claim: in words, and its answers by train size."""

    text: str
    answers: tuple[Answer, ...]

    @property
    def answer(self) -> str:
        """Over all train sizes; see RULE."""
        found = {a.answer for a in self.answers}
        if YES in found and NO not in found:
            return YES
        return NO if NO in found and YES not in found else UNCLEAR

    @property
    def depends_on_size(self) -> bool:
        """Whether it is yes at one train size and no at another."""
        return {YES, NO} <= {a.answer for a in self.answers}


@dataclass(frozen=True)
class Verdict:
    """A claim, what became of it, and why."""

    claim: str
    strategy: str
    verdict: str
    parts: tuple[Part, ...]


def judge(study: Study) -> list[Verdict]:
    """A verdict on each of the five claims."""
    return [_judge(study, *row) for row in _CLAIMS]


Value = Callable[[Run], float | None]


def _accuracy(run: Run) -> float | None:
    """By the study's metric: the more, the better."""
    return run.metric.merit(run.score(TEST))


def _outside(run: Run) -> float | None:
    return run.metric.merit(run.out_of_domain)


def difference(study: Study, size: str, first: str, second: str, value: Value) -> Interval | None:
    """The interval of first - second over paired seeds; None where there is no pair."""
    cells = [_values(study.cell(size, name), value) for name in (first, second)]
    pairs = paired(*cells)
    return mean_interval(pairs) if pairs else None


def _values(cell: Any, value: Value) -> dict[int, float]:
    found = {seed: value(run) for seed, run in cell.items()}
    return {seed: number for seed, number in found.items() if number is not None}


def _failures(study: Study, size: str, name: str) -> int:
    return sum(run.failed for run in study.cell(size, name).values())


@dataclass(frozen=True)
class _Comparison:
    """ "`first` has more (sign 1) or less (sign -1) of a value than `second`"; CONTROL = control.

    scores: whether the value is a score, so that failed runs count as worse.
    """

    text: str
    value: Value
    sign: int
    first: str
    second: str = ""
    scores: bool = True
    percent: bool = True

    def names(self, study: Study) -> tuple[str, str]:
        return self.first, self.second or study.control

    def __call__(self, study: Study, size: str) -> Answer | None:
        first, second = self.names(study)
        cells = study.cell(size, first), study.cell(size, second)
        if not all(cells):
            return None
        failed = [_failures(study, size, name) for name in (first, second)]
        interval = difference(study, size, first, second, self.value)
        percent = self.percent and study.metric.in_percent
        numbers = "no pairs" if interval is None else describe(interval, percent)
        if any(failed):
            numbers += (
                f"; failed runs: {failed[0]} of {len(cells[0])}, {failed[1]} of {len(cells[1])}"
            )
        return Answer(size, self._answer(interval, failed), numbers)

    def _answer(self, interval: Interval | None, failed: list[int]) -> str:
        signed = 0
        if interval is not None:
            signed = interval.above_zero - interval.below_zero
        if self.scores and not signed:
            signed = (failed[1] > failed[0]) - (failed[0] > failed[1])
        return UNCLEAR if not signed else YES if signed == self.sign else NO


@dataclass(frozen=True)
class _NoGain:
    """ "`first` is no more accurate than `second`", by less than MARGIN."""

    text: str
    first: str
    second: str = ""

    def names(self, study: Study) -> tuple[str, str]:
        return self.first, self.second or study.control

    def __call__(self, study: Study, size: str) -> Answer | None:
        interval = difference(study, size, *self.names(study), _accuracy)
        if interval is None:
            return None
        answer = UNCLEAR
        if interval.high is not None and interval.high < MARGIN:
            answer = YES
        elif interval.above_zero:
            answer = NO
        return Answer(size, answer, describe(interval, study.metric.in_percent))


@dataclass(frozen=True)
class _NotWorse:
    """ "`first` is no less accurate than any other strategy of the study", but for MARGIN."""

    text: str
    first: str

    def names(self, study: Study) -> tuple[str, ...]:
        return (self.first,)

    def __call__(self, study: Study, size: str) -> Answer | None:
        others = [name for name in study.strategies if name != self.first]
        found = {
            name: interval
            for name in others
            if (interval := difference(study, size, self.first, name, _accuracy)) is not None
        }
        if not found:
            return None
        name, worst = min(found.items(), key=lambda item: item[1].mean)
        lows = [interval.low for interval in found.values()]
        answer = UNCLEAR
        if any(interval.below_zero for interval in found.values()):
            answer = NO
        elif all(low is not None and low > -MARGIN for low in lows):
            answer = YES
        shown = describe(worst, study.metric.in_percent)
        return Answer(size, answer, f"least against {name}: {shown}")


@dataclass(frozen=True)
class _MoreVariable:
    """ "`first` varies more over seeds than `second`", by the F interval of the variances."""

    text: str
    first: str
    second: str = ""

    def names(self, study: Study) -> tuple[str, str]:
        return self.first, self.second or study.control

    def __call__(self, study: Study, size: str) -> Answer | None:
        cells = [_values(study.cell(size, n), _accuracy) for n in self.names(study)]
        try:
            ratio, low, high = variance_ratio(*(list(cell.values()) for cell in cells))
        except ValueError:
            return None
        answer = YES if low > 1 else NO if high < 1 else UNCLEAR
        return Answer(size, answer, f"variance ratio {ratio:.2g} ({low:.2g} to {high:.2g})")


def describe(interval: Interval, percent: bool = True) -> str:
    """In points of a percent, or as a plain number."""
    scale, unit = (100, " points") if percent else (1, "")
    digits = ".1f" if percent else ".2g"
    text = f"{scale * interval.mean:+{digits}}{unit}"
    if interval.low is None or interval.high is None:
        return f"{text} (one seed: no interval)"
    low, high = (f"{scale * end:+{digits}}" for end in (interval.low, interval.high))
    return f"{text} ({low} to {high}, {interval.count} seeds)"


def _judge(study: Study, claim: str, strategy: str, tests: tuple[Any, ...]) -> Verdict:
    names = {name for test in tests for name in test.names(study)}
    missing = names - set(study.strategies)
    if missing:
        return Verdict(claim, strategy, NOT_TESTED, ())
    parts = []
    for test in tests:
        answers = (test(study, size) for size in study.sizes)
        parts.append(Part(test.text, tuple(a for a in answers if a is not None)))
    found = [part.answer for part in parts]
    verdict = CONTRADICTED if NO in found else SUPPORTED if set(found) == {YES} else UNDECIDED
    return Verdict(claim, strategy, verdict, tuple(parts))


_CLAIMS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    (
        "A very high learning rate throughout diverges, or forgets what pre-training learned.",
        "high",
        (
            _Comparison("less accurate in domain than the control", _accuracy, -1, "high"),
            _Comparison(
                "keeps fewer of the nearest neighbours of sentence embeddings than the control",
                lambda run: run.end["neighbour_overlap"], -1, "high",
            ),
        ),
    ),
    (
        "The pre-training rate, unchanged, makes larger updates than fine-tuning on a small set "
        "wants.",
        "pretraining",
        (
            _Comparison(
                "moves the layers further than the control",
                lambda run: run.mean_drift, 1, "pretraining", scores=False, percent=False,
            ),
            _Comparison("less accurate in domain than the control", _accuracy, -1, "pretraining"),
        ),
    ),
    (
        "Annealing from a relatively high rate is good, but blind to the layers.",
        "annealing",
        (
            _Comparison(
                "more accurate in domain than the constant pre-training rate",
                _accuracy, 1, "annealing", "pretraining",
            ),
            _Comparison(
                "less accurate in domain than `discriminative`",
                _accuracy, -1, "annealing", "discriminative",
            ),
        ),
    ),
    (
        "A cyclical rate brings extra variability with little use here.",
        "cyclical",
        (
            _NoGain("no more accurate in domain than the control", "cyclical"),
            _MoreVariable("accuracy varies more over seeds than the control's", "cyclical"),
        ),
    ),
    (
        "A rate lower than in pre-training, lowest for the early layers, is the best: early layers "
        "keep their general representations.",
        "discriminative",
        (
            _NotWorse("no less accurate in domain than any other strategy", "discriminative"),
            _Comparison("more accurate in domain than the control", _accuracy, 1, "discriminative"),
            _Comparison(
                "more accurate out of domain than the control", _outside, 1, "discriminative"
            ),
            _Comparison(
                "early layers stay more similar (CKA) to the pre-trained ones than the control's",
                lambda run: run.mean_similarity(part="early"), 1, "discriminative", scores=False,
                percent=False,
            ),
        ),
    ),
)  # fmt: skip
