"""What the sides on JAX have in common: where they run, waiting, memory, the shared recipe's rates.

Works on every JAX from 0.4 on, and imports no jaxbert.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import padding
from benchmarks.protocol import Side
from benchmarks.results import cores, peak_memory_bytes
from benchmarks.workload import Workload, read_data

# Every length of a batch is a program; with these few, padding costs little more than none.
MULTIPLE = 16


class JaxSide(Side):
    """See `Side`. Where it runs is said by JAX_PLATFORMS, before jax is imported.

    `_state` is what a step hands to the next, `_results` what steps gave since the last wait.
    """

    _state: Any
    _results: list[Any]

    def about(self) -> dict[str, Any]:
        device = jax.devices()[0]
        return {"platform": device.platform, "device": device.device_kind, "threads": cores()}

    def wait(self) -> None:
        jax.block_until_ready((self._state, self._results))
        self._results.clear()

    def memory(self) -> int:
        device = jax.devices()[0]
        if device.platform == "cpu":
            return peak_memory_bytes()
        return device.memory_stats()["peak_bytes_in_use"]


class PaddedJaxSide(JaxSide):
    """A side that takes padded rows. A subclass sets the two programs after `__init__`.

    `_logits(state, batch) -> logits` with dropout off; `_update(state, batch) -> (state, loss)`.
    """

    def __init__(self, workload: Workload, directory: Path) -> None:
        self.workload = workload
        self._data = read_data(directory)
        self._results = []

    def loss(self) -> float:
        batch = padding.batch(self._data, self.workload, range(self.workload.batch), MULTIPLE)
        labels = batch.pop("labels")
        logits = np.asarray(self._logits(self._state, batch), np.float64)
        picked = logits[np.arange(len(labels)), labels]
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - picked))

    def batches(self) -> Iterable[Mapping[str, Any]]:
        return padding.batches(self._data, self.workload, MULTIPLE)

    def step(self, batch: Mapping[str, Any]) -> None:
        if self.workload.kind == "train":
            self._state, result = self._update(self._state, batch)
        else:
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            result = self._logits(self._state, inputs)
        self._results.append(result)
