"""What is compared: an outcome of runs, and the effect of one strategy over another on it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxbert.lab.bootstrap import Effect, crossed_effect, student_effect
from jaxbert.lab.journals import Study
from jaxbert.lab.metric import ACCURACY
from jaxbert.lab.records import TEST, Run
from jaxbert.lab.statistics import Interval


@dataclass(frozen=True)
class Outcome:
    """A number of a run.

    Attributes:
      name: as in tables.
      value: of a run, the more the better if it is a score; None where it has none.
      margin: of a study: differences up to this do not matter; None where nobody can say.
      sets: of a study, for a score: the test sets whose scores' mean it is.
    """

    name: str
    value: Callable[[Run], float | None]
    margin: Callable[[Study], float | None] = lambda study: None
    sets: Callable[[Study], list[str]] | None = None


def _share(study: Study, margin: float) -> float | None:
    """A margin is of scores that are shares of a perfect one."""
    return margin if study.metric.in_percent else None


IN_DOMAIN = Outcome(
    "in domain",
    lambda run: run.metric.merit(run.score(TEST)),
    lambda study: _share(study, study.margins.in_domain),
    lambda study: [TEST],
)
OUT_OF_DOMAIN = Outcome(
    "out of domain",
    lambda run: run.metric.merit(run.out_of_domain),
    lambda study: _share(study, study.margins.out_of_domain),
    lambda study: study.out_of_domain,
)
# Of a run that diverged nothing is left that could be alike.
OVERLAP = Outcome(
    "neighbours kept", lambda run: 0.0 if run.diverged else run.end["neighbour_overlap"]
)
DRIFT = Outcome("drift", lambda run: run.mean_drift)
EARLY = Outcome("early layers' CKA", lambda run: run.mean_similarity(part="early"))


def value_of(study: Study, run: Run, outcome: Outcome) -> float | None:
    """The outcome of a run; of a score, one that diverged has guessed."""
    if outcome.sets is not None:
        if not outcome.sets(study):
            return None
        if run.diverged:
            return study.guess
    return outcome.value(run)


def values(study: Study, size: str, strategy: str, outcome: Outcome) -> dict[int, float]:
    """{seed: outcome} of a cell, where there is one."""
    cell = study.cell(size, strategy)
    found = {seed: value_of(study, run, outcome) for seed, run in cell.items()}
    return {seed: number for seed, number in found.items() if number is not None}


@functools.lru_cache(maxsize=4096)
def effect(study: Study, size: str, first: str, second: str, outcome: Outcome) -> Effect | None:
    """What `first` has more than `second`, over the seeds that both have; None of no seed.

    Over seeds and test examples, where the outcome is an accuracy and the journals say which
    examples were right; else over seeds.
    """
    ours, theirs = (values(study, size, name, outcome) for name in (first, second))
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return None
    if outcome.sets is not None and study.metric == ACCURACY:
        cells = study.cell(size, first), study.cell(size, second)
        pairs = [(cells[0][seed], cells[1][seed]) for seed in seeds]
        tables = [_differences(study, pairs, name) for name in outcome.sets(study)]
        known = [table for table in tables if table is not None]
        if len(known) == len(tables):
            return crossed_effect(known)
    return student_effect([ours[seed] - theirs[seed] for seed in seeds])


def _differences(study: Study, pairs: list[tuple[Run, Run]], data: str) -> np.ndarray | None:
    """[S, E]: right in the first run and not in the second, for each test example; None unknown."""
    rows = []
    for pair in pairs:
        first, second = (_hits(study, run, data) for run in pair)
        if first is None or second is None:
            return None
        rows.append(first - second)
    return np.stack(rows)


def _hits(study: Study, run: Run, data: str) -> np.ndarray | None:
    """[E]: 1 where it is right, 0 where not; what a coin has, all over, if it diverged."""
    count = study.count(data)
    if run.diverged:
        return np.full(count, study.guess or 0.0)
    correct = run.correct(data, count)
    return None if correct is None else correct.astype(np.float64)


def describe(interval: Interval, percent: bool = True) -> str:
    """In points of a percent, or as a plain number."""
    scale, unit = (100, " points") if percent else (1, "")
    digits = ".1f" if percent else ".2g"
    text = f"{scale * interval.mean:+{digits}}{unit}"
    if interval.low is None or interval.high is None:
        return f"{text} (one seed: no interval)"
    low, high = (f"{scale * end:+{digits}}" for end in (interval.low, interval.high))
    return f"{text} ({low} to {high}, {interval.count} seeds)"
