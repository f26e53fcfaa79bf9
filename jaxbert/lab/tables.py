"""The tables of a report, as (header, rows) of texts; and as Markdown or plain text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from jaxbert.lab.claims import compared
from jaxbert.lab.comparisons import IN_DOMAIN, OUT_OF_DOMAIN, Outcome, describe, effect
from jaxbert.lab.journals import Collection, Study, Sweep
from jaxbert.lab.metric import ACCURACY, FIRST, Metric
from jaxbert.lab.records import TEST, Run
from jaxbert.lab.regions import good_region, on_the_edge, rate_scores
from jaxbert.lab.sequential import BEYOND, power, width_of_examples
from jaxbert.lab.statistics import holm, mean_interval
from jaxbert.lab.verdicts import ALPHA, UNDECIDED, Verdict, judge, summary

Table = tuple[list[str], list[list[str]]]  # header, rows


def _sets(study: Study) -> dict[str, Callable[[Run], float | None]]:
    """{column: score of a run}."""
    score = lambda name, metric=None: lambda run: run.score(name, metric)  # noqa: E731
    return {
        study.about["in_domain"]: score(TEST),
        **({"macro-F1": score(TEST, "macro_f1")} if of_classes(study) else {}),
        **{name: score(name) for name in study.out_of_domain},
    }


def of_classes(study: Study) -> bool:
    """Whether there is one class for each text."""
    return bool(study.about["task"] == FIRST["task"])


def results(study: Study) -> Table:
    """A row for each train size and strategy: rate, scores with intervals, failed runs."""
    columns = _sets(study)
    header = ["train size", "strategy", "rate", *columns, "runs", "failed"]
    rows = []
    for size in study.sizes:
        for name in study.strategies:
            cell = study.cell(size, name)
            if not cell:
                continue
            runs = list(cell.values())
            scores = [mean([v for v in map(value, runs) if v is not None], study.metric)
                      for value in columns.values()]  # fmt: skip
            rate = f"{runs[0].start['learning_rate']:g}"
            failed = sum(run.failed for run in runs)
            rows.append([size, name, rate, *scores, str(len(runs)), str(failed)])
    return header, rows


def mean(values: Sequence[float], metric: Metric = ACCURACY) -> str:
    """The mean and half of its interval."""
    if not values:
        return "-"
    found = mean_interval(values)
    text = metric.show(found.mean)
    return text if found.high is None else f"{text} ± {metric.show(found.high - found.mean)}"


def differences(study: Study) -> Table:
    """A row for each train size and strategy but the control: what it gains over the control.

    The p are corrected for all rows of the table: it is there to look around in.
    """
    rows, p_values = [], {}
    for size in study.sizes:
        for name in study.strategies:
            inside = None
            if name != study.control:
                inside = effect(study, size, name, study.control, IN_DOMAIN)
            if inside is None:
                continue
            p_values[f"{size} {name}"] = inside.p
            told = [_gain(study, size, name, outcome) for outcome in (IN_DOMAIN, OUT_OF_DOMAIN)]
            rows.append([size, name, *told])
    corrected = holm(p_values)
    for row, (key, p) in zip(rows, p_values.items(), strict=True):
        row += [f"{p:.3g}", f"{corrected[key]:.3g}"]
    header = ["train size", "strategy", "in domain", "out of domain", "p in domain", "corrected"]
    return header, rows


def _gain(study: Study, size: str, name: str, outcome: Outcome) -> str:
    found = effect(study, size, name, study.control, outcome)
    return "-" if found is None else describe(found.interval(), study.metric.in_percent)


def standing(study: Study, size: str, name: str, outcome: Outcome) -> str:
    """One word for a strategy against the control, without any correction."""
    found, margin = effect(study, size, name, study.control, outcome), outcome.margin(study)
    if found is None or found.seeds < 2:
        return "open"
    if margin is not None and found.equivalence_p(margin) < ALPHA:
        return "equivalent"
    return "open" if found.p >= ALPHA else "better" if found.mean > 0 else "worse"


def budget(study: Study) -> Table | None:
    """The base rates that the grid chose; None without a grid."""
    grid = study.about["grid"]
    if not grid:
        return None
    chosen = grid.get("chosen", {})
    rows = []
    for name, about in study.about["strategies"].items():
        cells = []
        for size in study.sizes:
            rate = _rate(about, chosen.get(size, {}).get(name))
            edge = about["tuned"] and on_the_edge(study, size, name)
            cells.append(f"{rate} (the edge)" if edge else rate)
        rows.append([name, *cells])
    return ["strategy", *(f"train size {size}" for size in study.sizes)], rows


def _rate(about: dict[str, Any], chosen: float | None) -> str:
    if not about["tuned"]:
        return f"{about['settings']['learning_rate']:g}, its claim"
    return "-" if chosen is None else f"{chosen:g}"


def widths(study: Study) -> Table:
    """How wide the good rates are: a row for each tuned strategy, a column for each train size."""
    rows = []
    for name in study.strategies:
        regions = [good_region(rate_scores(study, size, name)) for size in study.sizes]
        if any(regions):
            rows.append([name, *("-" if found is None else str(found) for found in regions)])
    return ["strategy", *(f"train size {size}" for size in study.sizes)], rows


def calibration(study: Study) -> Table:
    """Expected calibration error on the test set, in percent; no rows where none was kept."""
    rows = []
    for name in study.strategies:
        cells = []
        for size in study.sizes:
            found = [run.calibration(TEST) for run in study.cell(size, name).values()]
            cells.append(mean([value for value in found if value is not None]))
        if set(cells) != {"-"}:
            rows.append([name, *cells])
    return ["strategy", *(f"train size {size}" for size in study.sizes)], rows


def precision(study: Study) -> Table:
    """What is known of every comparison of the claims, and what it would take to know more."""
    rows = []
    for first, second, outcome in compared(study):
        for size in study.sizes:
            found, margin = effect(study, size, first, second, outcome), outcome.margin(study)
            interval = None if found is None else found.interval()
            if found is None or margin is None or interval is None:
                continue
            if interval.low is None or interval.high is None:
                continue
            needed = power(found, margin)
            numbers = (needed.width, needed.equivalence, needed.difference)
            width = f"{100 * (interval.high - interval.low):.1f} of {100 * margin:g}"
            about = f"{first} - {second}, {outcome.name}"
            share = f"{100 * width_of_examples(found):.1f}"
            rows.append([size, about, str(found.seeds), width, share, *map(_seeds, numbers)])
    header = ["train size", "comparison", "seeds", "interval's width, of the margin",
              "of it, by the test set", "seeds for that"]  # fmt: skip
    return [*header, "for equivalence", "for a difference"], rows


def _seeds(number: float | None) -> str:
    return "-" if number is None else "over 1,000" if number == BEYOND else str(number)


def overview(found: Collection) -> Table:
    """A row for each claim, a column for each study: the verdict at every train size."""
    judged = {key: judge(study) for key, study in found.studies.items()}
    several = len(found.plan.models) > 1
    names = [f"{task}, {model}" if several else task for task, model in judged]
    rows = []
    for number, (claim, *_) in enumerate(_claims(judged.values())):
        verdicts = [verdicts[number] for verdicts in judged.values()]
        overall = summary((verdict.verdict for verdict in verdicts), "depends")
        rows.append([claim, overall, *map(_by_size, verdicts)])
    return ["claim", "over all", *names], rows


def _claims(judged: Iterable[list[Verdict]]) -> list[tuple[str, str]]:
    return [(verdict.claim, verdict.strategy) for verdict in next(iter(judged))]


def _by_size(verdict: Verdict) -> str:
    words = [f"{size}: {word}{wanted(verdict, size)}" for size, word in verdict.by_size]
    return "; ".join(words) or verdict.verdict


def wanted(verdict: Verdict, size: str) -> str:
    """What an undecided verdict lacks, in brackets."""
    if dict(verdict.by_size).get(size) != UNDECIDED:
        return ""
    lacking = verdict.lacking(size)
    if lacking is None:
        return " (no number of seeds known to decide)"
    if lacking == BEYOND:
        return " (1,000 seeds would not do)"
    seeds = "1 more seed" if lacking == 1 else f"{lacking} more seeds"
    return f" (about {seeds}, {2 * lacking} runs a comparison)"


def sweep_table(sweep: Sweep) -> Table:
    """Mean test score, a row for each rate, a column for each decay; failed runs noted."""
    rates, decays = sweep.about["rates"], sweep.about["decays"]
    rows = []
    for rate in rates:
        row = [f"{rate:g}"]
        for decay in decays:
            runs = list(sweep.runs[rate, decay].values())
            scores = [s for s in (run.score(TEST) for run in runs) if s is not None]
            failed = sum(run.failed for run in runs)
            note = f" ({failed} of {len(runs)} failed)" if failed else ""
            row.append(mean(scores, sweep.metric) + note)
        rows.append(row)
    return ["rate \\ decay", *(f"{decay:g}" for decay in decays)], rows


def markdown(found: Study | Sweep | Collection) -> str:
    """The tables and verdicts as Markdown."""
    if isinstance(found, Sweep):
        return as_markdown(*sweep_table(found))
    if isinstance(found, Collection):
        parts = [as_markdown(*overview(found))]
        for (task, model), study in found.studies.items():
            parts += [_safe(f"{task}, {model}:"), as_markdown(*results(study))]
        return "\n\n".join(parts)
    rows = [[v.claim, v.verdict, because(v)] for v in judge(found)]
    parts = [
        as_markdown(["claim", "verdict", "because"], rows),
        as_markdown(*results(found)),
        as_markdown(*differences(found)),
    ]
    return "\n\n".join(parts)


def because(verdict: Verdict) -> str:
    """The parts of a claim and their answers."""
    return "; ".join(f"{part.text}: {part.answer}" for part in verdict.parts) or "not in the study"


def as_markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what a cell says is text: no columns, no tags."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_safe, line))} |" for line in lines)


def _safe(text: str) -> str:
    return escape(" ".join(text.split()), quote=False).replace("|", "&#124;")


def as_plain(header: list[str], rows: list[list[str]]) -> str:
    """A table with columns of letters."""
    lines = [header, *rows]
    columns = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, columns, strict=True)).rstrip()
        for line in lines
    )
