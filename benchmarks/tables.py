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
from pathlib import Path
from typing import Any

from benchmarks import peer_tables, study_tables, trust_tables
from benchmarks.level_tables import first_step, level, masks, whole_runs
from benchmarks.markdown import machine, table
from benchmarks.plan_tables import kernel_cycles, plan_parts, plans
from benchmarks.results import read_results
from benchmarks.speed_tables import breakdown, by_jax, families, main_speed, products, speed

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
    "products": products,
    "level": level,
    "masks": masks,
    "whole runs": whole_runs,
    "first step": first_step,
    "windows": windows,
    "lr": lr,
    "strategies": strategies,
    "plans": plans,
    **peer_tables.TABLES,
    **study_tables.TABLES,
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
