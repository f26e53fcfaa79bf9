"""Rows, parameters and optimizer state sharded over a mesh, also of several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxbert.errors import InputError
from jaxbert.models.primitives import WORD_TABLE, tables_in_columns
from jaxbert.training.engines.base import Engine, OverRows

Path: TypeAlias = tuple[Any, ...]  # of a leaf, as jax.tree_util has it

DATA, FSDP = "data", "fsdp"
_TABLE = 16  # times as many rows as columns: tables of words, and no kernel of a layer
_ROWS = PartitionSpec((DATA, FSDP))
_REPLICATED = PartitionSpec()


@final
class MeshEngine(Engine):
    """`jax.jit` over a mesh with the axes `data` and `fsdp`.

    Rows are sharded over both, parameters and optimizer state over `fsdp`: gathered before use,
    their gradients summed and scattered. The word table stays where it is: a step reads few of its
    rows, and sends these (`models.primitives.Embedding`).

    The gradient is taken inside `jax.shard_map`, so the collectives are those written here and not
    the compiler's choice; the update is `jax.jit`'s, each device its part.

    Args:
      mesh: see `make_mesh`.
    """

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh.devices.flatten().tolist(), NamedSharding(mesh, _ROWS))
        self.mesh = mesh

    def sharding(self, shape: Sequence[int]) -> NamedSharding:
        """Over `fsdp`, a table's columns, a matrix's first side that divides; else replicated."""
        axis = self._split_axis(shape)
        spec = _REPLICATED if axis is None else PartitionSpec(*(None,) * axis, FSDP)
        return NamedSharding(self.mesh, spec)

    def gather(self, tree: Any) -> Any:
        """Replicates, then copies to the host."""
        replicate = jax.jit(lambda tree: tree, out_shardings=NamedSharding(self.mesh, _REPLICATED))
        return jax.tree.map(np.asarray, replicate(tree))

    def shard(self, function: OverRows) -> OverRows:
        """The function inside `jax.shard_map`, its parameters gathered, its sums scattered."""

        def sharded(params: Any, batch: Any, *rest: Any) -> tuple[Any, Any]:
            shapes = jax.eval_shape(lambda: params)

            def local(shards: Any, batch: Any, *rest: Any) -> tuple[Any, Any]:
                whole = jax.tree_util.tree_map_with_path(self._all_gather, shards, shapes)
                with tables_in_columns(FSDP):
                    rows, sums = function(whole, batch, *rest)
                rows = jax.lax.all_gather(rows, (DATA, FSDP), tiled=True)
                return rows, jax.tree_util.tree_map_with_path(self._sum_scatter, sums, full)

            _, full = jax.eval_shape(function, params, batch, *rest)
            return jax.shard_map(
                local,
                mesh=self.mesh,
                in_specs=(self._specs(params), _ROWS, *(_REPLICATED for _ in rest)),
                out_specs=(_REPLICATED, self._specs(full)),
                check_vma=False,
            )(params, batch, *rest)

        return sharded

    def compile(self, step: Callable[..., Any], *, donate: bool) -> Any:
        """By `jax.jit`; a new state is sharded as the old one."""

        def train(state: Any, *rest: Any) -> Any:
            state, values = step(state, *rest)
            shardings = jax.tree.map(lambda leaf: self.sharding(leaf.shape), state)
            return jax.lax.with_sharding_constraint(state, shardings), values

        return jax.jit(train, donate_argnums=0) if donate else jax.jit(step)

    def _put_rows(self, rows: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(self.rows, rows)

    def _split_axis(self, shape: Sequence[int]) -> int | None:
        """The first side of a matrix that can be split over `fsdp`: shards of rows, in one piece.

        Vectors are not split: a thousandth of the parameters, and as many messages. What is as tall
        as a table of words is split along its rows' columns, which a look-up wants.
        """
        parts = self.mesh.shape[FSDP]
        if parts == 1 or len(shape) < 2:
            return None
        sides = [axis for axis, n in enumerate(shape) if n % parts == 0]
        is_table = len(shape) == 2 and shape[0] >= _TABLE * shape[1]
        if is_table and 1 in sides:
            return 1
        return sides[0] if sides else None

    def _specs(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: self.sharding(leaf.shape).spec, tree)

    def _all_gather(self, path: Path, shard: jax.Array, full: jax.ShapeDtypeStruct) -> jax.Array:
        axis = self._split_axis(full.shape)
        if axis is None or self._stays(path, full.shape):
            return shard
        return jax.lax.all_gather(shard, FSDP, axis=axis, tiled=True)

    def _sum_scatter(self, path: Path, own: jax.Array, full: jax.ShapeDtypeStruct) -> jax.Array:
        """The sum over all devices of what each has; of a matrix each keeps its shard."""
        axis = self._split_axis(full.shape)
        if axis is None:
            return jax.lax.psum(own, (DATA, FSDP))
        if not self._stays(path, full.shape):  # else those of one `fsdp` have been added up
            own = jax.lax.psum_scatter(own, FSDP, scatter_dimension=axis, tiled=True)
        return jax.lax.psum(own, DATA) if self.mesh.shape[DATA] > 1 else own

    def _stays(self, path: Path, shape: Sequence[int]) -> bool:
        """Whether a parameter, or its gradient, is a table that is looked up in its shards."""
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return name.endswith(WORD_TABLE) and self._split_axis(shape) == 1


def make_mesh(text: str, devices: Sequence[jax.Device]) -> Mesh:
    """The mesh of "data=4,fsdp=2".

    Args:
      text: an axis that is left out takes the devices that remain, `fsdp` before `data`: as many
        bytes are sent as for replicas (their gradients' sum is a sum of parts and a gathering of
        them), and each device has only its part of the update to do.

    Raises:
      InputError: the text is another, or its axes do not use up the devices.
    """
    sizes = _axis_sizes(text)
    if FSDP not in sizes:
        sizes[FSDP] = max(1, len(devices) // sizes.setdefault(DATA, 1))
    sizes.setdefault(DATA, max(1, len(devices) // sizes[FSDP]))
    data, fsdp = sizes[DATA], sizes[FSDP]
    if data * fsdp != len(devices):
        raise InputError(
            f"mesh={text!r}: {DATA}={data} times {FSDP}={fsdp} is {data * fsdp}, there are "
            f"{len(devices)} devices"
        )
    return Mesh(np.array(devices).reshape(data, fsdp), (DATA, FSDP))


def _axis_sizes(text: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, size = (word.strip() for word in part.partition("="))
        if name not in (DATA, FSDP) or name in sizes or not size.isdecimal() or int(size) < 1:
            raise InputError(f"mesh={text!r}: want {DATA}=N,{FSDP}=M, one or both")
        sizes[name] = int(size)
    return sizes
