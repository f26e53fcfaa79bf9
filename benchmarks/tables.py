"""Writes the README's tables from benchmarks/results and from the package itself.

python -m benchmarks.tables            # rewrite README.md
python -m benchmarks.tables --check    # fail if it is not up to date
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import re
import shlex
import statistics
from pathlib import Path
from typing import Any

from benchmarks.compare import ratio_to
from benchmarks.results import RESULTS, read_results
from benchmarks.workload import FULL, WORKLOADS
from jaxbert.lab.journals import read as read_lab
from jaxbert.lab.report import command as lab_command
from jaxbert.lab.report import markdown as lab_markdown
from jaxbert.models import BertConfig
from jaxbert.plan.flops import training_flops

README = Path(__file__).parent.parent / "README.md"
SETS = {"dev": "dev", "test": "test", "amazon": "product reviews", "nyt": "editorials",
        "tweets": "tweets"}  # fmt: skip


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    machines = sorted({_machine(r) for runs in sides.values() for r in runs})
    return (
        f"{table(header, rows)}\n\nMean ± standard deviation over seeds. "
        "`make demo ARGS='--seed 1 --dtype bfloat16 --output runs/demo'` or the like, then "
        "`python -m benchmarks.demo runs/demo`; `python -m benchmarks.torch_finetune runs/demo`. "
        "Training with its compilation and "
        f"evaluations took {'; '.join(times)}, on {'; '.join(machines)}."
    )


def _percent(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _seeds(runs: list[dict[str, Any]]) -> str:
    return ", ".join(str(seed) for seed in sorted({r["seed"] for r in runs}))


def _memory(runs: list[dict[str, Any]]) -> str:
    return f"{statistics.median(r['peak_memory_bytes'] for r in runs) / 2**30:.2f}"


def _machine(row: dict[str, Any]) -> str:
    machine = row["machine"]
    return f"{machine['cores']} cores of {machine['processor']}"


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


SPEED_SIDES = {"jaxbert": "jaxbert", "torch-eager": "PyTorch eager",
               "torch-compiled": "PyTorch compiled", "hf-flax": "HF Flax 4.57",
               "keras-hub": "KerasHub"}  # fmt: skip
# Speed over the faster PyTorch that this project set out to reach, and over HF Flax on every row.
WANTED = {
    "demo-train-float32": 2.0, "demo-train-bfloat16": 1.5,
    "base-8x128-train-float32": 1.7, "base-8x128-train-bfloat16": 1.3,
    "demo-infer-float32": 1.6, "demo-infer-bfloat16": 1.2,
    "reviews-float32": 2.2, "reviews-bfloat16": 2.2,
    "reviews-padded-float32": 8.0, "reviews-padded-bfloat16": 8.0,
}  # fmt: skip
WANTED_OVER_HF = 1.2


def speed() -> str:
    """The latest comparison of every workload on every device: milliseconds a step, and memory."""
    runs: dict[tuple[str, str], dict[str, Any]] = {}
    for row in read_results("speed"):
        runs.setdefault((row["workload"]["name"], row["time"]), {})[row["side"]] = row
    shown = {work.name for work in FULL}
    runs = {key: sides for key, sides in runs.items() if key[0] in shown and len(sides) > 1}
    if not runs:
        return "Not measured yet: `make bench` does."
    latest = {(name, _where(sides)): sides for (name, _), sides in runs.items()}
    rows = []
    for (name, where), sides in sorted(latest.items(), key=lambda run: _place(run[0][0])):
        if "hf-flax-float32" in sides:  # its best at bfloat16 may be float32
            both = [sides.pop(side) for side in ("hf-flax", "hf-flax-float32") if side in sides]
            sides["hf-flax"] = min(both, key=lambda r: r.get("median_step_seconds", math.inf))
        memory = " / ".join(_gibibytes(sides.get(side)) for side in ("jaxbert", "torch-eager"))
        rows.append(
            [name, where, *(_milliseconds(sides.get(side)) for side in SPEED_SIDES),
             _ratio("torch", sides, WANTED.get(name)), _most(sides),
             _ratio("hf-flax", sides, WANTED_OVER_HF), memory]
        )  # fmt: skip
    header = ["work", "on", *SPEED_SIDES.values(), "speed over PyTorch (wanted)", "at most",
              "over HF Flax (wanted)", "peak memory, GiB: jaxbert / PyTorch"]  # fmt: skip
    commands = {f"`{row['command']}`" for sides in latest.values() for row in sides.values()}
    note = (
        "Milliseconds a step: the median of all rounds (least - most). Speed: the ratio of medians "
        "of one interleaved run, over the faster PyTorch, and over HF Flax in its faster "
        "precision. At most: what that would be if the products alone took time, all at the "
        "highest rate that "
        "`python -m benchmarks.products` measured here."
    )
    return f"{table(header, rows)}\n\n{note} {'; '.join(sorted(commands))}.{_growth()}"


def _growth() -> str:
    """Milliseconds an example against the examples of a pass, where jaxbert was timed alone."""
    latest = {
        (row["workload"]["name"], row["workload"]["examples"]): row
        for row in read_results("speed")
        if shlex.split(row["command"])[-2:] == ["--sides", "jaxbert"] and "error" not in row
    }
    found: dict[str, list[str]] = {}
    for (name, examples), row in sorted(latest.items()):
        work = row["workload"]
        each = 1000 * row["median_step_seconds"] / work["batch"]
        found.setdefault(name, []).append(f"{examples:,}: {each:.2f} ms (`{row['command']}`)")
    return "".join(
        f"\n\nTime an example, `{name}`, by the examples of a pass: {'; '.join(times)}."
        for name, times in found.items()
    )


def breakdown() -> str:
    """Where jaxbert's step spends its time, as last traced: milliseconds by what computes."""
    latest = {row["workload"]: row for row in read_results("breakdown")}
    labels = {label: None for row in latest.values() for label in row["seconds"]}
    rows = [
        [label, *(f"{1000 * row['seconds'].get(label, 0):.0f}" for row in latest.values())]
        for label in labels
    ]
    whole = ["the step, not traced"]
    whole += [f"{1000 * row['step_seconds']:.0f}" for row in latest.values()]
    commands = sorted({f"`{row['command']}`" for row in latest.values()})
    return (
        f"{table(['milliseconds', *latest], [*rows, whole])}\n\n{'; '.join(commands)}; "
        "operations at the same time share it; `reviews` is one packed batch."
    )


