"""Times jaxbert beside PyTorch: the same work, checked to be the same, in interleaved rounds.

    python -m benchmarks.compare                          # the quick set
    python -m benchmarks.compare --full --rounds 11
    python -m benchmarks.compare --families --rounds 4    # every family's base size, float32
    python -m benchmarks.compare --only reviews-float32 --examples 2000
    python -m benchmarks.compare --device gpu             # BERT-base and -large, bfloat16

Prints a table, and appends a line for every side and workload to benchmarks/results/speed.jsonl.
benchmarks/README.md has the protocol. This process imports no framework: it holds no memory and
takes no time while a side is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.protocol import ERROR_LINES, SideError, SideProcess
from benchmarks.results import RESULTS, append_result, environment
from benchmarks.workload import (
    ACCELERATOR,
    FAMILIES,
    FULL,
    QUICK,
    TOLERANCE,
    WORKLOADS,
    Workload,
)
from jaxbert.cpu import ALLOCATOR, cores

NAME = "speed"


class SideSpec(NamedTuple):
    """The program of a side, and what it is loaded with beside the workload.

    environment: the virtual environment beside the project that it needs; "" is this one.
    devices: where it runs.
    """

    module: str
    options: dict[str, Any]
    environment: str = ""
    devices: tuple[str, ...] = ("cpu", "gpu", "tpu")

    def python(self) -> str:
        """The interpreter that runs it."""
        if not self.environment:
            return sys.executable
        return str(ROOT / f".venv-{self.environment}" / "bin" / "python")

    def is_there(self) -> bool:
        """Whether its environment has been made."""
        return Path(self.python()).exists()

    def serves(self, workload: Workload, device: str) -> bool:
        """Not where another dtype of its own is the workload's anyway; elsewhere BERT alone."""
        if device not in self.devices or (self.environment and workload in FAMILIES):
            return False
        return self.options.get("dtype") != workload.dtype


SIDES = {
    "jaxbert": SideSpec("benchmarks.side_jaxbert", {}),
    # With the JAX that a newer Python gets, in the environment that the tests make for it.
    "jaxbert-newer": SideSpec("benchmarks.side_jaxbert", {}, "3.12", ("cpu",)),
    "torch-eager": SideSpec("benchmarks.side_torch", {"compile": False}),
    "torch-compiled": SideSpec("benchmarks.side_torch", {"compile": True}),
    # The others leave it to PyTorch which kernel computes attention.
    "torch-flash": SideSpec(
        "benchmarks.side_torch", {"compile": True, "flash": True}, "", ("gpu",)
    ),
    # In bfloat16, its products in float32 may be the faster: its best is the better of the two.
    "hf-flax": SideSpec("benchmarks.side_hf_flax", {}, "hf-flax"),
    "hf-flax-float32": SideSpec("benchmarks.side_hf_flax", {"dtype": "float32"}, "hf-flax"),
    "keras-hub": SideSpec("benchmarks.side_keras_hub", {}, "keras-hub"),
}
ROOT = Path(__file__).parent.parent
JAX_PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


class Disagreement(Exception):
    """The sides compute different losses of the same batch."""


def side_environment(device: str) -> dict[str, str]:
    """The environment that every side gets, whatever it makes of it."""
    env = dict(os.environ)
    env |= {"JAX_PLATFORMS": JAX_PLATFORMS[device], "HF_HUB_OFFLINE": "1"}
    env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(cores()))
    env["TOKENIZERS_PARALLELISM"] = "false"
    env.pop("JAX_COMPILATION_CACHE_DIR", None)  # compilation is measured
    if device == "cpu":
        env.setdefault("GLIBC_TUNABLES", ALLOCATOR)
    else:
        env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the sides share the accelerator
    return env


