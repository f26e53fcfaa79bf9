"""Vectors of texts from those of their tokens, in packed rows as in padded ones."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxbert.models.encoder import segment_means
from jaxbert.models.visibility import take_columns

Hidden = Float[Array, "B L D"]
Vectors = Float[Array, "B S D"]


def pool(
    pooling: str,
    hidden: Hidden,
    segment_ids: Int[Array, "B L"],
    segment_starts: Int[Array, "B S"],
    skip: int = 0,
) -> Vectors:
    """A vector for each segment, in float32.

    Args:
      pooling: "mean", "max", "first", "last"; "mean-sqrt-length", the sum over the square root of
        the number; "weighted-mean", by 1, 2, ... along the text.
      skip: so many tokens at the beginning of each segment do not count.
    """
    hidden = hidden.astype(jnp.float32)
    own = jnp.maximum(segment_ids - 1, 0)
    place = jnp.arange(hidden.shape[1])[None] - take_columns(segment_starts, own)
    counted = jnp.where(place >= skip, segment_ids, 0)
    return _POOLINGS[pooling](hidden, counted, segment_starts + skip, place)


def _lengths(counted: Int[Array, "B L"], segments: int) -> Int[Array, "B S"]:
    return (counted[:, None, :] == jnp.arange(1, segments + 1)[None, :, None]).sum(axis=-1)


def _mean(hidden: Hidden, counted: Array, starts: Array, place: Array) -> Vectors:
    del place
    return segment_means(hidden, counted, starts.shape[1])


def _mean_sqrt_length(hidden: Hidden, counted: Array, starts: Array, place: Array) -> Vectors:
    number = _lengths(counted, starts.shape[1])[..., None].astype(jnp.float32)
    return _mean(hidden, counted, starts, place) * jnp.sqrt(number)


def _weighted_mean(hidden: Hidden, counted: Array, starts: Array, place: Array) -> Vectors:
    weight = (place + 1)[..., None].astype(jnp.float32)
    total = segment_means(weight, counted, starts.shape[1])
    found = segment_means(weight * hidden, counted, starts.shape[1])
    return found / jnp.where(total > 0, total, 1.0)


def _max(hidden: Hidden, counted: Array, starts: Array, place: Array) -> Vectors:
    del place
    rows, segments = starts.shape
    number = jnp.arange(rows)[:, None] * (segments + 1) + counted
    tokens = hidden.reshape(-1, hidden.shape[-1])
    found = jax.ops.segment_max(tokens, number.reshape(-1), rows * (segments + 1))
    found = found.reshape(rows, segments + 1, -1)[:, 1:]
    return jnp.where(jnp.isfinite(found), found, 0.0)  # of no tokens


def _first(hidden: Hidden, counted: Array, starts: Array, place: Array) -> Vectors:
    del counted, place
    return take_columns(hidden, starts)


def _last(hidden: Hidden, counted: Array, starts: Array, place: Array) -> Vectors:
    del place
    return take_columns(hidden, starts + jnp.maximum(_lengths(counted, starts.shape[1]) - 1, 0))


_POOLINGS: dict[str, Callable[[Hidden, Array, Array, Array], Vectors]] = {
    "mean": _mean,
    "first": _first,
    "max": _max,
    "last": _last,
    "mean-sqrt-length": _mean_sqrt_length,
    "weighted-mean": _weighted_mean,
}
