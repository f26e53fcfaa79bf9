"""Where a step runs: one device, several under `jax.pmap`, or a mesh. Alone says "device".

Three engines around one pure step; they change nothing that it computes:

- `jit`: one device.
- `pmap`: the rows of a batch are split over all devices of one host, parameters and optimizer
  state are on every one of them, and sums (of the loss, its count, the gradient) are added up.
- `mesh`: `jax.jit` over the axes `data` and `fsdp`. Rows are split over both, parameters and
  optimizer state over `fsdp`: gathered before use, their gradients added up and scattered.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jaxbert.training.memory import OnePlace
from jaxbert.training.step import OverRows

logger = logging.getLogger("jaxbert")

ENGINES = ("jit", "pmap", "mesh")
DATA, FSDP = "data", "fsdp"
_ROWS = PartitionSpec((DATA, FSDP))
_EVERYWHERE = PartitionSpec()

# What stays on the host: the device never needs to know which example it works on.
_HOST_ONLY = ("example_ids",)


class Jit:
    """One device. Also what every engine can do.

    parts: into how many a batch's rows are split.
    """

    parts = 1

    def __init__(self, device: jax.Device) -> None:
        self.rows: Sharding = SingleDeviceSharding(device)

    def check(self, batch_size: int, accumulation: int) -> None:
        """ValueError unless each device gets as many examples in each part of the batch."""
        unit = self.parts * accumulation
        if batch_size % unit:
            below = batch_size // unit * unit
            nearest = f"{below} and {below + unit}" if below else f"{unit} and {2 * unit}"
            raise ValueError(
                f"batch_size={batch_size} does not divide by {unit} (devices: {self.parts}, "
                f"accumulation={accumulation}); the nearest sizes that do are {nearest}"
            )

    def say_what_is_idle(self) -> None:
        """Tells the user of devices that this engine leaves alone."""
        if self.parts < jax.device_count():
            logger.info(
                "%d of %d devices are used; --parallel mesh uses all",
                self.parts,
                jax.device_count(),
            )

    def sharding(self, shape: Sequence[int]) -> Sharding:
        """Where an array of parameters, or of the optimizer's state, is."""
        del shape
        return self.rows

    def place(self, tree: Any) -> Any:
        """A training state or parameters, the way steps want them."""
        return jax.tree.map(lambda leaf: _moved(leaf, self.sharding(leaf.shape)), tree)

    def whole(self, tree: Any) -> Any:
        """As numpy arrays, what `place` has placed; every process must ask for it."""
        return jax.tree.map(np.asarray, tree)

    def put_rows(self, rows: np.ndarray) -> jax.Array:
        """An array [B, ...] of a batch."""
        return jax.device_put(rows, self.rows)

    def across(self, function: OverRows) -> OverRows:
        """A function of parameters and rows, over rows that devices share, see `make_train_step`.

        Sums are added up over the devices; results for each row are put together.
        """
        return function

    def compile(self, step: Callable[..., Any], *, donate: bool) -> Any:
        """A step, ready to be lowered. `donate`: it gives its first argument's memory away."""
        return jax.jit(step, donate_argnums=0 if donate else ())


class Pmap(Jit):
    """Data parallel over the devices of one process, by `jax.pmap`."""

    def __init__(self, devices: Sequence[jax.Device]) -> None:
        self._devices, self.parts = devices, len(devices)
        mesh = Mesh(np.array(devices), DATA)
        self.rows = NamedSharding(mesh, PartitionSpec(DATA))
        self._copies = NamedSharding(mesh, _EVERYWHERE)

    def sharding(self, shape: Sequence[int]) -> Sharding:
        return self._copies

    def put_rows(self, rows: np.ndarray) -> jax.Array:
        return jax.device_put(rows.reshape(self.parts, -1, *rows.shape[1:]), self.rows)

    def across(self, function: OverRows) -> OverRows:
        def shared(*args: Any) -> tuple[Any, Any]:
            rows, sums = function(*args)
            return jax.lax.all_gather(rows, DATA, tiled=True), jax.lax.psum(sums, DATA)

        return shared

    def compile(self, step: Callable[..., Any], *, donate: bool) -> Any:
        def run(state: Any, batch: Any, *rest: Any) -> Any:
            # None: the same on every device, with no axis for them. Only the batch has one.
            axes = (None, 0, *(None for _ in rest))
            spread = jax.pmap(step, DATA, in_axes=axes, out_axes=None, devices=self._devices)
            return spread(state, batch, *rest)

        return jax.jit(run, donate_argnums=0 if donate else ())


