"""A step's compiled programs: one for each shape of batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax

from jaxbert.cpu import TemporaryBlock
from jaxbert.training.engines.base import Engine
from jaxbert.training.engines.jit import JitEngine


class Program(NamedTuple):
    """A compiled step, and on CPUs its temporary memory."""

    call: Callable[..., Any]
    temporary: TemporaryBlock


# {((name, shape) of every array in the batch): program}
Programs: TypeAlias = dict[tuple[tuple[str, tuple[int, ...]], ...], Program]


class Compiled:
    """A step, compiled once for each shape of batch.

    On CPUs a call waits until the one before has ended: a step that waits for its turn already
    holds its temporary memory, so two of them would need it twice. `TemporaryBlock` sees to the
    rest.

    Args:
      step: a pure function of a state, a batch, and whatever never changes its shape.
      engine: where it runs; None = on the first device.
      donate: for a training step, (state, values): the old state's memory is given to the new.
      programs: where programs are kept. Steps that would compile to the same (one function, one
        engine, the same shapes but for the batch's) may share it, so that they compile once.

    Attributes:
      seconds: how long this step's own compilations took in all.

    Example:
      >>> import numpy as np
      >>> step = Compiled(lambda state, batch: state + batch["input_ids"].sum())
      >>> int(step(np.int32(1), {"input_ids": np.ones((2, 3), np.int32)}))
      7
      >>> step.shapes
      [(2, 3)]
    """

    def __init__(
        self,
        step: Callable[..., Any],
        engine: Engine | None = None,
        *,
        donate: bool = False,
        programs: Programs | None = None,
    ) -> None:
        self.engine: Engine = engine or JitEngine()
        self.programs: Programs = {} if programs is None else programs
        self.seconds = 0.0
        self._jitted = self.engine.compile(step, donate=donate)
        self._last: Any = ()

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The [B, L] of every program, in the order of compilation."""
        shapes = [dict(key)["input_ids"] for key in self.programs]
        return [(math.prod(shape[:-1]), shape[-1]) for shape in shapes]

    def __call__(self, state: Any, batch: Mapping[str, Any], *rest: Any) -> Any:
        """What the step returns; on accelerators before it is computed."""
        # The other shapes never change in a run, so the batch's alone name the program.
        key = tuple((name, value.shape) for name, value in sorted(batch.items()))
        if key not in self.programs:
            self.programs[key] = self._compile(state, batch, *rest)
        call, temporary = self.programs[key]
        if self.engine.platform != "cpu":
            return call(state, batch, *rest)
        jax.block_until_ready(self._last)
        temporary.reuse()
        result = call(state, batch, *rest)
        # One array tells; the last is not among those that the next call may give away.
        self._last = jax.tree.leaves(result)[-1:]
        return result

    def _compile(self, *args: Any) -> Program:
        start = time.perf_counter()
        program = self._jitted.lower(*args).compile()
        self.seconds += time.perf_counter() - start
        # Accelerators have allocators of their own, and need not know a program's memory.
        on_cpu = self.engine.platform == "cpu"
        size = program.memory_analysis().temp_size_in_bytes if on_cpu else 0
        return Program(program, TemporaryBlock(size))
