"""Writes the tables of the documents from benchmarks/results and from the package itself.

python -m benchmarks.tables            # rewrite the documents
python -m benchmarks.tables --check    # fail if one is not up to date

A table stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->` in one document, whichever.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import peer_tables, trust_tables
from benchmarks.level_tables import first_step, level, masks, whole_runs
from benchmarks.markdown import machine, table
from benchmarks.plan_tables import kernel_cycles, plan_parts, plans
from benchmarks.results import RESULTS, read_results
from benchmarks.speed_tables import breakdown, by_jax, families, main_speed, speed
from jaxbert.lab import page, verdicts
from jaxbert.lab import tables as lab_tables
from jaxbert.lab.advice import advice
from jaxbert.lab.journals import Study, Sweep
from jaxbert.lab.journals import read as read_lab

ROOT = Path(__file__).parent.parent
SETS = {"dev": "dev", "test": "test", "amazon": "product reviews", "nyt": "editorials",
        "tweets": "tweets"}  # fmt: skip


def demo() -> str:
    """Accuracy of the demo and of PyTorch with the same hyper-parameters, mean over seeds."""
    sides = {
        "jaxbert, float32": [r for r in read_results("demo") if r["dtype"] == "float32"],
        "jaxbert, bfloat16": [r for r in read_results("demo") if r["dtype"] == "bfloat16"],
        "PyTorch, float32": read_results("torch_finetune"),
    }
    # A seed that was run again counts once.
    sides = {name: [*{r["seed"]: r for r in runs}.values()] for name, runs in sides.items() if runs}
    rows = [
        [name, _seeds(runs), *(_percent([r["accuracy"][s] for r in runs]) for s in SETS),
         _memory(runs)]
        for name, runs in sides.items()
    ]  # fmt: skip
    header = ["accuracy, %", "seeds", *SETS.values(), "peak memory, GiB"]
    times = [
        f"{name}: {statistics.median(r['seconds'] for r in runs):.0f} s"
        for name, runs in sides.items()
        if name.startswith("jaxbert")
    ]
    machines = sorted({machine(r) for runs in sides.values() for r in runs})
    return (
        f"{table(header, rows)}\n\nMean ± standard deviation over seeds. "
        "`make demo ARGS='--seed 1 --dtype bfloat16 --output runs/demo'` or the like, then "
        "`python -m benchmarks.demo runs/demo`; `python -m benchmarks.torch_finetune runs/demo`. "
        "Training with its compilation and "
        f"evaluations took {'; '.join(times)}, on {'; '.join(machines)}.{_demo_of_tags()}"
    )


def _demo_of_tags() -> str:
    """The same model on tweets with names, as last run."""
    runs = [*{r["seed"]: r for r in read_results("demo_tags")}.values()]
    if not runs:
        return ""
    f1 = ", ".join(f"{_percent([r['f1'][name] for r in runs])} on {name}" for name in runs[0]["f1"])
    return (
        f" Names in tweets (Ritter et al. 2011, ten types, 1,931 tweets to learn from), with "
        f"`jaxbert demo --task token-classification`, seed {_seeds(runs)}: entity F1, %, {f1}."
    )


def _percent(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _seeds(runs: list[dict[str, Any]]) -> str:
    return ", ".join(str(seed) for seed in sorted({r["seed"] for r in runs}))


def _memory(runs: list[dict[str, Any]]) -> str:
    return f"{statistics.median(r['peak_memory_bytes'] for r in runs) / 2**30:.2f}"


def lr() -> str:
    """What `jaxbert lr` prints for BERT-base."""
    from jaxbert.cli import main

    command = ["lr", "--model", "bert-base-uncased"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(command)
    return f"```\n$ jaxbert {' '.join(command)}\n{printed.getvalue()}```"


def strategies() -> str:
    """Every strategy, from its row."""
    from jaxbert.optim import STRATEGIES

    rows = []
    for name, row in STRATEGIES.items():
        config = row.config()
        decay = f"{config.layer_decay:.3g}" if config.layer_decay != 1 else "none"
        rows.append(
            [f"`{name}`", row.about, f"{config.learning_rate:g}", decay, f"`{config.schedule}`"]
        )
    return table(["strategy", "what", "peak rate", "layer decay", "schedule"], rows)


def status() -> str:
    """Which families there are, their classes, and what these are trained for."""
    from jaxbert.models.auto import FAMILIES, HEADS, config_class
    from jaxbert.tasks import TASKS

    rows = [
        [
            f"`{name}`",
            f"`{row.prefix}...`",
            ", ".join(f"`{head}`" for head in row.further) or "-",
            ", ".join(f"`{preset}`" for preset in config_class(name).presets),
        ]
        for name, row in FAMILIES.items()
    ]
    tasks = ", ".join(f"`{name}` (`...{task.head.__name__}`)" for name, task in TASKS.items())
    classes = ", ".join(f"`{head}`" for head in HEADS)
    header = ["`model_type`", "classes", "heads of its own", "`preset`s, with published sizes"]
    return f"{table(header, rows)}\n\nEach has {classes}. Tasks: {tasks}."


def _parity() -> list[dict[str, Any]]:
    return [*{row["model"]: row for row in read_results("parity")}.values()]


def parity() -> str:
    """The distance of every model from PyTorch, as last measured."""
    rows = [
        [
            f"`{row['model']}`" if row["model"].isidentifier() else row["model"],
            f"{row['outputs']:.0e}",
            "" if row["gradients"] is None else f"{row['gradients']:.0e}",
        ]
        for row in _parity()
    ]
    header = ["model", "outputs, largest difference", "gradients, largest relative difference"]
    return f"{table(header, rows)}\n\n`python -m benchmarks.parity`; float32."


def main_parity() -> str:
    """The same for the README: the largest of each family's classes."""
    families: dict[str, list[dict[str, Any]]] = {}
    for row in _parity():
        name = row["model"]
        family = re.split("Model|For", name)[0] if name.isidentifier() else name
        families.setdefault(family, []).append(row)
    rows = []
    for family, found in families.items():
        gradients = [row["gradients"] for row in found if row["gradients"] is not None]
        rows.append(
            [
                f"`{family}...`, {len(found)} classes" if family.isidentifier() else family,
                f"{max(row['outputs'] for row in found):.0e}",
                f"{max(gradients):.0e}" if gradients else "",
            ]
        )
    header = ["models", "outputs, largest difference", "gradients, largest relative difference"]
    return f"{table(header, rows)}\n\n`python -m benchmarks.parity`; float32."


