"""Counter-based dropout: a mask is a function of (seed, step, site, token, feature), no more.

No random state is threaded through the model and no mask is stored: the bits are a few integer
operations on an index, so they fuse into the operation that uses them, and the backward pass
computes them again. Because a token's index names the example and the position, never the place in
a batch array, one run draws the same masks padded or packed, on one device or eight, in one large
batch or accumulated from small ones.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_GOLDEN = np.uint32(0x9E3779B9)  # 2^32 / golden ratio: spreads consecutive integers over all bits


class Dropout(NamedTuple):
    """What every dropout site of one forward pass shares.

    key: [] uint32, from `dropout_key`.
    token_index: [B, L] uint32, a number of its own for each token of the global batch.
    first_site: [] uint32, added to the numbers of sites: those of a layer count from its own first.

    Example:
      >>> index = jnp.arange(16, dtype=jnp.uint32).reshape(2, 8)
      >>> state = Dropout(dropout_key(seed=0, step=3), index)
      >>> state.select(jnp.array([[0], [4]])).token_index.tolist()
      [[0], [12]]
    """

    key: jax.Array
    token_index: jax.Array
    first_site: jax.Array | np.uint32 = np.uint32(0)

    def select(self, columns: jax.Array) -> Dropout:
        """For the tokens in `columns` [B, S] of each row only."""
        chosen = jnp.take_along_axis(self.token_index, columns, axis=1)
        return self._replace(token_index=chosen)

    def from_site(self, first: jax.Array | int) -> Dropout:
        """For a part of the network whose own sites count from this one of the whole."""
        return self._replace(first_site=jnp.asarray(first, jnp.uint32))


def mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 in which every input bit changes every output bit about half the time.

    Reference: the two-round multiply-xorshift with the lowest bias in C. Wellons' hash-prospector
    (its README, 2022).
    """
    x = x.astype(jnp.uint32)
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0xD35A2D97)
    return x ^ (x >> 15)


def dropout_key(seed: jax.Array | int, step: jax.Array | int) -> jax.Array:
    """[] uint32: the key of training step `step` of the run with `seed`.

    Example:
      >>> bool(dropout_key(0, 1) == dropout_key(0, 1)), bool(dropout_key(0, 1) == dropout_key(0, 2))
      (True, False)
    """
    return mix(
        mix(jnp.asarray(seed, jnp.uint32) + _GOLDEN) ^ (jnp.asarray(step, jnp.uint32) * _GOLDEN)
    )


@jax.named_scope("dropout")
def dropout(x: jax.Array, rate: float, site: int, state: Dropout | None) -> jax.Array:
    """Zeroes elements of `x` [B, L, D] with probability `rate`, scales the rest by 1 / (1 - rate).

    Args:
      rate: in [0, 1); static.
      site: which dropout this is, counted from `state.first_site`; static.
      state: None for none (evaluation).
    """
    if state is None or rate == 0:
        return x
    features = jnp.expand_dims(feature_bits(x.shape[-1]), range(x.ndim - 1))
    bits = token_bits(site, state)[..., None], features
    return _drop(rate, x, bits)


Bits = tuple[jax.Array, jax.Array]


def attention_bits(heads: int, token_bits: Bits | None) -> Bits | None:
    """For `masked` attention probabilities [B, N, Q, L]: of queries and of keys; None for none.

    token_bits: of queries [B, Q] and of keys [B, L], from `attention_token_bits`.
    """
    if token_bits is None:
        return None
    queries, keys = token_bits
    each_head = jnp.arange(heads, dtype=jnp.uint32)[None, :, None]
    return head_bits(queries[:, None, :], each_head)[..., None], keys[:, None, None, :]


def attention_token_bits(
    rate: float, site: int, state: Dropout | None, columns: jax.Array | None = None
) -> Bits | None:
    """What `attention_bits` makes bits of each head of: of queries [B, Q] and of keys [B, L].

    columns: [B, Q], which tokens of their rows ask; None = all.
    """
    if state is None or rate == 0:
        return None
    asking = state if columns is None else state.select(columns)
    return token_bits(site, asking), mix(state.token_index)


def head_bits(queries: jax.Array, head: jax.Array) -> jax.Array:
    """The bits of queries for the head of that number; they broadcast."""
    return mix(queries ^ mix(head.astype(jnp.uint32) * _GOLDEN))


def token_bits(site: int, state: Dropout) -> jax.Array:
    """[B, L] uint32: bits of each token for a site, counted from `state.first_site`."""
    number = jnp.uint32(site) + jnp.asarray(state.first_site, jnp.uint32)
    site_key = mix(state.key + number * _GOLDEN)
    return mix(site_key ^ mix(state.token_index))


def feature_bits(size: int) -> jax.Array:
    """[D] uint32: bits of each feature, the same for every site."""
    return mix(jnp.arange(size, dtype=jnp.uint32) * _GOLDEN)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _drop(rate: float, x: jax.Array, bits: Bits) -> jax.Array:
    return masked(x, bits, rate)


def masked(x: jax.Array, bits: Bits | None, rate: float) -> jax.Array:
    """Drops by bits of rows and columns that broadcast to x; not to be differentiated."""
    if bits is None:
        return x
    keep = mix(bits[0] ^ bits[1]) < jnp.uint32(min(round((1 - rate) * 2**32), 2**32 - 1))
    return jnp.where(keep, x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros((), x.dtype))


def _drop_forward(rate: float, x: jax.Array, bits: Bits) -> tuple[jax.Array, Bits]:
    return masked(x, bits, rate), bits


def _drop_backward(rate: float, bits: Bits, g: jax.Array) -> tuple[jax.Array, None]:
    return masked(g, recomputed(bits), rate), None


def recomputed(bits: Bits | None) -> Bits | None:
    """The same bits, for the backward pass.

    Without the barrier the compiler sees the same expression in both passes, computes it once and
    stores it: a mask as large as the activations, read back from memory.
    """
    return lax.optimization_barrier(bits)


_drop.defvjp(_drop_forward, _drop_backward)
