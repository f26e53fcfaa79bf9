"""What attention may see, as one value: plain products, Pallas and cuDNN all go by it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxbert.errors import InputError


class Visibility(NamedTuple):
    """Which tokens of its row a token sees; built once for a batch.

    A token sees the keys of its own segment and, in a layer with a window, those of them whose
    columns differ from its own by at most that; a segment is in one piece.

    keys: [B, L] int, the segment that each token answers in; None = all in one.
    queries: [B, L] int, the segment that each token asks in; None = all in one.
    positions: [B, L] int, where each token stands in its text, for layers that turn queries and
      keys by it; None = in its column.

    Example:
      >>> packed = Visibility.of(segment_ids=jnp.array([[1, 1, 2]]))
      >>> packed.mask(3)[0, 0].astype(int).tolist()
      [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """

    keys: Int[Array, "B L"] | None = None
    queries: Int[Array, "B L"] | None = None
    positions: Int[Array, "#B L"] | None = None

    @classmethod
    def of(
        cls,
        attention_mask: Array | None = None,
        segment_ids: Array | None = None,
        position_ids: Array | None = None,
    ) -> Visibility:
        """From a model's inputs, all [B, L].

        Args:
          attention_mask: 1 = may be seen, by all; 0 = padding, which sees what the others see.
          segment_ids: a token sees the tokens of its own segment; padding is segment 0.

        Raises:
          InputError: both are given.
        """
        if segment_ids is not None and attention_mask is not None:
            raise InputError(
                "attention_mask and segment_ids exclude each other: segment id 0 already marks "
                "padding; leave attention_mask out"
            )
        if segment_ids is not None:
            return cls(segment_ids, segment_ids, position_ids)
        if attention_mask is not None:
            return cls(attention_mask.astype(bool).astype(jnp.int32), None, position_ids)
        return cls(positions=position_ids)

    def mask(
        self, length: int, window: int | None = None, columns: Array | None = None
    ) -> Bool[Array, "#B 1 #Q L"] | None:
        """Which key each query sees, [B, 1, Q or 1, L]; None = all see all.

        Args:
          length: L.
          window: of this layer; None = none.
          columns: [B, Q], which tokens ask; None = all.
        """
        seen = None
        if self.queries is not None and self.keys is not None:
            asking = take_columns(self.queries, columns)
            seen = (asking[:, :, None] == self.keys[:, None, :])[:, None]
        elif self.keys is not None:
            seen = (self.keys != 0)[:, None, None, :]
        if window is None:
            return seen
        each = jnp.arange(length)
        asking = each[None] if columns is None else columns
        near = (jnp.abs(asking[:, :, None] - each[None, None]) <= window)[:, None]
        return near if seen is None else seen & near

    def places(self, length: int) -> Int[Array, "#B L"]:
        """Where each token stands."""
        return jnp.arange(length)[None] if self.positions is None else self.positions

    def segments(self, rows: Any, length: int) -> tuple[Int[Array, "B L"], Int[Array, "B L"]]:
        """(of queries, of keys), for kernels that compare them; a window is not in it."""
        everyone = jnp.ones((rows, length), jnp.int32)
        keys = everyone if self.keys is None else self.keys
        return everyone if self.queries is None else self.queries, keys


def take_columns(x: Array, columns: Array | None) -> Array:
    """[B, L, ...] -> [B, Q, ...]: each row's `columns` [B, Q]; None = all."""
    if columns is None:
        return x
    if x.shape[0] != columns.shape[0]:
        x = jnp.broadcast_to(x, (columns.shape[0], *x.shape[1:]))
    return jnp.take_along_axis(x, columns.reshape(columns.shape + (1,) * (x.ndim - 2)), axis=1)
