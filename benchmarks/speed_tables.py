"""The tables of speed: the latest comparison of every workload, and where a step's time goes."""

from __future__ import annotations

import datetime
import math
import shlex
import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.compare import ratio_to
from benchmarks.markdown import machine, table
from benchmarks.results import read_results
from benchmarks.workload import FAMILIES, FAMILIES_OF, FULL, WORKLOADS, Workload
from jaxbert.models import AutoConfig
from jaxbert.plan.flops import training_flops

Sides = dict[str, dict[str, Any]]  # {side: its line of results/speed.jsonl}

SIDES = {"jaxbert": "jaxbert", "torch-eager": "PyTorch eager",
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
# Of the README, where both precisions share a row: {workload: what it is}.
MAIN = {
    "demo-train": "a training step, MiniLM-L6, 32 x 128",
    "demo-infer": "inference, MiniLM-L6, 32 x 128",
    "base-8x128-train": "a training step, BERT-base, 8 x 128",
    "reviews": "training on real sentences, packed; the others padded to a batch's longest",
    "reviews-padded": "the same; the others padded to 128",
}
PRECISIONS = ("float32", "bfloat16")
NOT_YET = "Not measured yet: `make bench` does."


def speed() -> str:
    """The latest comparison of every workload on every device: milliseconds a step, and memory."""
    latest = _latest()
    if not latest:
        return NOT_YET
    header = ["work", "on", *SIDES.values(), "speed over PyTorch (wanted)", "at most (reached)",
              "over HF Flax (wanted)", "peak memory, GiB: jaxbert / PyTorch"]  # fmt: skip
    note = (
        "Milliseconds a step: the median of all rounds (least - most). Speed: the ratio of medians "
        "of one interleaved run, over the faster PyTorch, and over HF Flax in its faster "
        "precision. At most: what that would be if the products alone took time, all at the "
        "highest rate that `python -m benchmarks.products` measured there, within the hour if it "
        "was run then; in brackets the share of it that is reached."
    )
    rows = [_row(name, where, sides) for (name, where), sides in latest.items()]
    return f"{table(header, rows)}\n\n{note} {_commands(latest.values())}.{_growth()}"


def main_speed() -> str:
    """The same comparisons for the README: a row for both precisions of a workload."""
    latest = _latest()
    if not latest:
        return NOT_YET
    rows = []
    for where in dict.fromkeys(where for _, where in latest):
        for work, about in MAIN.items():
            both = [latest.get((f"{work}-{precision}", where), {}) for precision in PRECISIONS]
            if any(both):
                names = [f"{work}-{precision}" for precision in PRECISIONS]
                rows.append([about, where, *_pair(names, both)])
    header = ["work", "on", "jaxbert, ms", "speed over PyTorch (wanted)", "over HF Flax",
              "peak memory, GiB: jaxbert / PyTorch"]  # fmt: skip
    note = (
        "In each cell float32; bfloat16. A step over real sentences is a batch of 32. Over the "
        "faster of PyTorch eager and compiled, and HF Flax 4.57 in its faster precision: ratios of "
        "medians of one interleaved run. `python -m benchmarks.compare`, with the arguments that "
        "[the full table](benchmarks/SPEED.md) names for each row."
    )
    return f"{table(header, rows)}\n\n{note}"


def by_jax() -> str:
    """jaxbert with two versions of JAX, where one comparison has both."""
    rows, shown = [], []
    for (name, where), sides in _latest(side="jaxbert-newer").items():
        both = [sides["jaxbert"], sides["jaxbert-newer"]]
        torch = {side: row for side, row in sides.items() if side.startswith("torch")}
        cells = [
            (f"{row['jax']}: {_milliseconds(row)}",
             _ratio("torch", {"jaxbert": row} | torch, None), _gibibytes(row))
            for row in both
        ]  # fmt: skip
        rows.append([name, where, *map("; ".join, zip(*cells, strict=True))])
        shown.append(sides)
    if not rows:
        return NOT_YET.replace("make bench", "python -m benchmarks.compare --sides ...")
    header = ["work", "on", "jaxbert, ms, by JAX's version", "speed over PyTorch",
              "peak memory, GiB"]  # fmt: skip
    return f"{table(header, rows)}\n\n{_commands(shown)}."


def families() -> str:
    """A row for the base size of every family, in float32: training, and then inference."""
    latest = _latest(FAMILIES)
    if not latest:
        return NOT_YET.replace("make bench", "python -m benchmarks.compare --families")
    rows = []
    for where in dict.fromkeys(where for _, where in latest):
        for model in FAMILIES_OF:
            names = [f"{model}-{kind}-float32" for kind in ("train", "infer")]
            both = [latest.get((name, where), {}) for name in names]
            if any(both):
                rows.append([f"`{model}`", where, *map("; ".join, _of_families(both))])
    header = ["model", "on", "jaxbert, ms", "PyTorch eager, ms", "PyTorch compiled, ms",
              "speed over PyTorch", "at most (reached)",
              "peak memory, GiB: jaxbert / PyTorch"]  # fmt: skip
    note = (
        "In each cell a training step; inference, 8 x 128, float32, random weights; the columns as "
        "above."
    )
    return f"{table(header, rows)}\n\n{note} {_commands(latest.values())}."


def _of_families(both: list[Sides]) -> Iterable[tuple[str, ...]]:
    """The columns of a row of `families`, each one value for training and one for inference."""
    sides_shown = ("jaxbert", "torch-eager", "torch-compiled")
    cells = [
        [
            *(_milliseconds(sides.get(side)) for side in sides_shown),
            _ratio("torch", sides, None),
            _most(sides) if sides else "-",
            _memory(sides),
        ]
        for sides in both
    ]
    return zip(*cells, strict=True)


def _pair(names: list[str], both: list[Sides]) -> list[str]:
    """The cells of a row of `main_speed`: of every precision one value."""
    cells = [
        [
            _median(sides.get("jaxbert")),
            _ratio("torch", sides, WANTED.get(name)),
            _ratio("hf-flax", sides, None),
            _memory(sides),
        ]
        for name, sides in zip(names, both, strict=True)
    ]
    return ["; ".join(values) for values in zip(*cells, strict=True)]


def _latest(
    workloads: Iterable[Workload] = FULL, side: str = "jaxbert"
) -> dict[tuple[str, str], Sides]:
    """{(workload, device): its latest comparison with that side}, in the order of the workloads."""
    runs: dict[tuple[str, str], Sides] = {}
    for row in read_results("speed"):
        runs.setdefault((row["workload"]["name"], row["time"]), {})[row["side"]] = row
    shown = {work.name for work in workloads}
    found = {
        (name, _where(sides)): sides
        for (name, _), sides in runs.items()
        if name in shown and len(sides) > 1 and side in sides
    }
    for sides in found.values():
        if "hf-flax-float32" in sides:  # its best at bfloat16 may be float32
            both = [sides.pop(side) for side in ("hf-flax", "hf-flax-float32") if side in sides]
            sides["hf-flax"] = min(both, key=lambda r: r.get("median_step_seconds", math.inf))
    order = [*WORKLOADS]
    return dict(sorted(found.items(), key=lambda run: order.index(run[0][0])))


def _row(name: str, where: str, sides: Sides) -> list[str]:
    return [
        name, where, *(_milliseconds(sides.get(side)) for side in SIDES),
        _ratio("torch", sides, WANTED.get(name)), _most(sides),
        _ratio("hf-flax", sides, WANTED_OVER_HF), _memory(sides),
    ]  # fmt: skip


def _commands(runs: Iterable[Sides]) -> str:
    return "; ".join(sorted({f"`{row['command']}`" for sides in runs for row in sides.values()}))


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


def products() -> str:
    """The rates of the products that a step is made of, in JAX and in PyTorch, by machine."""
    rates: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in read_results("products"):
        what, _, how = row["product"].partition(", ")
        key = (machine(row), f"{what}, {how.split()[0].rstrip(',')}", row["package"])
        rates.setdefault(key, {}).setdefault(how, []).append(statistics.median(row["gflops"]))
    best = {key: max(map(statistics.median, ways.values())) for key, ways in rates.items()}
    header = ["product", "on", "JAX, GFLOP/s", "PyTorch, GFLOP/s", "ratio"]
    rows = []
    for where, what in sorted({key[:2] for key in best}):
        ours, theirs = (best[where, what, package] for package in ("jax", "torch"))
        rows.append([what, where, f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}x"])
    note = (
        "`python -m benchmarks.products`, kernels of the demo model, medians over them and over "
        "runs; in bfloat16 the faster way to write it in JAX."
    )
    return f"{table(header, rows)}\n\n{note}" if rows else NOT_YET


def _ratio(others: str, sides: Sides, wanted: float | None) -> str:
    ratio = ratio_to(others, sides)
    if ratio is None:
        return "-"
    return f"{ratio:.2f}x" + (f" ({wanted:.1f}x)" if wanted else "")


def _most(sides: Sides) -> str:
    """The speed over PyTorch of a step of nothing but products, and the share of it reached."""
    first = next(iter(sides.values()))
    work, here = first["workload"], machine(first)
    timed = [
        row
        for row in read_results("products")
        if row["package"] == "jax"
        and f", {work['dtype']}" in row["product"]
        and machine(row) == here
    ]
    if work["source"] != "full" or not timed:
        return "-"
    rates = [statistics.median(row["gflops"]) for row in _within_the_hour(timed, first) or timed]
    operations = training_flops(AutoConfig.preset(work["preset"]), work["batch"], work["length"])
    seconds = operations / (1e9 * max(rates)) / (3 if work["kind"] == "infer" else 1)
    ratio = ratio_to("torch", sides | {"jaxbert": {"median_step_seconds": seconds}})
    if ratio is None or "error" in sides["jaxbert"]:
        return "-"
    return f"{ratio:.2f}x ({seconds / sides['jaxbert']['median_step_seconds']:.2f})"


def _within_the_hour(rows: list[dict[str, Any]], of: dict[str, Any]) -> list[dict[str, Any]]:
    """The speed of a machine that others share changes from hour to hour."""
    hour, then = datetime.timedelta(hours=1), datetime.datetime.fromisoformat(of["time"])
    return [row for row in rows if abs(datetime.datetime.fromisoformat(row["time"]) - then) <= hour]


def _where(sides: Sides) -> str:
    """The processor or accelerator; a side that failed to start does not know."""
    row = next((row for row in sides.values() if "platform" in row), None)
    if row and row["platform"] != "cpu":
        return row["device"]
    return machine(next(iter(sides.values())))


def _milliseconds(row: dict[str, Any] | None) -> str:
    if row is None or "error" in row:
        return "-" if row is None else "failed"
    steps = [1000 * seconds for seconds in row["step_seconds"]]
    return f"{statistics.median(steps):.0f} ({min(steps):.0f} - {max(steps):.0f})"


def _median(row: dict[str, Any] | None) -> str:
    return _milliseconds(row).partition(" ")[0]


def _memory(sides: Sides) -> str:
    return " / ".join(_gibibytes(sides.get(side)) for side in ("jaxbert", "torch-eager"))


def _gibibytes(row: dict[str, Any] | None) -> str:
    peak = (row or {}).get("peak_memory_bytes")
    return f"{peak / 2**30:.2f}" if peak else "-"
