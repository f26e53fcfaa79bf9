"""Keeps the numbers of a finished demo run in benchmarks/results/demo.jsonl.

jaxbert demo --output runs/demo
python -m benchmarks.demo runs/demo
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.results import append_result, environment


def summary(directory: Path) -> dict[str, Any]:
    """What run.json says of the run, in the form that the PyTorch side has too."""
    run = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    if run["status"] != "finished" or "scores" not in run:
        raise SystemExit(f"{directory}: the run is {run['status']}; finish it first")
    return {
        "side": "jaxbert",
        "command": f"jaxbert demo --dtype {run['compute']['dtype']} --seed {run['config']['seed']}",
        "seed": run["config"]["seed"],
        "dtype": run["compute"]["dtype"],
        "strategy": run["strategy"],
        "hyper_parameters": run["config"],
        "accuracy": {name: scores["accuracy"] for name, scores in run["scores"].items()},
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
    append_result("demo", summary(parser.parse_args().run))


if __name__ == "__main__":
    main()
