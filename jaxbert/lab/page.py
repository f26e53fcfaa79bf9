"""The page of a report as HTML that loads nothing; every text in it is escaped."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from jaxbert.lab import svg, tables, wording
from jaxbert.lab.advice import Advice, advice, advice_by_model
from jaxbert.lab.claims import CLAIMS, named
from jaxbert.lab.comparisons import IN_DOMAIN, OUT_OF_DOMAIN, Outcome, describe, effect
from jaxbert.lab.journals import Collection, Study, Sweep
from jaxbert.lab.records import GUESSING
from jaxbert.lab.regions import rate_scores
from jaxbert.lab.verdicts import RULE, Verdict, judge

Images = dict[str, tuple[str, bytes]]  # {file stem: (what it shows, PNG)}

INTERVALS = (
    "Intervals of scores are 95%, Student's t over seeds. Differences are paired by seed; where "
    "the journals say which test examples were right, their intervals are 95% of a bootstrap over "
    "seeds and test examples, else Student's over seeds, which hold the luck of the draw of "
    "examples, order, dropout and head, and not that of the test set. The p of this table are "
    "exploratory: corrected is Holm's correction for all its rows."
)
PRECISION = (
    "The width of each interval in points, and the margin that it is to be narrower than. Then, at "
    "the noise seen, seeds for that width, for finding two equal strategies equivalent and for "
    "seeing a difference as large as the margin, both with 80% power; - where 1,000 do not suffice."
)


def study_page(found: Study | Sweep, images: Images) -> str:
    """Of one study or sweep."""
    if isinstance(found, Sweep):
        title, body = "Learning rate by layer decay", _table(*tables.sweep_table(found))
    else:
        title, body = "Which learning rate?", _opening(advice([found])) + _study_body(found)
    figures = "".join(map(_figure, images.values()))
    return _whole(title, found.missing, body + figures + _reproduction(found))


def collection_page(found: Collection, images: Mapping[tuple[str, str], Images]) -> str:
    """Of the studies of a plan: what they say together first, then each."""
    said = advice_by_model(found)
    absent = "; ".join(f"{task}, {model}" for task, model in found.absent)
    parts = [
        f"<p class=warn>Not run yet: {escape(absent)}.</p>" if absent else "",
        *(_opening(advised, f"With {name}. " if len(said) > 1 else "")
          for name, advised in said.items()),
        "<h2>The five claims</h2>",
        _table(*tables.overview(found), wrap=True),
        _rule(),
        "<h2>Against the control</h2>",
        f"<p>{escape(_MARGIN)}</p>",
        *(_claim_forest(found, claim.strategy, outcome)
          for outcome in (IN_DOMAIN, OUT_OF_DOMAIN) for claim in CLAIMS),
    ]  # fmt: skip
    for (task, model), study in found.studies.items():
        figures = "".join(map(_figure, images[task, model].values()))
        parts.append(
            f"<h2>{escape(task)}, {escape(model)}</h2><details><summary>Verdicts, tables and "
            f"figures</summary>{_study_body(study)}{figures}{_reproduction(study)}</details>"
        )
    return _whole("Which learning rate?", found.missing, "".join(parts))


def _whole(title: str, missing: int, body: str) -> str:
    if missing:
        body = f"<p class=warn>{missing} runs are missing: the study is not complete.</p>" + body
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        '<meta name=color-scheme content="light dark">'
        f"<title>{title}</title><style>{_STYLE}{svg.STYLE}</style></head>"
        f"<body><main><h1>{title}</h1>{body}</main></body></html>\n"
    )


def _opening(said: Advice | None, of: str = "") -> str:
    if said is None:
        return ""
    items = "".join(f"<li>{escape(detail)}</li>" for detail in said.details)
    return f"<p class=lead>{escape(of + said.lead)}</p><ul>{items}</ul>"


_MARGIN = (
    "Differences in points with their 95% intervals, before any correction for their number; the "
    "band is the margin: what is within it does not matter. After each: the seeds, and better, "
    "worse, equivalent or open, by that interval and two one-sided tests at 5%."
)


def _study_body(study: Study) -> str:
    tuned = tables.budget(study)
    calibrated = tables.calibration(study)
    parts = [
        "<h2>The five claims</h2>",
        *map(_verdict, judge(study)),
        _rule(),
        f"<h2>Against {escape(study.control)}</h2><p>{escape(_MARGIN)}</p>",
        *(_forest(study, outcome) for outcome in (IN_DOMAIN, OUT_OF_DOMAIN)),
        f"<h2>Results</h2><p>{escape(wording.scores_are(study.metric))}, mean and 95% interval "
        f"over seeds. {escape(_failed(study))}</p>",
        _table(*tables.results(study)),
        _table(*tables.differences(study)),
        f"<p class=note>{escape(INTERVALS + wording.notes(study))}</p>",
        "<h2>What was tuned</h2>",
        "<p>Nothing: every strategy has its own rate.</p>"
        if tuned is None
        else _budget(study, tuned),
        *_rates(study),
    ]
    if calibrated[1]:
        parts += [
            "<h2>Calibration</h2><p>Expected calibration error on the test set, in percent (15 "
            "bins), mean and 95% interval over seeds: how far confidence is from accuracy.</p>",
            _table(*calibrated),
        ]
    known = tables.precision(study)
    if known[1]:
        parts += [f"<h2>How much is known</h2><p>{escape(PRECISION)}</p>", _table(*known)]
    return "".join(parts)


def _failed(study: Study) -> str:
    """What `Run.failed` counts."""
    if tables.of_classes(study):
        guessing = (
            ", or if its test predictions have a Matthews correlation below "
            f"{GUESSING:g}, which is guessing"
        )
    else:
        guessing = ", or if it scores nothing" if study.metric.higher_is_better else ""
    return f"A run failed if it diverged{guessing}."


def _rule() -> str:
    return f"<details><summary>The rule</summary><p>{escape(RULE)}</p></details>"


def _row(study: Study, size: str, name: str, outcome: Outcome, label: str) -> svg.Row | None:
    found = effect(study, size, name, study.control, outcome)
    if found is None:
        return None
    word = tables.standing(study, size, name, outcome)
    percent = study.metric.in_percent
    note = describe(found.interval(), percent).replace(" points", "").replace(" seeds", "")
    return svg.Row(label, found.interval(), f"{note}: {word}")


def _forest(study: Study, outcome: Outcome) -> str:
    plots = []
    for size in study.sizes:
        others = [name for name in study.strategies if name != study.control]
        rows = [_row(study, size, name, outcome, name) for name in others]
        drawn = [row for row in rows if row is not None]
        title = f"{outcome.name}, train size {size}"
        plots.append(svg.forest(drawn, outcome.margin(study), title))
    return "".join(plots)


def _claim_forest(found: Collection, strategy: str, outcome: Outcome) -> str:
    """One strategy over all studies and train sizes; '' without any."""
    rows, margin, title = [], None, strategy
    for (task, model), study in found.studies.items():
        name, margin = named(study, strategy), outcome.margin(study)
        title = f"{name} - {study.control}, {outcome.name}"
        for size in study.sizes:
            row = _row(study, size, name, outcome, f"{task}, {model}, {size}")
            rows += [] if row is None else [row]
    return svg.forest(rows, margin, title)


def _rates(study: Study) -> list[str]:
    """The grid's curves and how wide their tops are; nothing without a grid."""
    known = tables.widths(study)
    if not known[1] or not study.metric.in_percent:
        return []
    parts = [
        "<h2>How wide the good rates are</h2><p>Development score by base rate, the mean over the "
        "grid's seeds, and how often the rate can be doubled within a point of the best.</p>",
        _table(*known),
    ]
    for size in study.sizes:
        lines = {
            name: {rate: 100 * score for rate, score in scores.items()}
            for name in study.strategies
            if (scores := rate_scores(study, size, name))
        }
        drawn = svg.curves(lines, "base rate", f"development {study.metric.name}, %")
        parts.append(f"<h3>Train size {escape(size)}</h3>{drawn}" if drawn else "")
    return parts


