"""Is jaxbert level with Hugging Face's `Trainer` in PyTorch: scores and seconds of whole runs.

    python -m benchmarks.level --data DIR                      # every task, three seeds, all rows
    python -m benchmarks.level --data DIR --only sst2 cola --seeds 5 --examples 1000

Both sides start from the same files and the same weights, with the same hyper-parameters: AdamW,
linear schedule with a tenth of warm-up, batches of 32, one rate for all layers. A side is a process
of its own, timed from its start to its end: reading, tokenizing, compiling, training, scoring the
test rows and saving. They take turns. jaxbert keeps its compiled programs between runs, as its
commands do; the first run of a task has none, and is marked cold. PyTorch gets the allocator's
settings that jaxbert gives itself on a CPU.

Writes a line a run to benchmarks/results/level.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.level_data import LEVELS, Level, prepare
from benchmarks.results import append_result, environment
from jaxbert.cpu import ALLOCATOR

NAME = "level"
# side: how `Trainer` batches; None is jaxbert. The first two are compared by default.
SIDES = {"jaxbert": None, "torch": "grouped", "torch-random": "random", "torch-padded": "padded"}


def main() -> None:
    """Runs what is asked for, and prints each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of the published files")
    parser.add_argument("--model", help="directory of the model; left out, the demo's")
    parser.add_argument("--only", nargs="*", default=list(LEVELS), choices=list(LEVELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--examples", type=int, help="training rows; left out, all")
    parser.add_argument("--sides", nargs="*", default=list(SIDES)[:2], choices=SIDES)
    parser.add_argument(
        "--busy", action="store_true", help="other work shares the machine: keep no seconds"
    )
    args = parser.parse_args()
    from jaxbert.data import load_demo

    model = args.model or str(load_demo().model)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            files = prepare(name, args.data, Path(folder) / name, args.examples)
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                for side in args.sides:
                    row = _timed(name, side, files, model, seed, Path(folder))
                    row["cold"] = seed == args.first_seed
                    if args.busy:
                        row["seconds"] = None
                    append_result(NAME, row)
                    score = row["scores"][LEVELS[name].metric]
                    print(
                        f"{name:16} {side:12} seed {seed} {score:8.4f} {row['seconds']} s",
                        flush=True,
                    )


def _timed(
    name: str, side: str, files: dict[str, Any], model: str, seed: int, folder: Path
) -> dict[str, Any]:
    """The result of one run."""
    level, batching = LEVELS[name], SIDES[side]
    start = time.perf_counter()
    if batching is None:
        scores = _jaxbert(level, files, model, seed, folder)
    else:
        scores = _torch(level, files, model, seed, batching)
    seconds = round(time.perf_counter() - start, 2)
    return {
        "level": name, "side": side, "seed": seed, "scores": scores, "seconds": seconds,
        "model": Path(model).name, "rows": files["rows"], "sha256": files["sha256"],
        "task": level.task, **environment(),
    }  # fmt: skip


def _jaxbert(
    level: Level, files: dict[str, Any], model: str, seed: int, folder: Path
) -> dict[str, float]:
    output, programs = folder / "run", folder / "cache"
    command = jaxbert_command(level, files, model, seed, output)
    _call(command, {"JAXBERT_CACHE": str(programs)})
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    return run["scores"]["test"]


def jaxbert_command(
    level: Level, files: dict[str, Any], model: str, seed: int, output: Path
) -> list[str]:
    """Fine-tunes and scores the test rows."""
    return [
        sys.executable, "-m", "jaxbert", "finetune", "--task", level.task, "--model", model,
        "--train", files["train"], "--test", files["test"], "--output", str(output), "--overwrite",
        "--strategy", "uniform", "--learning-rate", str(level.learning_rate), "--seed", str(seed),
        "--epochs", str(level.epochs), "--max-length", str(level.max_length), *level.flags,
    ]  # fmt: skip


def _torch(
    level: Level, files: dict[str, Any], model: str, seed: int, batching: str
) -> dict[str, float]:
    command = torch_command(level, files, model, seed, batching)
    # PyTorch gains from it too, as in all comparisons here.
    return json.loads(_call(command, {"GLIBC_TUNABLES": ALLOCATOR}).splitlines()[-1])


def torch_command(
    level: Level, files: dict[str, Any], model: str, seed: int, batching: str
) -> list[str]:
    """The same by `Trainer`; the scores are the last line of what it prints."""
    return [
        sys.executable, "-m", "benchmarks.level_torch", "--task", level.task, "--model", model,
        "--train", files["train"], "--test", files["test"], "--seed", str(seed), "--epochs",
        str(level.epochs), "--learning-rate", str(level.learning_rate), "--max-length",
        str(level.max_length), "--batching", batching,
    ]  # fmt: skip


def _call(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
