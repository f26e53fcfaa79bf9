"""The tables of TASKS.md: whole runs beside PyTorch's `Trainer`, and what masks do to training."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

import numpy as np

from benchmarks.first_step import SIDES as FIRST_STEP_SIDES
from benchmarks.level_data import LEVELS
from benchmarks.markdown import machine, table
from benchmarks.results import read_results
from jaxbert.lab.statistics import Interval, mean_interval

NOT_YET = "Not run yet: `python -m benchmarks.level --data DIR` does."
Runs = list[dict[str, Any]]
PERCENT = ("accuracy", "matthews", "spearman", "f1", "exact_match", "micro_f1")
# What else is shown of a task, beside what it is compared by.
SECOND = {"xquad": "exact_match"}


class Sides(NamedTuple):
    """The latest run of every seed, on both sides, of one task on the same rows."""

    ours: Runs
    theirs: Runs


def level() -> str:
    """Scores of every task on both sides, their difference, and seconds of the whole process."""
    found = {name: _sides(name) for name in LEVELS}
    rows = [
        row
        for name, sides in found.items()
        if sides.ours and sides.theirs
        for row in _rows(name, sides)
    ]
    if not rows:
        return NOT_YET
    header = ["data", "task", "rows: train, test", "seeds", "metric, %", "jaxbert", "PyTorch",
              "difference", "equal spread, p", "seconds: first, then", "PyTorch's",
              "faster"]  # fmt: skip
    runs = [run for sides in found.values() for side in sides for run in side]
    machines = ", ".join(sorted({machine(run) for run in runs}))
    note = (
        "Mean and 95% interval over seeds (Student's; Welch's for the difference: a seed draws "
        "other numbers on either side); that the sides spread alike, by Brown and Forsythe's test. "
        "Seconds of the whole process, from its start to the model saved, medians; jaxbert's first "
        "run of a task compiles, its next ones find the programs kept. Faster: medians after the "
        "first. `python -m benchmarks.level --data DIR --examples "
        f"N`, with N the training rows; the demo model, {machines}."
    )
    return f"{table(header, rows)}\n\n{note}"


def whole_runs() -> str:
    """Seconds of a whole run beside the ways that `Trainer` batches, where both were timed."""
    names = {"torch-padded": "padded to the limit", "torch-random": "as its defaults are",
             "torch": "grouped by length"}  # fmt: skip
    rows = []
    places = [(name, sides) for name in LEVELS for sides in _by_place(name).values()]
    for data, found in places:
        cold, warm = _seconds(found.get("jaxbert", []))
        if cold is None or warm is None or not {"torch", "torch-random"} <= found.keys():
            continue
        ours = found["jaxbert"]
        times = [_all_seconds(found.get(side, [])) for side in names]
        seconds = [statistics.median(each) if each else None for each in times]
        cells = ["-" if s is None else f"{s:.0f} ({s / cold:.2f}x, {s / warm:.2f}x)"
                 for s in seconds]  # fmt: skip
        rows.append([data, f"{ours[0]['rows'][0]:,}", f"{cold:.0f}", f"{warm:.0f}", *cells,
                     machine(max(ours, key=lambda run: run["time"]))])  # fmt: skip
    if not rows:
        return NOT_YET
    header = ["data", "rows", "jaxbert, first run, s", "next ones, s",
              *(f"`Trainer` {about}, s" for about in names.values()), "on"]  # fmt: skip
    return (
        f"{table(header, rows)}\n\nMedians, float32, one epoch, of the whole process. In brackets: "
        "times as long as jaxbert's first run, which compiles, and as its next ones. "
        "`make bench-run DATA=DIR`, and `ARGS='--examples N'` for so many rows."
    )


def first_step() -> str:
    """Seconds from the command to the end of the first step, by model and processor."""
    found: dict[tuple[str, str], dict[str, Runs]] = {}
    for run in read_results("first_step"):
        sides = found.setdefault((run["model"], machine(run)), {})
        sides.setdefault(run["side"], []).append(run)
    if not found:
        return "Not run yet: `python -m benchmarks.first_step --data DIR` does."
    names = {"model": "the demo's"}
    rows = [
        [names.get(model, model), *(_range(_all_seconds(sides[side])) for side in FIRST_STEP_SIDES),
         place]
        for (model, place), sides in found.items()
    ]  # fmt: skip
    header = ["model", "jaxbert, s", "its programs kept, s", "`Trainer`, s", "on"]
    return (
        f"{table(header, rows)}\n\nFrom the start of the process to the end of the first training "
        "step, SST-2, float32: medians (least - most). "
        "`python -m benchmarks.first_step --data DIR`."
    )


def _range(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} - {max(seconds):.1f})"


def masks() -> str:
    """What the loss and its gradient are like under each kind of dropout mask."""
    found = {run["masks"]: run for run in read_results("masks")}
    if not found:
        return "Not drawn yet: `python -m benchmarks.masks` does."
    rows = [
        [kind, str(run["draws"]), _with_error(run["loss"], 4), f"{run['loss']['deviation']:.4f}",
         *(_with_error(run[name], 3) for name in ("noise", "carried"))]
        for kind, run in found.items()
    ]  # fmt: skip
    header = ["masks", "draws", "loss", "its deviation", "noise of the gradient",
              "of it, again at the next step"]  # fmt: skip
    note = (
        "`python -m benchmarks.masks`: means ± standard errors, at one point of the demo model's "
        "training, on one batch of film sentences. Noise: the squared distance from the gradient "
        "without dropout, over that gradient's squared length. Again at the next step: the product "
        "of two such distances, of one seed's step and the next, over the same; independent masks "
        "leave what they share, dropout's shift of the mean."
    )
    return f"{table(header, rows)}\n\n{note}"


def _with_error(found: dict[str, float], digits: int) -> str:
    return f"{found['mean']:.{digits}f} ± {found['error']:.{digits}f}"


def _rows(name: str, sides: Sides) -> list[list[str]]:
    metrics = [LEVELS[name].metric, *([SECOND[name]] if name in SECOND else [])]
    first, *_ = sides.ours
    cold, warm = _seconds(sides.ours)
    theirs = _all_seconds(sides.theirs)
    median = statistics.median(theirs) if theirs else None
    rows = []
    for place, metric in enumerate(metrics):
        ours, others = ([_value(run, metric) for run in side] for side in sides)
        what = [f"{_interval(mean_interval(values))}" for values in (ours, others)]
        told = [*what, _interval(welch(ours, others), signed=True), _spread(ours, others)]
        if place:
            rows.append(["", "", "", "", metric.replace("_", " "), *told, "", "", ""])
            continue
        counts = ", ".join(f"{count:,}" for count in first["rows"])
        times = [_shown(cold, warm), "" if median is None else f"{median:.0f}",
                 "" if median is None or warm is None else f"{median / warm:.2f}x"]  # fmt: skip
        rows.append([name, first["task"], counts, str(len(ours)), metric.replace("_", " "),
                     *told, *times])  # fmt: skip
    return rows


def welch(ours: list[float], theirs: list[float]) -> Interval:
    """The difference of two means with Welch's 95% interval; None where one run gives none.

    Degrees of freedom by Welch and Satterthwaite.
    """
    from scipy.stats import t

    mean, count = float(np.mean(ours) - np.mean(theirs)), min(len(ours), len(theirs))
    if count < 2:
        return Interval(mean, None, None, count)
    shares = [np.var(values, ddof=1) / len(values) for values in (ours, theirs)]
    if not sum(shares):
        return Interval(mean, mean, mean, count)
    freedom = sum(shares) ** 2 / sum(
        share**2 / (len(values) - 1) for share, values in zip(shares, (ours, theirs), strict=True)
    )
    half = float(t.ppf(0.975, freedom) * sum(shares) ** 0.5)
    return Interval(mean, mean - half, mean + half, count)


def _spread(ours: list[float], theirs: list[float]) -> str:
    """p of the same spread around either side's median, which asks for no normal scores."""
    from scipy.stats import levene

    if min(len(ours), len(theirs)) < 3:
        return ""
    return f"{levene(ours, theirs, center='median').pvalue:.2f}"


