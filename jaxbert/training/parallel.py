"""Where a step runs: one device, under `jax.jit` with the state donated. Alone says "device"."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

# What stays on the host: the device never needs to know which example it works on.
_HOST_ONLY = ("example_ids",)


def put(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A batch's arrays on the device, without what is the host's."""
    return jax.device_put({k: v for k, v in batch.items() if k not in _HOST_ONLY})


class Compiled:
    """A step, compiled once for each batch shape.

    Args:
      step: a pure function of a state, a batch, and whatever never changes its shape.
      donate: whether its first argument's memory is given to the result.

    `shapes` says for which [B, L] it has been compiled, `seconds` how long that took in all.
    """

    def __init__(self, step: Callable[..., Any], *, donate: bool = False) -> None:
        self._jitted = jax.jit(step, donate_argnums=0 if donate else ())
        self._programs: dict[Any, Callable[..., Any]] = {}
        self.seconds = 0.0

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The [B, L] of every program, in the order of compilation."""
        return [dict(key)["input_ids"] for key in self._programs]

    def __call__(self, state: Any, batch: Mapping[str, Any], *rest: Any) -> Any:
        # The other shapes never change in a run, so the batch's alone name the program.
        key = tuple((name, value.shape) for name, value in sorted(batch.items()))
        if key not in self._programs:
            start = time.perf_counter()
            self._programs[key] = self._jitted.lower(state, batch, *rest).compile()
            self.seconds += time.perf_counter() - start
        return self._programs[key](state, batch, *rest)


def describe_devices() -> dict[str, Any]:
    """Platform, kind and number of the devices that JAX sees."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
    }
