"""Draws time per token against sequence length, jaxbert beside PyTorch.

    python -m benchmarks.compare --only length-{32,64,128,256,512}-{float32,bfloat16} \\
        --sides jaxbert,torch-eager
    python -m benchmarks.lengths

reads the latest of these comparisons from benchmarks/results/speed.jsonl and writes length.png
beside it.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, read_results
from benchmarks.workload import TOLERANCE

LABELS = {
    "jaxbert": "jaxbert",
    "torch-eager": "PyTorch eager",
    "torch-compiled": "PyTorch compiled",
}
COLOURS = {"jaxbert": "#d55e00", "torch-eager": "#0072b2", "torch-compiled": "#009e73"}


def points(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[int, list[float]]]:
    """{(dtype, side): {length: microseconds a token of every round}}, of the latest comparisons."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        work = row["workload"]
        if work["name"].startswith("length-") and "step_seconds" in row:
            tokens = work["batch"] * work["length"]
            times = [1e6 * seconds / tokens for seconds in row["step_seconds"]]
            found.setdefault((work["dtype"], row["side"]), {})[work["length"]] = times
    return found


def draw(found: dict[tuple[str, str], dict[int, list[float]]], path: Path) -> None:
    """A panel for each dtype; the median as a line, all rounds as a band."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(1, len(TOLERANCE), sharey=True)
    for axis, dtype in zip(axes, TOLERANCE, strict=True):
        for side, label in LABELS.items():
            lengths = sorted(found.get((dtype, side), {}))
            if not lengths:
                continue
            rounds = [sorted(found[dtype, side][length]) for length in lengths]
            middle = [statistics.median(times) for times in rounds]
            axis.plot(lengths, middle, color=COLOURS[side], marker="o", ms=4, label=label)
            low, high = ([times[end] for times in rounds] for end in (0, -1))
            axis.fill_between(lengths, low, high, color=COLOURS[side], alpha=0.15)
            axis.set_xscale("log", base=2)
            axis.set_xticks(lengths, map(str, lengths))
        axis.set_title(f"training step, {dtype}", fontsize=10)
        axis.set_xlabel("tokens in a row")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("microseconds a token")
    axes[0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def main() -> int:
    """Draws the figure; status 1 if there is nothing to draw."""
    found = points(read_results("speed"))
    if not found:
        print("no length-* workload in benchmarks/results/speed.jsonl: see this file's head")
        return 1
    draw(found, RESULTS / "length.png")
    print(RESULTS / "length.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