def make_files(workload: Workload, directory: Path, env: Mapping[str, str]) -> None:
    """Writes what all sides read; SideError where that fails.

    In a process of its own: its memory would count in the peak of those started from here.
    """
    work = json.dumps(dataclasses.asdict(workload))
    command = [sys.executable, "-m", "benchmarks.workload", work, str(directory)]
    # The models are drawn on the CPU, and reviews may have to be fetched.
    env = {**env, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        words = " / ".join(done.stderr.strip().splitlines()[-ERROR_LINES:])
        raise SideError(f"{workload.name}: preparing the files failed: {words}")


class Comparison:
    """One workload on several sides.

    Args:
      directory: where the workload's files and the sides' logs go.
    """

    def __init__(
        self, workload: Workload, sides: Sequence[str], device: str, directory: Path
    ) -> None:
        self.workload = workload
        self.device = device
        self.directory = directory
        self.env = side_environment(device)
        self.results: dict[str, dict[str, Any]] = {name: {} for name in sides}

    def run(self, rounds: int) -> dict[str, dict[str, Any]]:
        """{side: what was measured, or {"error": why not}}. Disagreement: losses differ."""
        self._prepare()
        for name in self.results:
            # In a process of its own too: the check leaves no trace in memory or compiled code.
            with contextlib.ExitStack() as stack:
                process = self._start(stack, name)
                self._attempt(self._load, name, process)
                self._attempt(self._loss, name, process)
        self._check_losses()
        with contextlib.ExitStack() as stack:
            running = {name: self._start(stack, name) for name in self._alive()}
            for ask in (self._load, self._warm_up, *[self._round] * rounds, self._finish):
                for name, process in running.items():
                    self._attempt(ask, name, process)
        return self.results

    def _alive(self) -> list[str]:
        return [name for name, result in self.results.items() if "error" not in result]

    def _attempt(
        self, ask: Callable[[str, SideProcess], None], name: str, process: SideProcess
    ) -> None:
        if "error" in self.results[name]:
            return
        try:
            ask(name, process)
        except SideError as error:
            # What was measured before is of no use, and must not pass for a result.
            self.results[name] = {"error": str(error)}

    def _prepare(self) -> None:
        make_files(self.workload, self.directory, self.env)

    def _start(self, stack: contextlib.ExitStack, name: str) -> SideProcess:
        # A cache of its own: a program that another process compiled would cost nothing here.
        cache = stack.enter_context(
            tempfile.TemporaryDirectory(dir=self.directory, ignore_cleanup_errors=True)
        )
        command = [SIDES[name].python(), "-m", SIDES[name].module]
        env = self.env | {"TORCHINDUCTOR_CACHE_DIR": cache}
        return stack.enter_context(SideProcess(command, env, self.directory / f"{name}.log"))

    def _load(self, name: str, process: SideProcess) -> None:
        self.results[name] |= process.ask(
            "load",
            workload=dataclasses.asdict(self.workload),
            directory=str(self.directory),
            device=self.device,
            **SIDES[name].options,
        )

    def _loss(self, name: str, process: SideProcess) -> None:
        self.results[name]["loss"] = process.ask("loss")

    def _check_losses(self) -> None:
        losses = {name: self.results[name]["loss"] for name in self._alive()}
        if not losses:
            return
        tolerance = TOLERANCE[self.workload.dtype]
        first = next(iter(losses.values()))
        # Said so that NaN does not pass.
        if not all(abs(loss - first) <= tolerance * abs(first) for loss in losses.values()):
            raise Disagreement(
                f"{self.workload.name}: the losses of the same batch differ by more than "
                f"{tolerance:g} relative: {losses}"
            )

    def _warm_up(self, name: str, process: SideProcess) -> None:
        self.results[name]["compile_seconds"] = process.ask("warm_up")

    def _round(self, name: str, process: SideProcess) -> None:
        self.results[name].setdefault("step_seconds", []).append(process.ask("round"))

    def _finish(self, name: str, process: SideProcess) -> None:
        result = self.results[name]
        result["peak_memory_bytes"] = process.ask("memory")
        result["median_step_seconds"] = statistics.median(result["step_seconds"])


def ratio_to(others: str, results: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Speed of jaxbert over that of the fastest side whose name starts with `others`.

    A ratio of medians; None without both.
    """
    medians = {n: r["median_step_seconds"] for n, r in results.items() if "error" not in r}
    other = [median for name, median in medians.items() if name.startswith(others)]
    return min(other) / medians["jaxbert"] if other and "jaxbert" in medians else None


def format_table(workload: Workload, results: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for every side; it ends in jaxbert's speed over that side's."""
    lines = [
        f"{workload.name}: {workload.batch} x {workload.length}, {workload.examples} examples",
        f"  {'side':<15} {'ms/step':>9} {'min - max':>19} {'compile s':>10} {'peak MiB':>9}"
        f" {'speed':>7}",
    ]
    for name, result in results.items():
        if "error" in result:
            lines.append(f"  {name:<15} failed: {result['error']}")
            continue
        steps = [1000 * s for s in result["step_seconds"]]
        ratio = ratio_to(name, {n: results[n] for n in ("jaxbert", name) if n in results})
        speed = f"{ratio:.2f}x" if ratio and name != "jaxbert" else ""
        lines.append(
            f"  {name:<15} {statistics.median(steps):9.1f} "
            f"{f'{min(steps):.1f} - {max(steps):.1f}':>19} {result['compile_seconds']:10.1f} "
            f"{result['peak_memory_bytes'] / 2**20:9.0f} {speed:>7}".rstrip()
        )
    return "\n".join(lines)


def rows(workload: Workload, results: Mapping[str, Mapping[str, Any]], env: Mapping[str, str],
         command: str) -> list[dict[str, Any]]:  # fmt: skip
    """What is kept of a comparison: a row for every side, failed ones with their error."""
    about = environment() | {"allocator": env.get("GLIBC_TUNABLES")}
    work = dataclasses.asdict(workload)
    return [
        {"side": name, "workload": work, "command": command, **result, **about}
        for name, result in results.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 if every side of every workload was measured, else 1."""
    args = parser().parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "-m", "benchmarks.compare", *given])
    whole = True
    for workload in _chosen(args):
        with tempfile.TemporaryDirectory(prefix="jaxbert-bench-") as directory:
            sides = [name for name in args.sides if SIDES[name].serves(workload, args.device)]
            comparison = Comparison(workload, sides, args.device, Path(directory))
            try:
                results = comparison.run(args.rounds)
            except (Disagreement, SideError) as error:
                print(error, file=sys.stderr)
                return 1
        print(format_table(workload, results), flush=True)
        whole &= not any("error" in result for result in results.values())
        for row in rows(workload, results, comparison.env, command):
            append_result(NAME, row, args.results)
    return 0 if whole else 1


def _chosen(args: argparse.Namespace) -> list[Workload]:
    quick = QUICK
    if args.device != "cpu":
        quick = [work for work in ACCELERATOR if work.dtype == "bfloat16"]
    chosen = FULL if args.full else quick
    if args.families:
        chosen = [work for work in FAMILIES if work.dtype == "float32"]
    if args.only:
        chosen = [WORKLOADS[name] for name in args.only]
    if not args.examples:
        return chosen
    return [
        dataclasses.replace(work, examples=args.examples) if work.source == "reviews" else work
        for work in chosen
    ]


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--full", action="store_true", help="all of BERT's, not the quick set")
    parser.add_argument("--families", action="store_true",
                        help="instead the base size of every other family, in float32")  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, metavar="NAME",
                        help=f"these workloads: {', '.join(WORKLOADS)}")  # fmt: skip
    parser.add_argument("--rounds", type=_positive, default=7, help="of each side (default 7)")
    there = [name for name, side in SIDES.items() if side.is_there()]
    parser.add_argument("--sides", type=_sides, default=there,
                        help=f"default {','.join(there)}")  # fmt: skip
    parser.add_argument("--device", choices=JAX_PLATFORMS, default="cpu")
    parser.add_argument("--examples", type=_positive, help="sentences of a pass of the reviews")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR",
                        help="where speed.jsonl is (default benchmarks/results)")  # fmt: skip
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: want 1 or more")
    return value


def _sides(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(SIDES)):
        raise argparse.ArgumentTypeError(
            f"unknown {', '.join(unknown)}; known are {', '.join(SIDES)}"
        )
    if missing := [name for name in names if not SIDES[name].is_there()]:
        raise argparse.ArgumentTypeError(
            f"{', '.join(missing)}: no environment yet, make it with: make bench-environments"
        )
    return names


if __name__ == "__main__":
    raise SystemExit(main())
