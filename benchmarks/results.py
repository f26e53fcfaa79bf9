"""Where benchmarks keep their numbers: a JSON line a run, with what the numbers depend on."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from jaxbert.cpu import ALLOCATOR, cores, processor  # which needs no package

RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "jaxbert", "jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "flax", "optax", "numpy",
    "tokenizers", "torch", "torchax", "transformers", "keras", "keras-hub",
)  # fmt: skip


def append_result(name: str, row: dict[str, Any], directory: Path = RESULTS) -> None:
    """Adds one line to `<name>.jsonl`; earlier lines stay, a run is never overwritten.

    Raises:
      ValueError: a number in the row is NaN or infinite, which JSON does not know.
    """
    line = json.dumps(row, allow_nan=False) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(line)


def read_results(name: str, directory: Path = RESULTS) -> list[dict[str, Any]]:
    """The rows of `<name>.jsonl`, oldest first; none where there is no such file."""
    path = directory / f"{name}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def environment() -> dict[str, Any]:
    """When, on what machine, with which versions and which allocator; imports no package."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "processor": processor(),
            "cores": cores(),
        },
        "allocator": os.environ.get("GLIBC_TUNABLES"),
    }


def restart_with_allocator(name: str) -> None:
    """Gives benchmarks.<name> the allocator that the command `jaxbert` gives itself on a CPU."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = ALLOCATOR  # read when a process starts
        os.execv(sys.executable, [sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]])


def peak_memory_bytes() -> int:
    """The most memory this process has held so far."""
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a benchmark of one side need not have the other
    return found