def _budget(study: Study, chosen: tables.Table) -> str:
    grid = study.about["grid"]
    rates = ", ".join(f"{rate:g}" for rate in grid["rates"])
    runs = len(grid["seeds"])
    text = (
        f"Each strategy got the same grid of base rates, {rates}, with {runs} "
        f"run{'s' if runs > 1 else ''} each at every train size, and kept the one with the best "
        f"mean {study.metric.name} on the development set. Those whose rate is the claim keep "
        "theirs."
    )
    further = study.about["grid"].get("extensions", 0)
    if further:
        text += (
            f" One whose best lay on the edge went on beyond it, up to {further} rates; where it "
            "is on the edge all the same, the table says so."
        )
    return f"<p>{escape(text)}</p>{_table(*chosen)}"


def _verdict(verdict: Verdict) -> str:
    items = "".join(
        f"<li><b>{escape(part.answer)}</b>: {escape(part.text)}<ul>"
        + "".join(
            f"<li>train size {escape(a.size)}: {escape(a.numbers)} &rarr; {escape(a.answer)}</li>"
            for a in part.answers
        )
        + "</ul></li>"
        for part in verdict.parts
    )
    sizes = "; ".join(
        f"{size}: {word}{tables.wanted(verdict, size)}" for size, word in verdict.by_size
    )
    kind = verdict.verdict.split()[0]
    return (
        f"<section class={kind}><h3>{escape(verdict.claim)}</h3>"
        f"<p class=word>{escape(verdict.verdict)} <small>({escape(verdict.strategy)})</small></p>"
        f"<p class=sizes>{escape(sizes)}</p><ul>{items}</ul></section>"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], wrap: bool = False) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    kind = "wide wrap" if wrap else "wide"
    return f'<div class="{kind}"><table><tr>{head}</tr>{body}</table></div>'