def windows() -> str:
    """What a windowed attention layer costs against length, as last measured."""
    found = {(row["length"], bool(row["window"])): row for row in read_results("windows")}

    def cells(length: int, windowed: bool) -> list[str]:
        row = found[length, windowed]
        took = row["milliseconds"]
        return ["not run" if took is None else f"{took:.0f}", f"{row['temporary_mib']:,.0f}"]

    lengths = sorted({length for length, _ in found})
    rows = [[f"{length:,}", *cells(length, True), *cells(length, False)] for length in lengths]
    header = ["tokens", "windowed, ms", "MiB", "full, ms", "MiB"]
    where = machine(next(iter(found.values())))
    return f"{table(header, rows)}\n\n`python -m benchmarks.windows`; {where}."


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
    found = read_lab(RESULTS / "lab" / "plan")
    said = advice([*found.studies.values()])
    parts = [table(*lab_tables.overview(found))]
    if said is not None:
        parts += [said.lead, "\n".join(f"- {detail}" for detail in said.details)]
    gone = [f"{found.missing} runs of these are missing"] if found.missing else []
    if found.absent:
        gone += ["not run yet: " + "; ".join(", ".join(pair) for pair in found.absent)]
    command = "`jaxbert lab report benchmarks/results/lab/plan` makes the page of it"
    return "\n\n".join([*parts, "; ".join([command, *gone]) + "."])


