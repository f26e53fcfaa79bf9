"""Data parallel over the devices of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxbert.training.engines.base import Engine, OverRows

_DATA = "data"


@final
class PmapEngine(Engine):
    """`jax.pmap`: rows are sharded, parameters and optimizer state replicated.

    Args:
      devices: of this process.
    """

    def __init__(self, devices: Sequence[jax.Device]) -> None:
        mesh = Mesh(np.array(devices), _DATA)
        super().__init__(devices, NamedSharding(mesh, PartitionSpec(_DATA)))
        self._devices, self._replicated = devices, NamedSharding(mesh, PartitionSpec())

    def sharding(self, shape: Sequence[int]) -> NamedSharding:
        """Replicated."""
        del shape
        return self._replicated

    def gather(self, tree: Any) -> Any:
        """One device's copy."""
        return jax.tree.map(np.asarray, tree)

    def shard(self, function: OverRows) -> OverRows:
        """The function between collectives; it must be called inside a step of this engine."""

        def sharded(*args: Any) -> tuple[Any, Any]:
            rows, sums = function(*args)
            return jax.lax.all_gather(rows, _DATA, tiled=True), jax.lax.psum(sums, _DATA)

        return sharded

    def compile(self, step: Callable[..., Any], *, donate: bool) -> Any:
        """By `jax.pmap`, within a `jax.jit` that can donate what is replicated."""

        def run(state: Any, batch: Any, *rest: Any) -> Any:
            # None: the same on every device, with no axis for them. Only the batch has one.
            axes = (None, 0, *(None for _ in rest))
            mapped = jax.pmap(step, _DATA, in_axes=axes, out_axes=None, devices=self._devices)
            return mapped(state, batch, *rest)

        return jax.jit(run, donate_argnums=0 if donate else ())

    def _put_rows(self, rows: np.ndarray) -> jax.Array:
        return jax.device_put(rows.reshape(self.parts, -1, *rows.shape[1:]), self.rows)