def _ratio(others: str, sides: dict[str, Any], wanted: float | None) -> str:
    ratio = ratio_to(others, sides)
    if ratio is None:
        return "-"
    return f"{ratio:.2f}x" + (f" ({wanted:.1f}x)" if wanted else "")


def _most(sides: dict[str, Any]) -> str:
    """The speed over PyTorch that a step of nothing but products would have on this machine."""
    work = next(iter(sides.values()))["workload"]
    here = _machine(next(iter(sides.values())))
    rates = [
        statistics.median(row["gflops"])
        for row in read_results("products")
        if row["package"] == "jax"
        and f", {work['dtype']}" in row["product"]
        and _machine(row) == here
    ]
    if work["source"] != "full" or not rates:
        return "-"
    operations = training_flops(BertConfig.preset(work["preset"]), work["batch"], work["length"])
    seconds = operations / (1e9 * max(rates)) / (3 if work["kind"] == "infer" else 1)
    ratio = ratio_to("torch", sides | {"jaxbert": {"median_step_seconds": seconds}})
    return "-" if ratio is None else f"{ratio:.2f}x"


def _place(name: str) -> int:
    return [*WORKLOADS, name].index(name)


def _where(sides: dict[str, Any]) -> str:
    """The processor or accelerator; a side that failed to start does not know."""
    row = next((row for row in sides.values() if "platform" in row), None)
    return (
        row["device"] if row and row["platform"] != "cpu" else _machine(next(iter(sides.values())))
    )


def _milliseconds(row: dict[str, Any] | None) -> str:
    if row is None or "error" in row:
        return "-" if row is None else "failed"
    steps = [1000 * seconds for seconds in row["step_seconds"]]
    return f"{statistics.median(steps):.0f} ({min(steps):.0f} - {max(steps):.0f})"