class MeshEngine(Jit):
    """`jax.jit` over a mesh with the axes `data` and `fsdp`.

    The gradient is taken inside `jax.shard_map`, so the collectives are those written here and not
    the compiler's choice; the update is `jax.jit`'s, each device its part.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.parts = mesh, mesh.size
        self.rows = NamedSharding(mesh, _ROWS)

    def sharding(self, shape: Sequence[int]) -> NamedSharding:
        axis = self._split_axis(shape)
        spec = _EVERYWHERE if axis is None else PartitionSpec(*(None,) * axis, FSDP)
        return NamedSharding(self.mesh, spec)

    def _split_axis(self, shape: Sequence[int]) -> int | None:
        """The largest side of a matrix that can be split over `fsdp`, the last of equal ones.

        Vectors are not split: a thousandth of the parameters, and as many messages.
        """
        parts = self.mesh.shape[FSDP]
        sides = [(n, axis) for axis, n in enumerate(shape) if n % parts == 0]
        return max(sides)[1] if sides and parts > 1 and len(shape) > 1 else None

    def whole(self, tree: Any) -> Any:
        gather = jax.jit(lambda tree: tree, out_shardings=NamedSharding(self.mesh, _EVERYWHERE))
        return jax.tree.map(np.asarray, gather(tree))

    def put_rows(self, rows: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(self.rows, rows)

    def across(self, function: OverRows) -> OverRows:
        def shared(params: Any, batch: Any, *rest: Any) -> tuple[Any, Any]:
            shapes = jax.eval_shape(lambda: params)

            def local(part: Any, batch: Any, *rest: Any) -> tuple[Any, Any]:
                rows, sums = function(jax.tree.map(self._gather, part, shapes), batch, *rest)
                rows = jax.lax.all_gather(rows, (DATA, FSDP), tiled=True)
                return rows, jax.tree.map(self._total, sums)

            _, sums = jax.eval_shape(function, params, batch, *rest)
            return jax.shard_map(
                local,
                mesh=self.mesh,
                in_specs=(self._specs(params), _ROWS, *(_EVERYWHERE for _ in rest)),
                out_specs=(_EVERYWHERE, self._specs(sums)),
                check_vma=False,
            )(params, batch, *rest)

        return shared

    def _specs(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: self.sharding(leaf.shape).spec, tree)

    def _gather(self, part: jax.Array, whole: jax.ShapeDtypeStruct) -> jax.Array:
        axis = self._split_axis(whole.shape)
        return part if axis is None else jax.lax.all_gather(part, FSDP, axis=axis, tiled=True)

    def _total(self, own: jax.Array) -> jax.Array:
        """The sum over all devices of what each has; of a matrix each keeps its part."""
        axis = self._split_axis(own.shape)
        if axis is None:
            return jax.lax.psum(own, (DATA, FSDP))
        part = jax.lax.psum_scatter(own, FSDP, scatter_dimension=axis, tiled=True)
        return jax.lax.psum(part, DATA) if self.mesh.shape[DATA] > 1 else part

    def compile(self, step: Callable[..., Any], *, donate: bool) -> Any:
        def train(state: Any, *rest: Any) -> Any:
            state, values = step(state, *rest)
            shardings = jax.tree.map(lambda leaf: self.sharding(leaf.shape), state)
            return jax.lax.with_sharding_constraint(state, shardings), values

        return jax.jit(train, donate_argnums=0) if donate else jax.jit(step)


def _moved(leaf: Any, sharding: Sharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding and leaf.committed:
        return leaf
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)  # the same in every process
    return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])


def make_engine(
    name: str = "jit", mesh: str | None = None, devices: Sequence[jax.Device] | None = None
) -> Jit:
    """The engine of that name.

    Args:
      mesh: as in "data=4,fsdp=2"; an axis that is left out takes the devices that remain, `data`
        before `fsdp`. For the engine "mesh" only.
      devices: None = all there are, also those of other processes; "jit" takes the first.

    Raises:
      ValueError: no such engine; axes that do not use up the devices; several processes under
        anything but "mesh".
    """
    if name not in ENGINES:
        raise ValueError(f"parallel={name!r} must be one of {', '.join(ENGINES)}")
    if mesh is not None and name != "mesh":
        raise ValueError(f"mesh={mesh!r} is for parallel='mesh', got {name!r}")
    if name != "mesh" and jax.process_count() > 1:
        raise ValueError(
            f"parallel={name!r} is for one process, there are {jax.process_count()}: want 'mesh'"
        )
    # A process's devices side by side: then its rows of a batch follow one another too.
    devices = devices or sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    if name == "mesh":
        sizes = _axes(mesh or "", len(devices))
        return MeshEngine(Mesh(np.array(devices).reshape(sizes), (DATA, FSDP)))
    return Jit(devices[0]) if name == "jit" else Pmap(devices)


def _axes(mesh: str, devices: int) -> tuple[int, int]:
    """(data, fsdp) of "data=4,fsdp=2"."""
    sizes: dict[str, int] = {}
    for part in filter(None, mesh.split(",")):
        name, _, size = (word.strip() for word in part.partition("="))
        if name not in (DATA, FSDP) or name in sizes or not size.isdecimal() or int(size) < 1:
            raise ValueError(f"mesh={mesh!r}: want {DATA}=N,{FSDP}=M, one or both")
        sizes[name] = int(size)
    if DATA not in sizes:
        sizes[DATA] = max(1, devices // sizes.setdefault(FSDP, 1))
    sizes.setdefault(FSDP, max(1, devices // sizes[DATA]))
    if sizes[DATA] * sizes[FSDP] != devices:
        raise ValueError(
            f"mesh={mesh!r}: {DATA}={sizes[DATA]} times {FSDP}={sizes[FSDP]} is "
            f"{sizes[DATA] * sizes[FSDP]}, there are {devices} devices"
        )
    return sizes[DATA], sizes[FSDP]


def put(batch: Mapping[str, np.ndarray], engine: Jit | None = None) -> dict[str, jax.Array]:
    """A batch's arrays on the devices, without what is the host's; None = the first device."""
    engine = engine or make_engine()
    return {k: engine.put_rows(v) for k, v in batch.items() if k not in _HOST_ONLY}


class Compiled:
    """A step, compiled once for each batch shape.

    Args:
      step: a pure function of a state, a batch, and whatever never changes its shape.
      engine: where it runs; the first device when left out.
      donate: for a training step, (state, values): the old state's memory is given to the new.

    `shapes` says for which [B, L] it has been compiled, `seconds` how long that took in all.

    On CPUs a call waits until the one before has ended: a step that waits for its turn already
    holds its temporary memory, so two of them would need it twice. `OnePlace` sees to the rest.
    """

    def __init__(
        self, step: Callable[..., Any], engine: Jit | None = None, *, donate: bool = False
    ) -> None:
        self.engine = engine or make_engine()
        self._jitted = self.engine.compile(step, donate=donate)
        self._programs: dict[Any, tuple[Callable[..., Any], OnePlace]] = {}
        self._queues = jax.default_backend() != "cpu"
        self._last: Any = ()
        self.seconds = 0.0

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The [B, L] of every program, in the order of compilation."""
        return [(math.prod(s[:-1]), s[-1]) for s in (dict(k)["input_ids"] for k in self._programs)]

    def __call__(self, state: Any, batch: Mapping[str, Any], *rest: Any) -> Any:
        # The other shapes never change in a run, so the batch's alone name the program.
        key = tuple((name, value.shape) for name, value in sorted(batch.items()))
        if key not in self._programs:
            start = time.perf_counter()
            program = self._jitted.lower(state, batch, *rest).compile()
            self.seconds += time.perf_counter() - start
            # Accelerators have allocators of their own, and need not know a program's memory.
            size = 0 if self._queues else program.memory_analysis().temp_size_in_bytes
            temporary = OnePlace(size)
            self._programs[key] = program, temporary
        program, temporary = self._programs[key]
        if self._queues:
            return program(state, batch, *rest)
        jax.block_until_ready(self._last)
        temporary.keep()
        result = program(state, batch, *rest)
        # One array tells; the last is not among those that the next call may give away.
        self._last = jax.tree.leaves(result)[-1:]
        return result


def describe_devices() -> dict[str, Any]:
    """Platform, kind and number of the devices that JAX sees."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
    }
