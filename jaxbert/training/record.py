"""What a run leaves behind for people: run.json, metrics.jsonl, TensorBoard events."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

import jax

from jaxbert import cpu
from jaxbert.atomic import naming, write_text
from jaxbert.data import BatchStats, Examples
from jaxbert.training.events import Events
from jaxbert.training.run_directory import EVENTS, METRICS

logger = logging.getLogger("jaxbert")

_PACKAGES = ("jaxbert", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers")


def versions() -> dict[str, str]:
    """The Python and the packages that the run's numbers depend on."""
    found = {"python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}


def describe_devices() -> dict[str, Any]:
    """Platform, kind and number of the devices that JAX sees."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
    }


def environment() -> dict[str, Any]:
    """Versions, devices and the processor, on which the last bits of a CPU's numbers depend."""
    machine = {"processor": cpu.processor(), "cores": cpu.cores()}
    return {"versions": versions(), "device": describe_devices(), "machine": machine}


def describe_data(examples: Mapping[str, Examples | None], stats: BatchStats) -> dict[str, Any]:
    """Which examples a run saw, by their role, and how the training batches hold them."""
    described: dict[str, Any] = {
        role: {
            "source": Path(given.source).name,
            "examples": len(given),
            "fingerprint": given.fingerprint,
        }
        for role, given in examples.items()
        if given is not None
    }
    return described | {
        "truncated_examples": stats.truncated_examples,
        "packing_efficiency": round(stats.packing_efficiency, 4),
    }


def as_json(value: Any) -> Any:
    """As it will be read again: tuples are lists, keys are texts."""
    return json.loads(json.dumps(value))


class Log(Protocol):
    """What a loop tells what it does: a `Record`, or another file of a run."""

    def write(self, event: str, step: int, values: dict[str, Any]) -> None:
        """One event, "train" or "eval", and its numbers."""


class Record:
    """Appends events to metrics.jsonl and to TensorBoard; does nothing without a directory.

    Args:
      directory: of the run.
      step: of a resumed run: later lines, of steps that will be done again, are dropped.
      evaluated: the last evaluation of a resumed run: those of later steps are dropped.
    """

    def __init__(self, directory: Path | None, step: int = 0, evaluated: int = 0) -> None:
        self._lines: TextIO | None = None
        self._events: Events | None = None
        if directory is None:
            return
        path = self._path = directory / METRICS
        write_text(path, "".join(_lines_until(path, {"train": step, "eval": evaluated})))
        self._lines = path.open("a", encoding="utf-8")
        # Made by the first event: a run that has none adds no file.
        self._make_events = functools.partial(Events, directory / EVENTS, step + 1)

    def write(self, event: str, step: int, values: dict[str, Any]) -> None:
        """One line, and one scalar for each number in it."""
        if self._lines is None:
            return
        with naming(self._path):
            self._lines.write(json.dumps({"event": event, "step": step, **values}) + "\n")
            self._lines.flush()
        if self._events is None:
            self._events = self._make_events()
        self._events.write({f"{event}/{name}": value for name, value in _flatten(values)}, step)

    def close(self) -> None:
        """Writes out what is buffered."""
        if self._lines is not None:
            try:
                with naming(self._path):
                    self._lines.close()
            finally:
                if self._events is not None:
                    self._events.close()


def _lines_until(path: Path, last: Mapping[str, int]) -> list[str]:
    """The lines whose step is no later than the last one of their kind of event."""
    if not any(last.values()) or not path.exists():
        return []
    kept = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            values = json.loads(line)
            if int(values["step"]) <= last[values["event"]]:
                kept.append(line.decode("utf-8") + "\n")
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            # It is for people, and no reason not to go on.
            logger.warning("%s: line %d is damaged, it is left out", path, number)
    return kept


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((prefix + name, value))
    return found
