"""Where a token stands: in its text, in a table of positions, and relative to another token."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int


def places(segment_ids: Int[Array, "B L"] | None, length: int) -> Int[Array, "#B L"]:
    """Where each token stands in its text, from 0: in its row, or in its segment of the row.

    Args:
      segment_ids: 0 = padding, whose place is 0; None = a row is one text.
      length: L.

    Example:
      >>> places(jnp.array([[1, 1, 2, 2, 2, 0]]), 6).tolist()
      [[0, 1, 0, 1, 2, 0]]
    """
    columns = jnp.arange(length, dtype=jnp.int32)[None]
    if segment_ids is None:
        return columns
    first = lax.cummax(jnp.where(_begins(segment_ids), columns, 0), axis=1)
    return jnp.where(segment_ids == 0, 0, columns - first)


def rows_of_table(
    input_ids: Int[Array, "B L"], segment_ids: Int[Array, "B L"] | None, padding: int | None
) -> Int[Array, "#B L"]:
    """Each token's row in the table of absolute positions.

    Args:
      input_ids: the tokens.
      segment_ids: see `places`.
      padding: None = the row is the token's place. Otherwise the id of tokens that have no
        position: their row is the one of that number, and the others of a text are counted from
        the row after it. The ids decide, not the mask: a token of that id amid a text is not
        counted either.

    Example:
      The tokens of id 1 have no position:

      >>> rows_of_table(jnp.array([[12, 31, 13, 1]]), None, padding=1).tolist()
      [[2, 3, 4, 1]]

    Reference: `create_position_ids_from_input_ids` of transformers' RoBERTa, after fairseq's
    `make_positions`.
    """
    if padding is None:
        return places(segment_ids, input_ids.shape[1])
    counts = (input_ids != padding).astype(jnp.int32)
    if segment_ids is not None:
        counts = jnp.where(segment_ids == 0, 0, counts)
    upto = jnp.cumsum(counts, axis=1, dtype=jnp.int32)
    if segment_ids is not None:
        # What was counted before the segment; it never falls, so its maximum so far is the latest.
        upto = upto - lax.cummax(jnp.where(_begins(segment_ids), upto - counts, 0), axis=1)
    return upto * counts + padding


def _begins(segment_ids: Array) -> Array:
    """[B, L] bool: whether another segment is in the column before."""
    before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return segment_ids != before


def rotate(
    x: Float[Array, "B L N H"], positions: Int[Array, "#B L"], theta: float
) -> Float[Array, "B L N H"]:
    """Turns each pair (x[h], x[h + H/2]) by the angle position * theta^(-2h/H), in float32.

    Scores of turned queries and keys depend on the difference of their positions alone.

    Reference: Su et al. 2021, section 3.2.2; pairs as in transformers' `rotate_half`, where the
    paper's are neighbours.
    """
    half = x.shape[-1] // 2
    frequencies = theta ** -(np.arange(half, dtype=np.float32) / np.float32(half))
    angles = positions[:, :, None].astype(jnp.float32) * frequencies[None, None]
    cos, sin = (f(angles)[:, :, None] for f in (jnp.cos, jnp.sin))
    low, high = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], -1).astype(x.dtype)


def by_distance(values: Float[Array, "*rows P"], length: int) -> Float[Array, "*rows Q"]:
    """[..., Q, L+Q-1 or more] by distance -> [..., Q, L] by column: out[q, k] = values[q, d].

    A relative score is computed once for each distance and laid out for each pair by slices alone,
    for a gather of L x L numbers is slow everywhere: values[q, d] is the score of query q at the
    distance q - k = length - 1 - d.

    Args:
      values: [..., Q, 2L-1], Q = L = length.
      length: L.

    Example:
      >>> distances = jnp.broadcast_to(jnp.arange(2, -3, -1), (3, 5))
      >>> by_distance(distances.astype(float), 3).astype(int).tolist()
      [[0, -1, -2], [1, 0, -1], [2, 1, 0]]

    Reference: the shift of Huang et al. 2018 (Music Transformer), figure 1, both directions.
    """
    *lead, rows, width = values.shape
    # Row q must begin at column length - 1 - q: written one after the other with one number more
    # in each row, the rows move by one each.
    padded = jnp.pad(values, [(0, 0)] * len(lead) + [(0, 0), (0, 1)])
    flat = padded.reshape(*lead, rows * (width + 1))
    shifted = flat[..., length - 1 : length - 1 + rows * width].reshape(*lead, rows, width)
    return shifted[..., :length]


def distances(length: int) -> np.ndarray:
    """[2L-1]: the distance q - k that each of `by_distance`'s numbers is for, the largest first."""
    return np.arange(length - 1, -length, -1)
