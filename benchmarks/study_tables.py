"""The lab's tables: the committed studies, what they advise, and cells that were run again."""

from __future__ import annotations

import functools
import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

from benchmarks.markdown import machine, table
from benchmarks.results import RESULTS, read_results
from jaxbert.lab import page, verdicts
from jaxbert.lab import tables as lab_tables
from jaxbert.lab.advice import Advice, advice_by_model, mean_scores
from jaxbert.lab.comparisons import IN_DOMAIN, OUT_OF_DOMAIN
from jaxbert.lab.journals import STUDY, Collection, Study, Sweep, read_collection, read_study
from jaxbert.lab.journals import read as read_lab
from jaxbert.lab.records import DEVELOPMENT
from jaxbert.optim import get_strategy

# Of which the default of `finetune` is one, and the train size that does not count for it.
CANDIDATES, _FEWEST = ("constant", "uniform", "discriminative"), ("100",)
PLAN, PILOT = RESULTS / "lab" / "plan", RESULTS / "lab" / "pilot"


def lab() -> str:
    """Verdicts, results and differences of the committed study, and the sweep."""
    parts = []
    for name in ("study", "sweep"):
        directory = RESULTS / "lab" / name
        if directory.is_dir():
            found = read_lab(directory)
            parts += [lab_tables.markdown(found), _made(found)]
    return "\n\n".join(parts) or "Not run yet: `jaxbert lab run` does."


def plan_lab() -> str:
    """The study of several tasks: every claim by task and train size, and what to choose."""
    found, said = _plan()
    parts = [table(*lab_tables.overview(found))]
    for name, advised in said.items():
        parts += [_lead(name, advised), "\n".join(f"- {detail}" for detail in advised.details)]
    gone = [f"{found.missing} runs of these are missing"] if found.missing else []
    left = {study.about["plan"] for study in _left()}
    if absent := [pair for pair in found.absent if "/".join(pair) not in left]:
        gone += ["not run yet: " + "; ".join(", ".join(pair) for pair in absent)]
    command = "`jaxbert lab report benchmarks/results/lab/plan` makes the page of it"
    return "\n\n".join([*parts, "; ".join([command, *gone]) + "."])


def plan_lead() -> str:
    """Of the same, what choosing wrong costs with each network."""
    said = _plan()[1]
    leads = [f"- {_lead(name, advised)}" for name, advised in said.items()]
    return "\n".join(leads) or "Not run yet: `jaxbert lab run --plan` does."


def _lead(name: str, advised: Advice) -> str:
    return f"With {name}. {advised.lead}"


def plan_rates() -> str:
    """Of the same, the base rate that the development set chose, by size and tuned strategy."""
    found = _plan()[0]
    names = [name for name in found.plan.strategies if get_strategy(name).tuned]
    rows = []
    for study in found.studies.values():
        header, tried = lab_tables.budget(study) or ([], [])
        cells = {name: chosen for name, *chosen in tried}
        for place, size in enumerate(header[1:]):
            rates = [cells[name][place] for name in names]
            rows.append([study.about["plan"], size.removeprefix("train size "), *rates])
    return table(["study", "train size", *names], rows)


def plan_default() -> str:
    """Of the same, what decides the default of `finetune`: how far it may be behind, by network."""
    behind: dict[str, dict[str, list[tuple[float, str]]]] = {}
    for (task, model), study in _plan()[0].studies.items():
        for size in study.sizes:
            if size in _FEWEST or study.guesses(size):
                continue
            for outcome in (IN_DOMAIN, OUT_OF_DOMAIN):
                means = mean_scores([study], size, outcome)
                if not means.keys() >= set(CANDIDATES):
                    continue
                best = max(means[name] for name in CANDIDATES)
                for name in CANDIDATES:
                    lag = (best - means[name], f"{task} {size}, {outcome.name}")
                    behind.setdefault(model, {}).setdefault(name, []).append(lag)
    header = ["network", "strategy", "behind the best of the three at most, points", "where", "of"]
    rows = [
        [model, name, f"{100 * max(lags)[0]:.1f}", max(lags)[1], f"{len(lags)} cells"]
        for model, names in behind.items()
        for name, lags in names.items()
    ]
    return table(header, rows)


@functools.cache
def _plan() -> tuple[Collection, dict[str, Advice]]:
    found = read_collection(PLAN)
    return found, advice_by_model(found)


