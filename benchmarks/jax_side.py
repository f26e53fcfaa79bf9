"""What the sides on JAX have in common: where they run, waiting, memory, their step as a program.

Works on every JAX from 0.4 on, and imports no jaxbert.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from benchmarks import padding
from benchmarks.protocol import Side
from benchmarks.results import environment, peak_memory_bytes
from benchmarks.workload import Workload, read_data
from jaxbert.cpu import cores

# Every length of a batch is a program; with these few, padding costs little more than none.
MULTIPLE = 16


class JaxSide(Side):
    """See `Side`. Where it runs is said by JAX_PLATFORMS, before jax is imported.

    `_state` is what a step hands to the next, `_results` what steps gave since the last wait. Of a
    state that is no `TrainState`, a subclass says where the weights and AdamW's moments are.
    """

    _state: Any
    _results: list[Any]

    def about(self) -> dict[str, Any]:
        device = jax.devices()[0]
        return {
            "platform": device.platform,
            "device": device.device_kind,
            "threads": cores(),
            "jax": jax.__version__,
        }

    def wait(self) -> None:
        jax.block_until_ready((self._state, self._results))
        self._results.clear()

    def memory(self) -> int:
        device = jax.devices()[0]
        if device.platform == "cpu":
            return peak_memory_bytes()
        return device.memory_stats()["peak_bytes_in_use"]

    def first_moment(self, addresses: str, file: str) -> None:
        """Does the first batch's step, and writes AdamW's first moment: (1 - beta1) times the
        clipped gradient, as the step itself has computed it.

        Args:
          addresses: of files like this side's, but each number of the checkpoint is its place in
            it. Loaded as weights they say where those come from, whatever a side calls them.
          file: an array [P] float32 of all numbers, in the order of the checkpoint.
        """
        guide = type(self)(self.workload, Path(addresses), "cpu")
        places = np.concatenate([np.ravel(leaf) for leaf in guide._weights()]).astype(int)
        if not np.array_equal(np.sort(places), np.arange(len(places))):
            raise ValueError("the weights are not those of the checkpoint, each of them once")
        self.step(next(iter(self.batches())))
        self.wait()
        found = np.empty(len(places), np.float32)
        found[places] = np.concatenate([np.ravel(leaf) for leaf in self._moments()])
        np.save(file, found)

    def _weights(self) -> list[Any]:
        """What is trained, in an order of the side's own."""
        return jax.tree.leaves(self._state.params)

    def _moments(self) -> list[Any]:
        """AdamW's first moments in the same order."""
        from optax import tree_utils  # not above: not every side has it

        return jax.tree.leaves(tree_utils.tree_get(self._state.opt_state, "mu"))


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

    def export(self, platform: str, file: str) -> dict[str, str]:
        """Writes the training step, (leaves of the state, a batch) -> (leaves, loss), as StableHLO.

        Args:
          platform: as jax calls it, "tpu" or "cuda"; it need not be here.

        Returns:
          The versions of the packages that it was made with.
        """
        leaves, tree = jax.tree.flatten(self._state)

        def step(leaves: list[Any], batch: Mapping[str, Any]) -> tuple[list[Any], Any]:
            state, loss = self._update(jax.tree.unflatten(tree, leaves), batch)
            return jax.tree.leaves(state), loss

        batch = dict(next(iter(self.batches())))
        shapes = jax.eval_shape(lambda *arrays: arrays, leaves, batch)
        exported = jax.export.export(jax.jit(step), platforms=[platform])(*shapes)
        Path(file).write_bytes(exported.serialize())
        return environment()["versions"]