def _gibibytes(row: dict[str, Any] | None) -> str:
    peak = (row or {}).get("peak_memory_bytes")
    return f"{peak / 2**30:.2f}" if peak else "-"


def parity() -> str:
    """The distance of every model from PyTorch, as last measured."""
    latest = {row["model"]: row for row in read_results("parity")}
    rows = [
        [
            f"`{name}`" if name.startswith("Bert") else name,
            f"{row['outputs']:.0e}",
            "" if row["gradients"] is None else f"{row['gradients']:.0e}",
        ]
        for name, row in latest.items()
    ]
    header = ["model", "outputs, largest difference", "gradients, largest relative difference"]
    return f"{table(header, rows)}\n\n`python -m benchmarks.parity`; float32."


def plans() -> str:
    """Every plan: memory of a device, waste, and the estimate."""
    found = {tuple(row[field] for field in PLAN): row for row in read_results("plans")}
    rows = [
        [
            row["model"],
            row["topology"],
            f"{row['batch_size']} x {row['max_length']}",
            row["mesh"],
            f"{row['peak'] / 1e9:.1f} of {row['memory'] / 1e9:.0f}",
            f"{row['waste']:+.1%}",
            _sent(row),
            f"{1000 * row['estimated_seconds']:.0f}",
            f"{row['utilisation']:.0%}",
            _kernels(row),
        ]
        for row in found.values()
    ]
    if not rows:
        return "Not planned yet: `python -m benchmarks.plans` does."
    header = ["model", "slice", "batch", "mesh", "peak memory, GB", "FLOPs beyond the model's",
              "sent, GB", "estimate, ms", "utilisation, at most", "attention"]  # fmt: skip
    note = (
        "`python -m benchmarks.plans`: bfloat16 products, AdamW, all rows of full length; memory "
        "and sent bytes of one device. Compiled, not run: an estimate is at the makers' published "
        "peaks, which no real step reaches."
    )
    return f"{table(header, rows)}\n\n{note}"


PLAN = ("model", "topology", "batch_size", "max_length", "mesh", "attention_dropout")
KERNELS = {"tpu_custom_call": "Pallas", "__cudnn": "cuDNN"}


def _sent(row: dict[str, Any]) -> str:
    return f"{sum(kind['bytes'] for kind in row['sent'].values()) / 1e9:.2f}"


def _kernels(row: dict[str, Any]) -> str:
    names = {short for name in row["kernels"] for start, short in KERNELS.items()
             if name.startswith(start)}  # fmt: skip
    dropout = ", no dropout" if row["attention_dropout"] == 0 else ""
    return (", ".join(sorted(names)) or "plain") + dropout


def lab() -> str:
    """Verdicts, results and differences of the committed study, and the sweep."""
    parts = []
    for name in ("study", "sweep"):
        directory = RESULTS / "lab" / name
        if directory.is_dir():
            found = read_lab(directory)
            missing = f" {found.missing} runs are still missing." if found.missing else ""
            made = f"`{lab_command(found)}`, then `jaxbert lab report DIRECTORY`.{missing}"
            parts += [lab_markdown(found), made]
    return "\n\n".join(parts) or "Not run yet: `jaxbert lab run` does."


TABLES = {
    "parity": parity,
    "demo": demo,
    "speed": speed,
    "breakdown": breakdown,
    "lr": lr,
    "strategies": strategies,
    "lab": lab,
    "plans": plans,
}


def filled(text: str) -> str:
    """The text with every table between its marks made anew."""
    for name, make in TABLES.items():
        pattern = rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)"
        body = make()
        text, count = re.subn(
            pattern, lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text, flags=re.S
        )
        if count != 1:
            raise ValueError(f"README.md has {count} places for the table {name!r}, want 1")
    return text


def main() -> int:
    """Rewrites README.md, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if stale")
    check = parser.parse_args().check
    old = README.read_text(encoding="utf-8")
    new = filled(old)
    if check:
        print("README.md is up to date" if new == old else "README.md is stale")
        return int(new != old)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
