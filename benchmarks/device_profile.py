"""Where a step's time goes on a device, by part of the model, as its profiler saw it.

    python -m benchmarks.device_profile base-64x128-train-bfloat16 --device gpu --results DIR

The parts are those of `jaxbert plan`, which models what is measured here. Prints, appends a line to
device_profile.jsonl, and keeps the trace, which Perfetto opens, as WORKLOAD.trace.json.gz.
Operations that ran at the same time share that time. For a CPU `benchmarks.breakdown` tells more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.breakdown import NOTHING, REST, shared_time, trace_events, trace_file
from benchmarks.compare import JAX_PLATFORMS
from benchmarks.results import RESULTS, append_result, environment
from benchmarks.workload import WORKLOADS, Workload, prepare

STEPS = 8


def measure(workload: Workload, device: str, directory: Path) -> dict[str, Any]:
    """Seconds of a step, without tracing, and with it by part."""
    import jax

    from benchmarks.side_jaxbert import JaxbertSide
    from jaxbert.plan.costs import part_of
    from jaxbert.plan.hlo import Program

    with tempfile.TemporaryDirectory() as place:
        prepare(workload, Path(place))
        side = JaxbertSide(workload, Path(place), device)
        batch = next(iter(side.batches()))

        def run() -> float:
            start = time.perf_counter()
            for _ in range(STEPS):
                side.step(batch)
            side.wait()
            return (time.perf_counter() - start) / STEPS

        run()
        seconds = statistics.median(run() for _ in range(3))
        program = Program(side.program_text())
        parts = {i.name: part_of(program, i) for i in program.operations}
        with jax.profiler.trace(place):
            run()
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(trace_file(place), directory / f"{workload.name}.trace.json.gz")
        shared = shared_time(trace_events(place, parts))
    return {
        **side.about(),
        "step_seconds": seconds,
        "seconds": {part: total / STEPS for part, total in shared.items()},
    }


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workload", choices=list(WORKLOADS), metavar="WORKLOAD")
    parser.add_argument("--device", choices=JAX_PLATFORMS, default="gpu")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    return parser


def main() -> None:
    """Measures, prints, keeps."""
    args = parser().parse_args()
    os.environ["JAX_PLATFORMS"] = JAX_PLATFORMS[args.device]
    found = measure(WORKLOADS[args.workload], args.device, args.results)
    total = sum(found["seconds"].values())
    print(f"{args.workload}: {1e3 * found['step_seconds']:.2f} ms, traced {1e3 * total:.2f} ms")
    last = (REST, NOTHING)
    for part, seconds in sorted(found["seconds"].items(), key=lambda x: (x[0] in last, -x[1])):
        print(f"  {part:<30} {1e3 * seconds:8.2f} ms {seconds / total:6.1%}")
    command = f"python -m benchmarks.device_profile {args.workload} --device {args.device}"
    row = {"command": command, "workload": args.workload, **found, **environment()}
    append_result("device_profile", row, args.results)


if __name__ == "__main__":
    main()
