"""The engine of one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from jaxbert.training.engines.base import Engine, OverRows


@final
class JitEngine(Engine):
    """One device, by `jax.jit`.

    Args:
      device: None = the first of this process.

    Example:
      >>> engine = JitEngine()
      >>> engine.parts
      1
      >>> batch = {"labels": np.ones(4), "example_ids": np.arange(4)}
      >>> {name: rows.shape for name, rows in engine.put_batch(batch).items()}
      {'labels': (4,)}
    """

    def __init__(self, device: jax.Device | None = None) -> None:
        device = device or jax.local_devices()[0]
        super().__init__([device], SingleDeviceSharding(device))

    def sharding(self, shape: Sequence[int]) -> Sharding:
        """All of it on the device."""
        del shape
        return self.rows

    def gather(self, tree: Any) -> Any:
        """Copies to the host."""
        return jax.tree.map(np.asarray, tree)

    def shard(self, function: OverRows) -> OverRows:
        """The function as it is: the device has all the rows."""
        return function

    def compile(self, step: Callable[..., Any], *, donate: bool) -> Any:
        """By `jax.jit`."""
        return jax.jit(step, donate_argnums=0 if donate else ())

    def _put_rows(self, rows: np.ndarray) -> jax.Array:
        return jax.device_put(rows, self.rows)
