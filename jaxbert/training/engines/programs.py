"""A step's compiled programs: one for each shape of batch, compiled before it is wanted if told."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from jaxbert.cpu import TemporaryBlock
from jaxbert.training.engines.base import Engine
from jaxbert.training.engines.jit import JitEngine


class Program(NamedTuple):
    """A compiled step, and on CPUs its temporary memory."""

    call: Callable[..., Any]
    temporary: TemporaryBlock


_Key: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]  # (name, shape) of a batch's arrays
Programs: TypeAlias = dict[_Key, Program]

# One: a compilation keeps more than one core busy already, and whoever calls compiles beside it.
_compiler = ThreadPoolExecutor(1, "compile")


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
      seconds: how long calls have waited for compilations in all.

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
        self._coming: dict[_Key, Future[Program]] = {}
        self._last: Any = ()

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The [B, L] of every program, in the order of compilation."""
        shapes = [dict(key)["input_ids"] for key in self.programs]
        return [(math.prod(shape[:-1]), shape[-1]) for shape in shapes]

    def __call__(self, state: Any, batch: Mapping[str, Any], *rest: Any) -> Any:
        """What the step returns; on accelerators before it is computed."""
        key = _key(batch)
        if key not in self.programs:
            start = time.perf_counter()
            coming = self._coming.pop(key, None)
            # What the thread has not begun yet is sooner there if this one makes it.
            if coming is None or coming.cancel():
                self.programs[key] = self._compile(state, batch, *rest)
            else:
                self.programs[key] = coming.result()
            self.seconds += time.perf_counter() - start
        call, temporary = self.programs[key]
        if self.engine.platform != "cpu":
            return call(state, batch, *rest)
        jax.block_until_ready(self._last)
        temporary.reuse()
        result = call(state, batch, *rest)
        # One array tells; the last is not among those that the next call may give away.
        self._last = jax.tree.leaves(result)[-1:]
        return result

    def prepare(self, state: Any, batch: Mapping[str, Any], *rest: Any) -> None:
        """Compiles for such arguments on another thread; a call that wants the program waits.

        Of several processes none does: their compilers talk to each other, in one order.
        """
        key = _key(batch)
        if jax.process_count() > 1 or key in self.programs or key in self._coming:
            return
        args = jax.tree.map(_like, (state, dict(batch), *rest))
        self._coming[key] = _compiler.submit(self._compile, *args)

    def forget(self) -> None:
        """Compiles no more of what was to be prepared and is not begun."""
        for future in self._coming.values():
            future.cancel()
        self._coming.clear()

    def _compile(self, *args: Any) -> Program:
        program = self._jitted.lower(*args).compile()
        # Accelerators have allocators of their own, and need not know a program's memory.
        on_cpu = self.engine.platform == "cpu"
        size = program.memory_analysis().temp_size_in_bytes if on_cpu else 0
        return Program(program, TemporaryBlock(size))


def _key(batch: Mapping[str, Any]) -> _Key:
    """What names a program: the other shapes never change in a run."""
    return tuple((name, value.shape) for name, value in sorted(batch.items()))


def _like(value: Any) -> jax.ShapeDtypeStruct:
    """What compiling needs of an array, which may be given away meanwhile."""
    return jax.ShapeDtypeStruct(
        np.shape(value), value.dtype, sharding=getattr(value, "sharding", None)
    )
