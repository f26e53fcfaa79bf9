"""Journals to one page: verdicts, tables and figures as HTML, PNG and Markdown; knows no jax."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jaxbert.lab import plots, verdicts, wording
from jaxbert.lab.journals import GUESSING, TEST, Run, Study, Sweep, read
from jaxbert.lab.metric import ACCURACY, FIRST, Metric
from jaxbert.lab.statistics import Interval, holm, mean_interval, paired, sign_flip_p

PAGE, TABLE = "report.html", "report.md"
_BEST = {ACCURACY: "most accurate"}
Table = tuple[list[str], list[list[str]]]  # header, rows

FAILED = (
    f"A run failed if it diverged, or if its test predictions have a Matthews correlation below "
    f"{GUESSING:g}, which is guessing."
)
DIVERGED = "A run failed if it diverged."
INTERVALS = (
    "Intervals are 95%, Student's t over seeds; they hold the luck of the draw of examples, order, "
    "dropout and head, not that of the test set, which is the same for all. Differences are paired "
    "by seed. p is that of the exact sign-flip test, which with n seeds is never below 2 / 2^n "
    "(.0625 for 5), so that at 5 seeds it cannot reach .05 and the interval is what decides; "
    "corrected is Holm's correction for all strategies and train sizes."
)


def write_report(directory: str | Path, output: str | Path) -> Path:
    """Writes report.html, report.md and the figures as PNG into `output`; the page's path.

    Raises: as `journals.read`.
    """
    found, output = read(directory), Path(output)
    output.mkdir(parents=True, exist_ok=True)
    figures = plots.study_figures(found) if isinstance(found, Study) else plots.sweep_figures(found)
    images = {}
    for name, (caption, figure) in figures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=130)
        images[name] = (caption, content.getvalue())
        (output / f"{name}.png").write_bytes(content.getvalue())
    (output / TABLE).write_text(markdown(found) + "\n", encoding="utf-8")
    (output / PAGE).write_text(_page(found, images), encoding="utf-8")
    return output / PAGE


def format_table(directory: str | Path) -> str:
    """The main table as plain text, and the verdicts in a line each."""
    found = read(directory)
    text = _plain(*(results(found) if isinstance(found, Study) else sweep_table(found)))
    if isinstance(found, Study):
        text += "\n" + "\n".join(
            f"{v.verdict}: {v.claim}" for v in verdicts.judge(found) if v.parts
        )
    return text + (f"\n{found.missing} runs are missing" if found.missing else "")


def markdown(found: Study | Sweep) -> str:
    """The tables and verdicts as Markdown."""
    if isinstance(found, Sweep):
        return _markdown(*sweep_table(found))
    rows = [[v.claim, v.verdict, _because(v)] for v in verdicts.judge(found)]
    parts = [
        _markdown(["claim", "verdict", "because"], rows),
        _markdown(*results(found)),
        _markdown(*differences(found)),
    ]
    return "\n\n".join(parts)


def _because(verdict: verdicts.Verdict) -> str:
    return "; ".join(f"{part.text}: {part.answer}" for part in verdict.parts) or "not in the study"


def _sets(study: Study) -> dict[str, Callable[[Run], float | None]]:
    """{column: score of a run}."""
    score = lambda name, metric=None: lambda run: run.score(name, metric)  # noqa: E731
    return {
        study.about["in_domain"]: score(TEST),
        **({"macro-F1": score(TEST, "macro_f1")} if _of_classes(study) else {}),
        **{name: score(name) for name in study.out_of_domain},
    }


def _of_classes(study: Study) -> bool:
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
            scores = [_mean([v for v in map(value, runs) if v is not None], study.metric)
                      for value in columns.values()]  # fmt: skip
            rate = f"{runs[0].start['learning_rate']:g}"
            failed = sum(run.failed for run in runs)
            rows.append([size, name, rate, *scores, str(len(runs)), str(failed)])
    return header, rows


def _mean(values: Sequence[float], metric: Metric) -> str:
    if not values:
        return "-"
    found = mean_interval(values)
    mean = metric.show(found.mean)
    return mean if found.high is None else f"{mean} ± {metric.show(found.high - found.mean)}"


def differences(study: Study) -> Table:
    """A row for each train size and strategy but the control: what it gains over the control."""
    rows, p_values, metric = [], {}, study.metric
    for size in study.sizes:
        for name in study.strategies:
            pairs = _pairs(study, size, name, lambda run: metric.merit(run.score(TEST)))
            if name == study.control or not pairs:
                continue
            p_values[f"{size} {name}"] = sign_flip_p(pairs)
            outside = _pairs(study, size, name, lambda run: metric.merit(run.out_of_domain))
            rows.append([size, name, _points(pairs, metric), _points(outside, metric)])
    corrected = holm(p_values)
    for row, (key, p) in zip(rows, p_values.items(), strict=True):
        row += [f"{p:.3g}", f"{corrected[key]:.3g}"]
    header = ["train size", "strategy", "in domain", "out of domain", "p in domain", "corrected"]
    return header, rows


def _pairs(study: Study, size: str, name: str, value: Callable[[Run], float | None]) -> list[float]:
    cells = []
    for strategy in (name, study.control):
        found = {seed: value(run) for seed, run in study.cell(size, strategy).items()}
        cells.append({seed: number for seed, number in found.items() if number is not None})
    return paired(*cells)


def _points(pairs: Sequence[float], metric: Metric) -> str:
    return verdicts.describe(mean_interval(pairs), metric.in_percent) if pairs else "-"


def budget(study: Study) -> Table | None:
    """The base rates that the grid chose; None without a grid."""
    grid = study.about["grid"]
    if not grid:
        return None
    chosen = grid.get("chosen", {})
    rows = [
        [name, *(_rate(about, chosen.get(size, {}).get(name)) for size in study.sizes)]
        for name, about in study.about["strategies"].items()
    ]
    return ["strategy", *(f"train size {size}" for size in study.sizes)], rows


def _rate(about: dict[str, Any], chosen: float | None) -> str:
    if not about["tuned"]:
        return f"{about['settings']['learning_rate']:g}, its claim"
    return "-" if chosen is None else f"{chosen:g}"


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
            row.append(_mean(scores, sweep.metric) + note)
        rows.append(row)
    return ["rate \\ decay", *(f"{decay:g}" for decay in decays)], rows


def recommendation(study: Study) -> list[str]:
    """For each train size the best strategy, and those it cannot be told from."""
    lines, metric = [], study.metric
    merit = lambda run: metric.merit(run.score(TEST))  # noqa: E731
    for size in study.sizes:
        means = {
            name: mean_interval(merits).mean
            for name in study.strategies
            if (merits := [m for r in study.cell(size, name).values()
                           if (m := merit(r)) is not None])
        }  # fmt: skip
        if not means:
            continue
        best = max(means, key=lambda name: means[name])
        others = {
            name: verdicts.difference(study, size, best, name, merit)
            for name in means
            if name != best
        }
        equal = [name for name, gap in others.items() if not _told_apart(gap)]
        tail = f"; not told apart from it: {', '.join(equal)}" if equal else ""
        score = metric.show(abs(means[best])) + ("%" if metric.in_percent else "")
        lines.append(f"{size}: {best} ({score}){tail}")
    return lines


def _told_apart(gap: Interval | None) -> bool:
    return gap is not None and gap.above_zero


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    # What a cell says is text: no columns, no tags.
    safe = (
        [escape(" ".join(cell.split()), quote=False).replace("|", "&#124;") for cell in line]
        for line in lines
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in safe)


def _plain(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


# --- the page


def _page(found: Study | Sweep, images: dict[str, tuple[str, bytes]]) -> str:
    title = "Which learning rate?" if isinstance(found, Study) else "Learning rate by layer decay"
    body = _study_body(found) if isinstance(found, Study) else _table(*sweep_table(found))
    if found.missing:
        body = (
            f"<p class=warn>{found.missing} runs are missing: the study is not complete.</p>" + body
        )
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main><h1>{title}</h1>"
        f"{body}{''.join(map(_figure, images.values()))}{_reproduction(found)}"
        "</main></body></html>\n"
    )


def _study_body(study: Study) -> str:
    tuned = budget(study)
    parts = [
        "<h2>The five claims</h2>",
        *map(_verdict, verdicts.judge(study)),
        f"<details><summary>The rule</summary><p>{escape(verdicts.RULE)}</p></details>",
        f"<h2>The {_BEST.get(study.metric, 'best')}, by train size</h2><ul>",
        *(f"<li>{escape(line)}</li>" for line in recommendation(study)),
        f"</ul><h2>Results</h2><p>{escape(wording.scores_are(study.metric))}, mean and 95% "
        f"interval over seeds. {escape(FAILED if _of_classes(study) else DIVERGED)}</p>",
        _table(*results(study)),
        f"<h2>Against {escape(study.control)}, seed by seed</h2>",
        _table(*differences(study)),
        f"<p class=note>{escape(INTERVALS + wording.notes(study))}</p>",
        "<h2>What was tuned</h2>",
        "<p>Nothing: every strategy has its own rate.</p>"
        if tuned is None
        else _budget(study, tuned),
        "<h2>Figures</h2>",
    ]
    return "".join(parts)


def _budget(study: Study, chosen: Table) -> str:
    grid = study.about["grid"]
    rates = ", ".join(f"{rate:g}" for rate in grid["rates"])
    text = (
        f"Each strategy got the same grid of base rates, {rates}, with {len(grid['seeds'])} run "
        f"each at every train size, and kept the one with the best {study.metric.name} on the "
        "development set. "
        "Those whose rate is the claim keep theirs."
    )
    return f"<p>{escape(text)}</p>{_table(*chosen)}"


def _verdict(verdict: verdicts.Verdict) -> str:
    items = "".join(
        f"<li><b>{escape(part.answer)}</b>: {escape(part.text)}"
        + (" (it depends on the train size)" if part.depends_on_size else "")
        + "<ul>"
        + "".join(
            f"<li>train size {escape(a.size)}: {escape(a.numbers)} &rarr; {escape(a.answer)}</li>"
            for a in part.answers
        )
        + "</ul></li>"
        for part in verdict.parts
    )
    kind = verdict.verdict.replace(" ", "-")
    word = verdict.verdict
    if word == verdicts.UNDECIDED:
        word += " at this sample size"
    return (
        f"<section class={kind}><h3>{escape(verdict.claim)}</h3>"
        f"<p class=word>{escape(word)} <small>({escape(verdict.strategy)})</small></p>"
        f"<ul>{items}</ul></section>"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _figure(image: tuple[str, bytes]) -> str:
    caption, content = image
    data = base64.b64encode(content).decode()
    text = escape(caption, quote=True)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _reproduction(found: Study | Sweep) -> str:
    about = found.about
    data = [
        [role, d["source"], str(d["count"]), d["fingerprint"][:16]]
        for role, d in about["data"].items()
    ]
    training = ", ".join(f"{k} {v}" for k, v in about["training"].items() if v is not None)
    environment = about["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
    device = environment["device"]
    return (
        f"<h2>Reproduction</h2><pre>{escape(command(found))}</pre>"
        + _table(["data", "source", "examples", "fingerprint"], data)
        + f"<p class=note>{escape(training)}.<br>{escape(versions)}, on "
        f"{device['count']} {escape(str(device['kind']))}.</p>"
    )


def command(found: Study | Sweep) -> str:
    """What makes it again, with the demo's model and data."""
    about, words = found.about, ["jaxbert", "lab"]
    listed = lambda values: ",".join(f"{v:g}" for v in values)  # noqa: E731
    if isinstance(found, Sweep):
        count = str(about["size"]["examples"])
        whole = about["data"]["train"]["count"] == about["size"]["examples"]
        words += ["sweep", "--strategy", about["strategy"], "--rates", listed(about["rates"])]
        words += ["--decays", listed(about["decays"]), "--train-size", "full" if whole else count]
        words += ["--epochs", str(about["size"]["epochs"])]
    else:
        words += ["run", "--strategies", ",".join(about["strategies"]), "--control", found.control]
        words += ["--train-sizes", ",".join(about["sizes"]), "--epochs"]
        words += [",".join(str(size["epochs"]) for size in about["sizes"].values())]
        words += ["--grid", listed(about["grid"]["rates"])] if about["grid"] else []
    words += wording.flags(about)
    words += ["--seeds", str(len(about["seeds"])), "--dtype", about["training"]["dtype"]]
    return shlex.join([*words, "--output", "DIRECTORY"])


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;margin:0}
main{max-width:60rem;margin:auto;padding:1rem}
h1{font-size:1.7rem}h2{margin-top:2.2rem;border-bottom:1px solid #ddd}
h3{font-size:1rem;margin:.2rem 0}
section{border-left:.4rem solid #999;padding:.1rem .9rem;margin:1rem 0;background:#f7f7f7}
.supported{border-color:#009e73}.contradicted{border-color:#d55e00}.undecided{border-color:#e69f00}
.word{font-weight:600;margin:.2rem 0}small,.note,figcaption,summary{color:#555}
section ul{margin:.3rem 0;padding-left:1.2rem;font-size:.92rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;margin:.8rem 0}
th,td{padding:.25rem .6rem;border-bottom:1px solid #e3e3e3;text-align:left;white-space:nowrap}
figure{margin:1.6rem 0}img{max-width:100%;height:auto}
pre{overflow-x:auto;background:#f3f3f3;padding:.7rem}
.warn{background:#fff3d6;padding:.5rem .8rem}
"""
