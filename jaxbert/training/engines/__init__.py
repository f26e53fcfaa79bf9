"""Where a step runs: one device, several under `jax.pmap`, or a mesh. Alone says "device".

Three engines around one pure step; they change nothing that it computes:

- `jit`: one device.
- `pmap`: the rows of a batch are sharded over all devices of one host, parameters and optimizer
  state are replicated, and sums (of the loss, its count, the gradient) are added up.
- `mesh`: `jax.jit` over the axes `data` and `fsdp`. Rows are sharded over both, parameters and
  optimizer state over `fsdp`: gathered before use, their gradients added up and scattered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import jax

from jaxbert.errors import InputError
from jaxbert.training.config import ENGINES
from jaxbert.training.engines.base import Engine, OverRows
from jaxbert.training.engines.jit import JitEngine
from jaxbert.training.engines.mesh import MeshEngine, make_mesh
from jaxbert.training.engines.pmap import PmapEngine
from jaxbert.training.engines.programs import Compiled, Program, Programs

__all__ = [
    "ENGINES",
    "Compiled",
    "Engine",
    "JitEngine",
    "MeshEngine",
    "OverRows",
    "PmapEngine",
    "Program",
    "Programs",
    "make_engine",
    "make_mesh",
]


@overload
def make_engine(
    name: Literal["mesh"], mesh: str | None = None, devices: Sequence[jax.Device] | None = None
) -> MeshEngine: ...


@overload
def make_engine(
    name: str = "jit", mesh: str | None = None, devices: Sequence[jax.Device] | None = None
) -> Engine: ...


def make_engine(
    name: str = "jit", mesh: str | None = None, devices: Sequence[jax.Device] | None = None
) -> Engine:
    """The engine of that name.

    Args:
      name: one of `ENGINES`.
      mesh: as in "data=4,fsdp=2"; an axis that is left out takes the devices that remain, `fsdp`
        before `data`. For the engine "mesh" only.
      devices: None = all there are, also those of other processes; "jit" takes the first.

    Raises:
      InputError: no such engine; axes that do not use up the devices; several processes under
        anything but "mesh".

    Example:
      >>> make_engine("mesh", f"data={jax.device_count()}").mesh.axis_names
      ('data', 'fsdp')
    """
    if name not in ENGINES:
        raise InputError(f"parallel={name!r} must be one of {', '.join(ENGINES)}")
    if mesh is not None and name != "mesh":
        raise InputError(f"mesh={mesh!r} is for parallel='mesh', got {name!r}")
    if name != "mesh" and jax.process_count() > 1:
        raise InputError(
            f"parallel={name!r} is for one process, there are {jax.process_count()}: want 'mesh'"
        )
    # A process's devices side by side: then its rows of a batch follow one another too.
    devices = devices or sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    if name == "mesh":
        return MeshEngine(make_mesh(mesh or "", devices))
    return JitEngine(devices[0]) if name == "jit" else PmapEngine(devices)
