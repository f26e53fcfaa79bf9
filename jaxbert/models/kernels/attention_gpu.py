"""Attention without its scores in memory on GPUs, with the dropout that is everywhere else.

A Pallas kernel that is compiled by Triton: a block of queries meets the keys of its row block by
block, with a running softmax, so that nothing of size L x L is written. The backward pass computes
the scores again, once for the gradient of the queries and once for that of keys and values. cuDNN's
own kernel is faster where there is no dropout; its dropout would depend on a row's place in the
batch.

Reference: Dao 2023 (FlashAttention-2), section 3.1, and its backward pass in two kernels.
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

    rate: float
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
    *,
    rate: float,
    compute: Compute,
    interpret: bool = False,
) -> Array:
    """softmax(query @ key^T) @ value for each head, with dropout on the probabilities.

    Args:
      query, key, value: [B, L, N, H], L of whole blocks of LEAST; the query is scaled.
      segments: of the queries and of the keys, [B, L] int each; a query sees keys of its own, and
        all equally where there is none.
      bits: from `attention_token_bits`, [B, L] uint32 each; None = no dropout.
      interpret: compute what the kernel says by plain operations, on any device: to test it.

    Returns:
      [B, L, N, H] in `compute.activation_dtype`.
    """
    length = query.shape[1]
    block = min(BLOCK, length & -length)  # the largest power of two that divides it
    static = _Static(rate, block, compute, interpret)
    rows = (x.astype(compute.operand_dtype) for x in (query, key, value))
    pairs = segments if bits is None else (*segments, *bits)
    return _fused(static, *rows, pairs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(static: _Static, query: Array, key: Array, value: Array, pairs: Any) -> Array:
    return _forward(static, query, key, value, pairs)[0]


def _forward(static: _Static, *inputs: Any) -> tuple[Array, Any]:
    query, *_ = inputs
    batch, length, heads, _ = query.shape
    line = jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)
    like = jax.ShapeDtypeStruct(query.shape, static.compute.activation_dtype)
    out, *softmax = _call(_forward_kernel, static, inputs, (like, line, line))
    return out, (*inputs, out, *softmax)


def _backward(static: _Static, residuals: Any, g: Array) -> tuple[Any, ...]:
    query, key, value, pairs, out, *softmax = residuals
    # The sum over keys of probability * its gradient, by way of the output: H terms and not L.
    mean = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1).swapaxes(1, 2)
    inputs = (query, key, value, g.astype(query.dtype), *softmax, mean, pairs)
    like = jax.ShapeDtypeStruct(query.shape, query.dtype)
    (d_query,) = _call(_query_kernel, static, inputs, (like,))
    return d_query, *_call(_key_kernel, static, inputs, (like, like)), None


_fused.defvjp(_forward, _backward)


def _call(
    kernel: Any, static: _Static, inputs: Any, outputs: tuple[jax.ShapeDtypeStruct, ...]
) -> Any:
    """The kernel over a grid of blocks of a row, heads and rows.

    Inputs are whole rows of a head, of which a program reads what it wants; outputs are its block:
    [B, L, N, H], or [B, N, L] where there is one number for each query of a head.
    """
    batch, length, heads, width = inputs[0].shape

    def whole(x: Array) -> pl.BlockSpec:
        if x.ndim == 4:
            return pl.BlockSpec((None, length, None, width), lambda i, n, b: (b, 0, n, 0))
        if x.ndim == 3:
            return pl.BlockSpec((None, None, length), lambda i, n, b: (b, n, 0))
        return pl.BlockSpec((None, length), lambda i, n, b: (b, 0))

    def part(shape: tuple[int, ...]) -> pl.BlockSpec:
        if len(shape) == 4:
            return pl.BlockSpec((None, static.block, None, width), lambda i, n, b: (b, i, n, 0))
        return pl.BlockSpec((None, None, static.block), lambda i, n, b: (b, n, i))

    return pl.pallas_call(
        partial(kernel, static),
        grid=(length // static.block, heads, batch),
        in_specs=jax.tree.map(whole, inputs),
        out_specs=[part(output.shape) for output in outputs],
        out_shape=outputs,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=static.interpret,
        name=f"attention{kernel.__name__}",
    )(*inputs)


def _forward_kernel(
    static: _Static,
    query: Any,
    key: Any,
    value: Any,
    pairs: Any,
    out: Any,
    highest: Any,
    total: Any,
) -> None:
    own, head = _own(static)
    q = query[own, :]

    def meet(keys: Any, carry: Any) -> Any:
        found, high, weights = carry
        scores, _ = _scores(static, q, key, own, keys, pairs)
        higher = jnp.maximum(high, scores.max(axis=1))
        again, new = jnp.exp(high - higher), jnp.exp(scores - higher[:, None])
        dropped = masked(new, _bits(pairs, own, keys, head), static.rate)
        found = found * again[:, None] + block_product(
            static.compute, dropped, value[keys, :], 1, 0
        )
        return found, higher, weights * again + new.sum(axis=1)

    nothing = jnp.zeros(q.shape, jnp.float32)
    start = nothing, jnp.full(static.block, LOWEST), jnp.zeros(static.block)
    found, highest[...], weights = _over_blocks(static, key, meet, start)
    total[...], out[...] = weights, (found / weights[:, None]).astype(out.dtype)


def _query_kernel(static: _Static, query: Any, key: Any, *rest: Any) -> None:
    *others, d_query = rest
    own, head = _own(static)

    def meet(keys: Any, found: Array) -> Array:
        _, d_scores = _again(static, (query, key, *others), own, keys, head)
        return found + block_product(static.compute, d_scores, key[keys, :], 1, 0)

    found = _over_blocks(static, key, meet, jnp.zeros(d_query.shape, jnp.float32))
    d_query[...] = found.astype(d_query.dtype)


def _key_kernel(static: _Static, query: Any, key: Any, value: Any, g: Any, *rest: Any) -> None:
    *others, d_key, d_value = rest
    own, head = _own(static)

    def meet(asking: Any, carry: Any) -> Any:
        of_key, of_value = carry
        dropped, d_scores = _again(static, (query, key, value, g, *others), asking, own, head)
        of_key = of_key + block_product(static.compute, d_scores, query[asking, :], 0, 0)
        return of_key, of_value + block_product(static.compute, dropped, g[asking, :], 0, 0)

    nothing = jnp.zeros(d_key.shape, jnp.float32)
    of_key, of_value = _over_blocks(static, query, meet, (nothing, nothing))
    d_key[...] = of_key.astype(d_key.dtype)
    d_value[...] = of_value.astype(d_value.dtype)


def _again(
    static: _Static, inputs: Any, asking: Any, keys: Any, head: Array
) -> tuple[Array, Array]:
    """(the dropped probabilities, the gradient of the scores) of a block, [queries, keys] each."""
    query, key, value, g, highest, total, mean, pairs = inputs
    scores, seen = _scores(static, query[asking, :], key, asking, keys, pairs)
    probabilities = jnp.exp(scores - highest[asking][:, None]) / total[asking][:, None]
    bits = _bits(pairs, asking, keys, head)
    d_dropped = block_product(static.compute, g[asking, :], value[keys, :], 1, 1)
    d_probabilities = masked(d_dropped, bits, static.rate)
    d_scores = probabilities * (d_probabilities - mean[asking][:, None])
    return masked(probabilities, bits, static.rate), jnp.where(seen, d_scores, 0)


def _scores(
    static: _Static, q: Array, key: Any, asking: Any, keys: Any, pairs: Any
) -> tuple[Array, Array]:
    """(scores, whether the key is seen) of queries `q` with a block of keys."""
    seen = pairs[0][asking][:, None] == pairs[1][keys][None, :]
    return jnp.where(seen, block_product(static.compute, q, key[keys, :], 1, 1), LOWEST), seen


def _bits(pairs: Any, asking: Any, keys: Any, head: Array) -> Bits | None:
    if len(pairs) == 2:
        return None
    of_queries = head_bits(pairs[2][asking], head)
    return of_queries[:, None], pairs[3][keys][None, :]


def _own(static: _Static) -> tuple[Any, Array]:
    """(the tokens of this program's block, its head)."""
    return pl.ds(pl.program_id(0) * static.block, static.block), pl.program_id(1)


def _over_blocks(static: _Static, row: Any, meet: Callable[[Any, Any], Any], start: Any) -> Any:
    """Goes through a row [L, H], block by block."""

    def step(i: Any, carry: Any) -> Any:
        return meet(pl.ds(i * static.block, static.block), carry)

    return lax.fori_loop(0, row.shape[0] // static.block, step, start)
