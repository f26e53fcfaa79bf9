"""Keeps the numbers of a finished demo run in benchmarks/results: demo.jsonl, or demo_tags.jsonl.

jaxbert demo --output runs/demo
python -m benchmarks.demo runs/demo
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.results import append_result, environment

# task: (file, scores that are kept)
KEPT = {
    "text-classification": ("demo", ("accuracy",)),
    "token-classification": ("demo_tags", ("f1", "precision", "recall", "accuracy")),
}


def summary(directory: Path) -> dict[str, Any]:
    """What run.json says of the run, in the form that the PyTorch side has too."""
    run = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    if run["status"] != "finished" or "scores" not in run:
        raise SystemExit(f"{directory}: the run is {run['status']}; finish it first")
    task = run["task"]
    other = "" if task == "text-classification" else f" --task {task}"
    told = f"--dtype {run['compute']['dtype']} --seed {run['config']['seed']}"
    kept = {
        metric: {name: scores[metric] for name, scores in run["scores"].items()}
        for metric in KEPT[task][1]
    }
    return {
        "side": "jaxbert",
        "task": task,
        "command": f"jaxbert demo{other} {told}",
        "seed": run["config"]["seed"],
        "dtype": run["compute"]["dtype"],
        "strategy": run["strategy"],
        "hyper_parameters": run["config"],
        **kept,
        "best_step": run["best"]["step"],
        "seconds": run["seconds"],
        "compilation_seconds": run["compilation"]["seconds"],
        "peak_memory_bytes": run["peak_memory_bytes"],
        "packing_efficiency": run["data"]["packing_efficiency"],
        **environment(),
        "versions": run["versions"],
    }


def main() -> None:
    """Appends one line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="directory of a finished demo run")
    found = summary(parser.parse_args().run)
    append_result(KEPT[found["task"]][0], found)


if __name__ == "__main__":
    main()
