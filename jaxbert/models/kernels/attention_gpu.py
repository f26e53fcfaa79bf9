"""Attention without its scores in memory on GPUs, with the dropout that is everywhere else.

A Pallas kernel that is compiled by Triton: a block of queries meets the keys of its row block by
block, with a running softmax, so that nothing of size L x L is written. The backward pass computes
the scores again, once for the gradient of the queries and once for that of keys and values. Query,
key and value are one array, as one product makes them, and so are their gradients; their biases are
added and their biases' gradients summed where the rows are at hand. cuDNN's own kernel is faster
where there is no dropout; its dropout would depend on a row's place in the batch.

Reference: Dao 2023 (FlashAttention-2), section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jaxbert.models.compute import Compute
from jaxbert.models.dropout import Bits, head_bits, masked
from jaxbert.models.kernels.attention import block_product

try:
    from jax.experimental.pallas import triton
except ImportError:  # JAX 0.12 deprecates it; without it GPUs take plain products again
    triton = None  # type: ignore[assignment]

Array = jax.Array

BLOCK, LEAST = 64, 16  # tokens of a block: Triton wants a power of two, and 16 for a product
LOWEST = float(jnp.finfo(jnp.float32).min)


class _Static(NamedTuple):
    """What is known when the kernel is compiled. block: tokens that are taken at a time."""

    scale: float
    rate: float
    heads: int
    block: int
    compute: Compute
    interpret: bool


def gpu_takes(shape: tuple[Any, ...], compute: Compute) -> bool:
    """Whether `gpu_attention` is for keys of this shape [B, L, N, H]."""
    _, length, _, width = shape
    low = compute.dtype in ("bfloat16", "float16")
    fits = length % LEAST == 0 and LEAST <= width <= 128 and width & (width - 1) == 0
    return triton is not None and compute.platform == "gpu" and low and fits


def gpu_attention(
    query: Array,
    key: Array,
    value: Array,
    segments: tuple[Array, Array],
    bits: Bits | None,
    biases: tuple[Array | None, ...] = (None, None, None),
    *,
    scale: float = 1.0,
    rate: float,
    compute: Compute,
    interpret: bool = False,
) -> Array:
    """softmax(query @ key^T * scale) @ value for each head, with dropout on the probabilities.

    Args:
      query, key, value: [B, L, N, H], L of whole blocks of LEAST; parts of one array cost no copy.
      segments: of the queries and of the keys, [B, L] int each; a query sees keys of its own, and
        all equally where there is none.
      bits: from `attention_token_bits`, [B, L] uint32 each; None = no dropout.
      biases: of query, key and value, [N * H] each, added first; None = none.
      interpret: compute what the kernel says by plain operations, on any device: to test it.

    Returns:
      [B, L, N, H] in `compute.activation_dtype`.
    """
    batch, length, heads, width = query.shape
    block = min(BLOCK, length & -length)  # the largest power of two that divides it
    static = _Static(scale, rate, heads, block, compute, interpret)
    # The compiler sees that the parts of an array, side by side again, are the array.
    flat = (x.reshape(batch, length, -1) for x in (query, key, value))
    rows = jnp.concatenate([x.astype(compute.operand_dtype) for x in flat], axis=-1)
    none = jnp.zeros(heads * width)
    lines = [(none if own is None else own).astype(jnp.float32) for own in biases]
    pairs = segments if bits is None else (*segments, *bits)
    return _fused(
        static,
        rows.reshape(batch, length, 3 * heads, width),
        jnp.concatenate(lines).reshape(3 * heads, width),
        pairs,
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(static: _Static, rows: Array, biases: Array, pairs: Any) -> Array:
    return _forward(static, rows, biases, pairs)[0]


def _forward(static: _Static, rows: Array, biases: Array, pairs: Any) -> tuple[Array, Any]:
    batch, length, _, width = rows.shape
    out = jax.ShapeDtypeStruct(
        (batch, length, static.heads, width), static.compute.activation_dtype
    )
    line = jax.ShapeDtypeStruct((batch, static.heads, length), jnp.float32)
    found, *softmax = _call(_forward_kernel, static, (rows, biases, pairs), (out, line, line))
    return found, (rows, biases, pairs, found, *softmax)


def _backward(static: _Static, residuals: Any, g: Array) -> tuple[Any, ...]:
    rows, biases, pairs, out, *softmax = residuals
    # The sum over keys of probability * its gradient, by way of the output: H terms and not L.
    mean = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1).swapaxes(1, 2)
    inputs = (rows, biases, pairs, g.astype(rows.dtype), *softmax, mean)
    batch, length = rows.shape[:2]
    sums = (batch, length // static.block, *biases.shape)
    outputs = (
        jax.ShapeDtypeStruct(rows.shape, rows.dtype),
        jax.ShapeDtypeStruct(sums, jnp.float32),
    )
    d_rows, d_biases = _call(_backward_kernel, static, inputs, outputs)
    return d_rows, d_biases.sum(axis=(0, 1)), None


_fused.defvjp(_forward, _backward)


def _call(
    kernel: Any, static: _Static, inputs: Any, outputs: tuple[jax.ShapeDtypeStruct, ...]
) -> Any:
    """The kernel over a grid of blocks of a row, heads and rows; of arrays it has all."""
    batch, length = inputs[0].shape[:2]
    return pl.pallas_call(
        partial(kernel, static),
        grid=(length // static.block, static.heads, batch),
        out_shape=outputs,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=static.interpret,
        name=f"attention{kernel.__name__}",
    )(*inputs)


def _forward_kernel(
    static: _Static, rows: Any, biases: Any, pairs: Any, out: Any, highest: Any, total: Any
) -> None:
    this = _Program(static, rows, biases, pairs)
    q = this.query(this.own)

    def meet(keys: Any, carry: Any) -> Any:
        found, high, weights = carry
        scores, _ = this.scores(q, this.key(keys), this.own, keys)
        higher = jnp.maximum(high, scores.max(axis=1))
        again, new = jnp.exp(high - higher), jnp.exp(scores - higher[:, None])
        dropped = masked(new, this.bits(this.own, keys), static.rate)
        found = found * again[:, None] + this.product(dropped, this.value(keys), 1, 0)
        return found, higher, weights * again + new.sum(axis=1)

    nothing = jnp.zeros(q.shape, jnp.float32)
    start = nothing, jnp.full(static.block, LOWEST), jnp.zeros(static.block)
    found, high, weights = this.over_blocks(meet, start)
    row, head = this.row, this.head
    out[row, this.own, head, :] = (found / weights[:, None]).astype(out.dtype)
    highest[row, head, this.own], total[row, head, this.own] = high, weights


def _backward_kernel(
    static: _Static,
    rows: Any,
    biases: Any,
    pairs: Any,
    g: Any,
    highest: Any,
    total: Any,
    mean: Any,
    d_rows: Any,
    d_biases: Any,
) -> None:
    this = _Program(static, rows, biases, pairs)
    nothing = jnp.zeros((static.block, rows.shape[-1]), jnp.float32)

    def again(asking: Any, keys: Any) -> tuple[Array, Array, Array, Array, Array]:
        """(queries, keys, gradients of the output, dropped probabilities, d_scores) of a block."""
        q, k = this.query(asking), this.key(keys)
        d_out = g[this.row, asking, this.head, :]
        scores, seen = this.scores(q, k, asking, keys)
        high, weights, along = (
            line[this.row, this.head, asking][:, None] for line in (highest, total, mean)
        )
        probabilities = jnp.exp(scores - high) / weights
        bits = this.bits(asking, keys)
        d_probabilities = masked(this.product(d_out, this.value(keys), 1, 1), bits, static.rate)
        d_scores = jnp.where(seen, probabilities * (d_probabilities - along), 0)
        return q, k, d_out, masked(probabilities, bits, static.rate), d_scores

    def ask(keys: Any, found: Array) -> Array:
        _, k, _, _, d_scores = again(this.own, keys)
        return found + this.product(d_scores, k, 1, 0)

    def answer(asking: Any, carry: Any) -> Any:
        of_key, of_value = carry
        q, _, d_out, dropped, d_scores = again(asking, this.own)
        of_key = of_key + this.product(d_scores, q, 0, 0)
        return of_key, of_value + this.product(dropped, d_out, 0, 0)

    d_query = this.over_blocks(ask, nothing) * static.scale
    for part, found in enumerate((d_query, *this.over_blocks(answer, (nothing, nothing)))):
        place = part * static.heads + this.head
        d_rows[this.row, this.own, place, :] = found.astype(d_rows.dtype)
        d_biases[this.row, this.block, place, :] = found.sum(axis=0)


class _Program:
    """What one program has: of one row and head all tokens, of which a block is its own.

    Blocks of tokens are slices; their queries, keys and values are [block, H].
    """

    def __init__(self, static: _Static, rows: Any, biases: Any, pairs: Any) -> None:
        self.static, self.rows, self.biases, self.pairs = static, rows, biases, pairs
        self.block, self.head, self.row = (pl.program_id(axis) for axis in range(3))
        self.own = pl.ds(self.block * static.block, static.block)

    def query(self, tokens: Any) -> Array:
        """Scaled, as products read it."""
        return self._biased(tokens, 0, self.static.scale)

    def key(self, tokens: Any) -> Array:
        """As products read it."""
        return self._biased(tokens, 1)

    def value(self, tokens: Any) -> Array:
        """As products read it."""
        return self._biased(tokens, 2)

    def _biased(self, tokens: Any, part: int, scale: float = 1.0) -> Array:
        place = part * self.static.heads + self.head
        x = self.rows[self.row, tokens, place, :].astype(jnp.float32)
        added = (x + self.biases[place, :][None]) * scale
        return added.astype(self.static.compute.operand_dtype)

    def scores(self, q: Array, k: Array, asking: Any, keys: Any) -> tuple[Array, Array]:
        """(scores, whether the key is seen) of queries with a block of keys."""
        of_queries, of_keys = (
            segments[self.row, tokens]
            for segments, tokens in zip(self.pairs[:2], (asking, keys), strict=True)
        )
        seen = of_queries[:, None] == of_keys[None, :]
        return jnp.where(seen, self.product(q, k, 1, 1), LOWEST), seen

    def bits(self, asking: Any, keys: Any) -> Bits | None:
        """Of the dropout on the probabilities of a block."""
        if len(self.pairs) == 2:
            return None
        of_queries = head_bits(self.pairs[2][self.row, asking], self.head)
        return of_queries[:, None], self.pairs[3][self.row, keys][None, :]

    def product(self, a: Array, b: Array, of_a: int, of_b: int) -> Array:
        """See `block_product`."""
        return block_product(self.static.compute, a, b, of_a, of_b)

    def over_blocks(self, meet: Callable[[Any, Any], Any], start: Any) -> Any:
        """Goes through the row, block by block."""
        size = self.static.block

        def step(i: Any, carry: Any) -> Any:
            return meet(pl.ds(i * size, size), carry)

        return lax.fori_loop(0, self.rows.shape[1] // size, step, start)