def pilot() -> str:
    """Studies that the plan began and left: what the control scored at every rate of its grid."""
    rows = []
    for study in _left():
        for size, strategies in study.grid.items():
            for rate, cell in strategies[study.control].items():
                scores = [run.score(DEVELOPMENT) or 0.0 for run in cell.values()]
                rows.append([study.about["plan"], size, f"{rate:g}", _hundredths(scores)])
    header = ["study", "train size", "rate", "correlation or F1 on the development set, a run each"]
    return table(header, rows)


def _left() -> list[Study]:
    return [read_study(path.parent) for path in sorted(PILOT.glob(f"*/{STUDY}"))]


def _hundredths(scores: Iterable[float]) -> str:
    return ", ".join(f"{100 * score:.1f}" for score in sorted(scores))


def again() -> str:
    """Cells of the study of several tasks that were run again, by processor."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in read_results("again"):
        found.setdefault((row.get("of", PLAN.name), machine(row)), []).append(row)
    if not found:
        return "Not run again yet: `python -m benchmarks.again` does."
    rows = []
    for (of, where), cells in found.items():
        known = [cell for cell in cells if cell["difference"] is not None]
        differences = [cell["difference"] for cell in known] or [0.0]
        within = sum(cell["difference"] <= 2 * cell["deviation"] for cell in known)
        noise = statistics.median(cell["deviation"] for cell in cells)
        points = (statistics.median(differences), max(differences), noise)
        rows.append([of, where, str(len(cells)), str(sum(cell["same"] for cell in cells)),
                     *(f"{100 * value:.1f}" for value in points), str(within)])  # fmt: skip
    header = ["of", "on", "cells", "the same in every example", "difference in points, median",
              "largest", "deviation over seeds, median", "differ by no more than two"]  # fmt: skip
    note = (
        "`python -m benchmarks.again`, of the first study with `--study "
        "benchmarks/results/lab/study --network 1bf4e0943df857d9`, cells drawn at random."
    )
    return f"{table(header, rows)}\n\n{note}"


def claims() -> str:
    """For the README: of every study, at how many train sizes a claim has which verdict."""
    found = {"the first study: films, minilm": read_lab(RESULTS / "lab" / "study")}
    found |= {", ".join(pair): study for pair, study in _plan()[0].studies.items()}
    judged = [verdicts.judge(study) for study in found.values()]
    rows = [
        [same[0].claim, *(_counts(word for _, word in verdict.by_size) for verdict in same)]
        for same in zip(*judged, strict=True)
    ]
    return table(["claim", *found], rows)


def _counts(words: Iterable[str]) -> str:
    counted = Counter(words).most_common()
    return ", ".join(f"{word} {count}" for word, count in counted) or "not tested"


def main_lab() -> str:
    """The study for the README: a row for every strategy, a column for every train size."""
    study = read_lab(RESULTS / "lab" / "study")
    cells: dict[str, list[list[str]]] = {}
    for row in lab_tables.results(study)[1]:
        cells.setdefault(row[1], []).append(row)
    last = study.sizes[-1]
    gained = {
        name: out for size, name, _, out, *_ in lab_tables.differences(study)[1] if size == last
    }
    rows = []
    for name, found in cells.items():
        scores = [f"{accuracy} (rate {rate})" for _, _, rate, accuracy, *_ in found]
        runs, failed = (sum(int(row[place]) for row in found) for place in (-2, -1))
        rows.append([f"`{name}`", *scores, gained.get(name, "the control"), f"{failed} of {runs}"])
    header = ["strategy", *(f"train size {size}" for size in study.sizes),
              f"out of domain, {last}, against `{study.control}`", "failed runs"]  # fmt: skip
    fixed = [f"`{name}`" for name, about in study.about["strategies"].items() if not about["tuned"]]
    note = (
        "Test accuracy, %, mean and 95% interval over seeds, at the base rate that the development "
        f"set chose, or, for {' and '.join(fixed)}, at the rate that is its claim."
    )
    return f"{table(header, rows)}\n\n{note} {_made(study)}"


def _made(found: Study | Sweep) -> str:
    missing = f" {found.missing} runs are still missing." if found.missing else ""
    return f"`{page.command(found)}`, then `jaxbert lab report DIRECTORY`.{missing}"


TABLES = {
    "lab": lab,
    "main lab": main_lab,
    "plan lab": plan_lab,
    "plan lead": plan_lead,
    "plan rates": plan_rates,
    "plan default": plan_default,
    "pilot": pilot,
    "again": again,
    "claims": claims,
}