def _figure(image: tuple[str, bytes]) -> str:
    caption, content = image
    data = base64.b64encode(content).decode()
    text = escape(caption, quote=True)
    return (
        f'<figure><div class=wide><img src="data:image/png;base64,{data}" alt="{text}"></div>'
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
    """What makes it again: of a plan's study the plan, else with the demo's model and data."""
    about, words = found.about, ["jaxbert", "lab"]
    if about.get("plan"):
        words += ["run", "--plan", "PLAN.toml", "--only", about["plan"]]
        return shlex.join([*words, "--output", "DIRECTORY"])
    words += _sweep_words(found) if isinstance(found, Sweep) else _study_words(found)
    words += wording.flags(about)
    words += ["--seeds", str(len(about["seeds"])), "--dtype", about["training"]["dtype"]]
    return shlex.join([*words, "--output", "DIRECTORY"])


def _listed(values: Iterable[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _sweep_words(sweep: Sweep) -> list[Any]:
    about = sweep.about
    count = str(about["size"]["examples"])
    whole = about["data"]["train"]["count"] == about["size"]["examples"]
    words = ["sweep", "--strategy", about["strategy"], "--rates", _listed(about["rates"])]
    words += ["--decays", _listed(about["decays"]), "--train-size", "full" if whole else count]
    return [*words, "--epochs", str(about["size"]["epochs"])]


def _study_words(study: Study) -> list[Any]:
    about = study.about
    words = ["run", "--strategies", ",".join(about["strategies"]), "--control", study.control]
    words += ["--train-sizes", ",".join(about["sizes"]), "--epochs"]
    words += [",".join(str(size["epochs"]) for size in about["sizes"].values())]
    return words + (["--grid", _listed(about["grid"]["rates"])] if about["grid"] else [])


_STYLE = """
:root{--ink:#1a1a1a;--page:#fff;--soft:#5a5a5a;--rule:#ddd;--shade:#f5f5f5;--band:#cfe3f3;
--mark:#0072b2;--warn:#fff3d6}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--page:#141414;--soft:#a8a8a8;--rule:#3a3a3a;
--shade:#1f1f1f;--band:#1d3a52;--mark:#56b4e9;--warn:#453510}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:0}
main{max-width:60rem;margin:auto;padding:1rem;overflow-wrap:anywhere}
h1{font-size:1.7rem}h2{margin-top:2.2rem;border-bottom:1px solid var(--rule)}
h3{font-size:1rem;margin:.2rem 0}.lead{font-size:1.05rem}
section{border-left:.4rem solid #999;padding:.1rem .9rem;margin:1rem 0;background:var(--shade)}
.supported{border-color:#009e73}.contradicted{border-color:#d55e00}.undecided{border-color:#e69f00}
.equivalent{border-color:#56b4e9}.depends{border-color:#cc79a7}
.word{font-weight:600;margin:.2rem 0}.sizes{margin:.2rem 0}
small,.note,figcaption,summary{color:var(--soft)}summary{cursor:pointer}
section ul{margin:.3rem 0;padding-left:1.2rem;font-size:.92rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;margin:.8rem 0}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--rule);text-align:left;white-space:nowrap;
vertical-align:top}.wrap td{white-space:normal;min-width:9rem}
figure{margin:1.6rem 0}img{width:100%;min-width:42rem;height:auto;background:#fff}
pre{overflow-x:auto;background:var(--shade);padding:.7rem}
.warn{background:var(--warn);padding:.5rem .8rem}
"""
