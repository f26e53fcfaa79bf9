"""Where the time of jaxbert's step goes on a CPU, by what computes it.

    python -m benchmarks.breakdown demo-train-bfloat16 demo-infer-bfloat16

Traces a few steps with `jax.profiler`, says of every operation of the compiled program what it is
part of, by the program's own text, prints milliseconds a step, and appends a line for each workload
to benchmarks/results/breakdown.jsonl. Operations that ran at the same time share that time. Tracing
costs time too: for speed see `benchmarks.compare`.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import itertools
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.results import append_result, environment, restart_with_allocator
from benchmarks.workload import WORKLOADS, Workload, prepare

STEPS = 8
# What an operation is part of: the first row whose pattern is in the scopes that it, or something
# fused into it, was computed in (`jax.named_scope`, as a profile shows them).
_PARTS = (
    ("attention: softmax, mask, dropout", r"/attention(?!/linear)"),
    ("GELU", "/activation"),
    ("LayerNorm and residuals", "/layer_norm"),
    ("dropout", "/dropout"),
    ("embeddings", "/embeddings"),
    ("biases, rounding", "/linear"),
    ("clipping and AdamW", "/optimizer|/gradient_norms"),
    ("LayerNorm and residuals", r"/layer_\d+"),
)
PRODUCTS, ATTENTION = "products with kernels, and what is fused into them", "attention: products"
COPIES, REST, NOTHING = "transposes and copies", "all else", "nothing recorded"
LABELS = tuple(
    dict.fromkeys((PRODUCTS, ATTENTION, *(name for name, _ in _PARTS), COPIES, REST, NOTHING))
)
_CONTROL = re.compile(r"(while|call|conditional)\b")  # what runs other operations


def parts_of(text: str) -> dict[str, str]:
    """{operation: its label} of a compiled program's text."""
    bodies = dict(re.findall(r"^%([\w.-]+) \([^\n]*\{\n(.*?)^\}", text, re.M | re.S))
    found = {}
    for name, line in re.findall(r"^\s+(?:ROOT )?%([\w.-]+) = (.*)$", text, re.MULTILINE):
        called = re.search(r"calls=%([\w.-]+)", line)
        body = bodies.get(called[1], "") if called else ""
        found[name] = _label(name, f"{line}\n{body}")
    return found


def _label(name: str, lines: str) -> str:
    """Of an operation with all that is fused into it."""
    products = [line for line in lines.splitlines() if " dot(" in line]
    if products:
        return ATTENTION if any("batch_dims" in product for product in products) else PRODUCTS
    if re.search(r"copy|transpose", name):
        return COPIES
    # Constants are shared, and say where one of those is who share them.
    lines = re.sub(r"^.* (?:constant|broadcast)\(.*$", "", lines, flags=re.MULTILINE)
    scopes = " ".join(re.findall(r'op_name="([^"]*)"', lines))
    return next((label for label, pattern in _PARTS if re.search(pattern, scopes)), REST)


def shared_time(events: list[tuple[float, float, str]]) -> dict[str, float]:
    """(start, end, label) of events -> {label: time}; those at the same time share it."""
    edges = sorted({edge for start, end, _ in events for edge in (start, end)})
    starts = collections.defaultdict(list)
    for start, end, label in events:
        starts[start].append((end, label))
    running: list[tuple[float, str]] = []
    found: collections.Counter[str] = collections.Counter()
    for now, then in itertools.pairwise(edges):
        running = [(end, label) for end, label in running + starts[now] if end > now]
        for _, label in running:
            found[label] += (then - now) / len(running)
        if not running:
            found[NOTHING] += then - now
    return dict(found)


def trace_file(directory: str) -> Path:
    """What `jax.profiler.trace` has written there."""
    (path,) = Path(directory).glob("**/*.trace.json.gz")
    return path


def trace_events(directory: str, parts: dict[str, str]) -> list[tuple[float, float, str]]:
    """(start, end, label) of a trace's operations, in seconds."""
    with gzip.open(trace_file(directory)) as file:
        events = json.load(file)["traceEvents"]
    named = [
        (event["args"]["hlo_op"], event["ts"], event["dur"])
        for event in events
        if event.get("ph") == "X" and "hlo_op" in event.get("args", {})
    ]
    return [
        (start / 1e6, (start + took) / 1e6, parts.get(name, REST))
        for name, start, took in named
        if not _CONTROL.match(name)
    ]


def measure(workload: Workload) -> dict[str, Any]:
    """Seconds of a step, without tracing, and with it by label."""
    from benchmarks.side_jaxbert import JaxbertSide

    with tempfile.TemporaryDirectory() as place:
        prepare(workload, Path(place))
        side = JaxbertSide(workload, Path(place), "cpu")
        (batch, *_) = list(side.batches())

        def run(steps: int) -> list[float]:
            times = []
            for _ in range(steps):
                start = time.perf_counter()
                side.step(batch)
                side.wait()
                times.append(time.perf_counter() - start)
            return times

        run(2)
        seconds = statistics.median(run(STEPS))
        parts = parts_of(side.program_text())
        # One trace a step, or the time between steps would count.
        traced = [_traced(lambda: run(1), parts) for _ in range(STEPS)]
    mean = {label: statistics.mean(t.get(label, 0.0) for t in traced) for label in LABELS}
    return {"step_seconds": seconds, "seconds": mean}


def _traced(run: Callable[[], Any], parts: dict[str, str]) -> dict[str, float]:
    import jax

    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            run()
        return shared_time(trace_events(directory, parts))


def main() -> None:
    """Measures, prints, keeps."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workloads", nargs="+", choices=list(WORKLOADS), metavar="WORKLOAD")
    names = parser.parse_args().workloads
    restart_with_allocator("breakdown")
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name in names:
        found = measure(WORKLOADS[name])
        total = sum(found["seconds"].values())
        print(f"{name}: {1000 * found['step_seconds']:.0f} ms, traced {1000 * total:.0f} ms")
        for label, seconds in found["seconds"].items():
            print(f"  {label:<50} {1000 * seconds:7.1f} ms {seconds / total:6.1%}", flush=True)
        command = f"python -m benchmarks.breakdown {' '.join(names)}"
        append_result("breakdown", {"command": command, "workload": name, **found, **environment()})


if __name__ == "__main__":
    main()
