"""What every engine can do, and what each does in a way of its own."""

from __future__ import annotations

import abc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Sharding

from jaxbert.errors import InputError

logger = logging.getLogger("jaxbert")

# (params, batch, ...) -> (results [B, ...] for each row, sums over all rows)
OverRows: TypeAlias = Callable[..., tuple[Any, Any]]

# What stays on the host: the device never needs to know which example it works on.
_HOST_ONLY = ("example_ids", "all_segment_ids")
_PLATFORMS = {"cuda": "gpu", "rocm": "gpu"}  # some releases of jax say which kind


class Engine(abc.ABC):
    """Where a step runs. It changes nothing that the step computes.

    Args:
      devices: all it uses, of one kind.
      rows: how an array of a batch is sharded, as `put_batch` puts it.

    Attributes:
      parts: over how many devices the rows of a batch are sharded.
      rows: as given.
      part: (i, n): this process puts the i-th of n equal parts of a batch's rows.
      platform: "cpu", "gpu" or "tpu". Whatever depends on the hardware asks here, so that a step
        can be compiled for devices that this machine does not have.
    """

    def __init__(self, devices: Sequence[jax.Device], rows: Sharding) -> None:
        self.parts, self.rows = len(devices), rows
        self.part = (jax.process_index(), jax.process_count())
        self.platform = _PLATFORMS.get(devices[0].platform, devices[0].platform)

    def check(self, batch_size: int, accumulation: int) -> None:
        """Checks that each device gets as many examples in each microbatch.

        Raises:
          InputError: it does not; names the nearest sizes that would.
        """
        unit = self.parts * accumulation
        if batch_size % unit:
            below = batch_size // unit * unit
            nearest = f"{below} and {below + unit}" if below else f"{unit} and {2 * unit}"
            raise InputError(
                f"batch_size={batch_size} does not divide by {unit} (devices: {self.parts}, "
                f"accumulation={accumulation}); the nearest sizes that do are {nearest}"
            )

    def log_idle_devices(self) -> None:
        """Tells the user of devices that this engine leaves alone."""
        if self.parts < jax.device_count():
            logger.info(
                "%d of %d devices are used; --parallel mesh uses all",
                self.parts,
                jax.device_count(),
            )

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A batch's arrays on the devices, without those of the host's.

        Args:
          batch: {name: [B, ...]}; where there are several processes, this one's rows of it.
        """
        return {k: self._put_rows(v) for k, v in batch.items() if k not in _HOST_ONLY}

    def put_state(self, tree: Any) -> Any:
        """A training state or parameters on the devices, the way steps want them."""
        return jax.tree.map(lambda leaf: _put(leaf, self.sharding(leaf.shape)), tree)

    @abc.abstractmethod
    def sharding(self, shape: Sequence[int]) -> Sharding:
        """How an array of that shape, of the parameters or the optimizer's state, is sharded."""

    @abc.abstractmethod
    def gather(self, tree: Any) -> Any:
        """As whole numpy arrays, what `put_state` has put; every process must ask for it."""

    @abc.abstractmethod
    def shard(self, function: OverRows) -> OverRows:
        """A function of parameters and rows, made to run on every device with some of the rows.

        Of what it returns, results for each row are put together, sums are added up.
        """

    @abc.abstractmethod
    def compile(self, step: Callable[..., Any], *, donate: bool) -> Any:
        """A step as a jitted function, ready to be lowered.

        Args:
          step: (state, batch, ...) -> anything; with `donate` -> (state, anything).
          donate: give the first argument's memory to the new state.
        """

    @abc.abstractmethod
    def _put_rows(self, rows: np.ndarray) -> jax.Array:
        """An array [B, ...] of a batch."""


def _put(leaf: Any, sharding: Sharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding and leaf.committed:
        return leaf
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    full = np.asarray(leaf)  # the same in every process
    return jax.make_array_from_callback(full.shape, sharding, lambda index: full[index])