def plan_lead() -> str:
    """Of the same, what choosing wrong costs."""
    said = advice([*read_lab(RESULTS / "lab" / "plan").studies.values()])
    return said.lead if said is not None else "Not run yet: `jaxbert lab run --plan` does."


def again() -> str:
    """Cells of the study of several tasks that were run again, by processor."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in read_results("again"):
        found.setdefault(machine(row), []).append(row)
    if not found:
        return "Not run again yet: `python -m benchmarks.again` does."
    rows = []
    for where, cells in found.items():
        known = [cell for cell in cells if cell["difference"] is not None]
        far = max((cell["difference"] for cell in known), default=0.0)
        noise = statistics.median(cell["deviation"] for cell in cells)
        rows.append([where, str(len(cells)), str(sum(cell["same"] for cell in cells)),
                     f"{100 * far:.1f}", f"{100 * noise:.1f}"])  # fmt: skip
    header = ["on", "cells", "the same in every example", "largest difference of a score, points",
              "deviation over seeds, median"]  # fmt: skip
    return f"{table(header, rows)}\n\n`python -m benchmarks.again`, cells drawn at random."


def claims() -> str:
    """For the README: of every study, at how many train sizes a claim has which verdict."""
    found = {("films", "minilm"): read_lab(RESULTS / "lab" / "study")}
    found |= read_lab(RESULTS / "lab" / "plan").studies
    judged = [verdicts.judge(study) for study in found.values()]
    rows = [
        [same[0].claim, *(_counts(word for _, word in verdict.by_size) for verdict in same)]
        for same in zip(*judged, strict=True)
    ]
    return table(["claim", *(f"{task}, {model}" for task, model in found)], rows)


def _counts(words: Iterable[str]) -> str:
    return ", ".join(f"{word} {count}" for word, count in Counter(words).most_common())


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
    "status": status,
    "parity": parity,
    "main parity": main_parity,
    "demo": demo,
    "speed": speed,
    "main speed": main_speed,
    "families": families,
    "by jax": by_jax,
    "breakdown": breakdown,
    "level": level,
    "masks": masks,
    "whole runs": whole_runs,
    "first step": first_step,
    "windows": windows,
    "lr": lr,
    "strategies": strategies,
    "lab": lab,
    "main lab": main_lab,
    "plan lab": plan_lab,
    "plan lead": plan_lead,
    "again": again,
    "claims": claims,
    "plans": plans,
    **peer_tables.TABLES,
    **trust_tables.TABLES,
    "plan parts": plan_parts,
    "kernel cycles": kernel_cycles,
}
MARKED = re.compile(r"(<!-- begin: (.*?) -->\n).*?(<!-- end: \2 -->)", flags=re.S)


def documents() -> list[Path]:
    """Every document that may hold tables."""
    folders = ("docs", "benchmarks", "scripts")
    return [
        ROOT / "README.md",
        ROOT / "SECURITY.md",
        *(path for f in folders for path in sorted((ROOT / f).glob("*.md"))),
    ]


@functools.cache
def made(name: str) -> str:
    """The table of that name."""
    if name not in TABLES:
        raise ValueError(f"no table is called {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name]()


def filled(text: str) -> str:
    """The text with every table between its marks made anew."""
    return MARKED.sub(lambda m: f"{m[1]}{made(m[2])}\n{m[3]}", text)


def main() -> int:
    """Rewrites the documents, or checks them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if stale")
    check = parser.parse_args().check
    old = {path: path.read_text(encoding="utf-8") for path in documents()}
    missing = set(TABLES) - {m[2] for text in old.values() for m in MARKED.finditer(text)}
    if missing:
        raise ValueError(f"no document has a place for the tables {', '.join(sorted(missing))}")
    stale = {path: new for path, text in old.items() if (new := filled(text)) != text}
    for path, new in stale.items():
        print(f"{path.relative_to(ROOT)} {'is stale' if check else 'is rewritten'}")
        if not check:
            path.write_text(new, encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