def _sides(name: str) -> Sides:
    """On the rows that were run last, and the processor that has most seeds of them."""
    there = _by_place(name)
    last = next(reversed(there), None)
    same = [found for (rows, _), found in there.items() if last and rows == last[0]]
    most: dict[str, Runs] = max(same, key=lambda found: len(found.get("jaxbert", ())), default={})
    return Sides(most.get("jaxbert", []), most.get("torch", []))


def _by_place(name: str) -> dict[tuple[tuple[int, ...], str], dict[str, Runs]]:
    """{(rows, processor): {side: the last run of each seed}}, what was run last at the end."""
    found: dict[Any, dict[str, dict[int, dict[str, Any]]]] = {}
    for run in read_results("level"):
        if run["level"] == name:
            place = (tuple(run["rows"]), run["machine"]["processor"].partition(",")[0])
            found[place] = found.pop(place, {})
            found[place].setdefault(run["side"], {})[run["seed"]] = run
    return {
        place: {side: [*runs.values()] for side, runs in sides.items()}
        for place, sides in found.items()
    }


def _value(run: dict[str, Any], metric: str) -> float:
    value = float(run["scores"][metric])
    return value if run["task"] == "question-answering" else 100 * value


def _interval(found: Interval, *, signed: bool = False) -> str:
    mean = f"{found.mean:+.1f}" if signed else f"{found.mean:.1f}"
    if found.low is None or found.high is None:
        return mean
    return f"{mean} ({found.low:+.1f} to {found.high:+.1f})" if signed else (
        f"{mean} ± {found.high - found.mean:.1f}"
    )  # fmt: skip


def _seconds(runs: Runs) -> tuple[float | None, float | None]:
    """(of the run that had to compile, of the others), medians; None where none was timed."""
    kinds = [[r["seconds"] for r in runs if r["cold"] is cold and r["seconds"] is not None]
             for cold in (True, False)]  # fmt: skip
    cold, warm = (statistics.median(values) if values else None for values in kinds)
    return cold, warm


def _all_seconds(runs: Runs) -> list[float]:
    return [run["seconds"] for run in runs if run["seconds"] is not None]


def _shown(cold: float | None, warm: float | None) -> str:
    return ", ".join("-" if value is None else f"{value:.0f}" for value in (cold, warm))
