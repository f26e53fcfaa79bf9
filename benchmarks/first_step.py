"""How long from the command to the end of the first training step, beside Hugging Face's `Trainer`.

    python -m benchmarks.first_step --data DIR --rounds 3

Fine-tunes on SST-2 as `benchmarks.level` does, with the demo's model and with one of BERT-base's
shape and random weights, each in a process of its own that is stopped after its first step. A round
is jaxbert without any compiled program, jaxbert with those of the run before, and `Trainer`.

Writes a line a run to benchmarks/results/first_step.jsonl.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.level import jaxbert_command, torch_command
from benchmarks.level_data import LEVELS, prepare
from benchmarks.results import append_result, environment
from jaxbert.cpu import ALLOCATOR

NAME = "first_step"
DATA = "sst2"
BASE = "bert-base-uncased"  # of its shape
SIDES = ("cold", "kept", "torch")  # jaxbert without and with its programs, `Trainer`
_PATIENCE, _LOOK_EVERY = 600.0, 0.02  # seconds


def main() -> None:
    """Times every side of every model, in turns, and prints each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of the published files")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    from jaxbert.data import load_demo

    demo = load_demo().model
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = prepare(DATA, args.data, folder / DATA, None)
        for model in (demo, make_base(folder / BASE, demo)):
            for _ in range(args.rounds):
                for side in SIDES:
                    seconds = round(_timed(side, model, files, folder), 2)
                    row = {"model": model.name, "side": side, "seconds": seconds}
                    append_result(NAME, {**row, "rows": files["rows"], **environment()})
                    print(f"{model.name:20} {side:6} {seconds} s", flush=True)


def make_base(directory: Path, tokenizer: Path) -> Path:
    """A model of BERT-base's shape, its numbers drawn, with a tokenizer of its size."""
    from flax import nnx

    from jaxbert.data import load_tokenizer, save_tokenizer
    from jaxbert.models import AutoConfig, BertModel

    config = AutoConfig.preset(BASE)
    BertModel(config, rngs=nnx.Rngs(0)).save_pretrained(directory)
    save_tokenizer(load_tokenizer(tokenizer), directory)
    return directory


def _timed(side: str, model: Path, files: dict[str, str], folder: Path) -> float:
    """Seconds to the end of the first step."""
    level, output, programs = LEVELS[DATA], folder / "run", folder / "cache"
    said = folder / "said"
    said.unlink(missing_ok=True)
    if side == "torch":
        command = torch_command(level, files, str(model), 0, "grouped")
        command += ["--first-step", str(said)]
        return _until(said.is_file, command, {"GLIBC_TUNABLES": ALLOCATOR})
    if side == "cold":
        shutil.rmtree(programs, ignore_errors=True)
    shutil.rmtree(output, ignore_errors=True)
    command = [*jaxbert_command(level, files, str(model), 0, output), "--log-every", "1"]
    metrics = output / "metrics.jsonl"

    def logged() -> bool:
        return metrics.is_file() and '"train"' in metrics.read_text(encoding="utf-8")

    return _until(logged, command, {"JAXBERT_CACHE": str(programs)})


def _until(done: Callable[[], bool], command: list[str], more: dict[str, str]) -> float:
    """Seconds from the start of a command until something holds; then it is stopped."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **more}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not done():
            if process.poll() is not None or time.perf_counter() - start > _PATIENCE:
                raise SystemExit(f"{' '.join(command)}: ended, or no step in {_PATIENCE:.0f} s")
            time.sleep(_LOOK_EVERY)
        return time.perf_counter() - start
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    main()
