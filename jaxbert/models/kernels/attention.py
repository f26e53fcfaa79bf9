"""Attention without its scores in memory, for accelerators: what `attention` uses where it can.

- TPU: a Pallas kernel. Rows of BERT are short, so the scores of a head fit into a core's own
  memory whole: no running softmax, and nothing of size L x L is written anywhere else. The backward
  pass computes them again. Dropout is that of `dropout`, bit for bit.
- NVIDIA: cuDNN's kernel, which has no dropout of this kind and is used where there is none.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jaxbert.models.compute import Compute
from jaxbert.models.dropout import Bits, head_bits, masked

Array = jax.Array

LANES = 128  # a TPU's registers are 8 x 128: a program takes as many heads as fill them
MAX_LENGTH = 512  # of a row: float32 [512, 512] is 1 MiB, and a few are alive at once


class _Static(NamedTuple):
    """What is known when the kernel is compiled."""

    scale: float
    rate: float
    heads: int
    width: int
    compute: Compute
    interpret: bool


def tpu_takes(shape: tuple[Any, ...], compute: Compute) -> bool:
    """Whether `tpu_attention` is for keys of this shape [B, L, N, H]."""
    _, length, heads, width = shape
    fills = LANES % width == 0 and heads * width % LANES == 0
    fits = length <= MAX_LENGTH and length % 16 == 0
    return compute.platform == "tpu" and compute.dtype != "float16" and fills and fits


def tpu_attention(
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
      query, key, value: [B, L, N, H].
      segments: of the queries and of the keys, [B, L] int each; a query sees keys of its own.
      bits: from `token_bits`, [B, L] uint32 each; None = no dropout.
      biases: of query, key and value, [N * H] each, added first; None = none. Their gradients are
        summed where those of the rows are at hand.
      interpret: compute what the kernel says by plain operations, on any device: to test it.

    Returns:
      [B, L, N, H] in `compute.activation_dtype`.

    Reference: Dao et al. 2022 (FlashAttention), for computing scores twice instead of storing them.
    """
    heads, width = query.shape[2:]
    static = _Static(scale, rate, heads, width, compute, interpret)
    none = jnp.zeros(heads * width)
    lines = tuple((none if b is None else b).astype(jnp.float32)[None] for b in biases)
    rows = (x.reshape(*x.shape[:2], -1).astype(compute.operand_dtype) for x in (query, key, value))
    pairs = (segments,) if bits is None else (segments, bits)
    # Queries as columns and keys as lines, which is how they meet in [L, L].
    meets = tuple((asking[:, :, None], answering[:, None, :]) for asking, answering in pairs)
    return _fused(static, *rows, lines, meets).reshape(query.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(
    static: _Static, query: Array, key: Array, value: Array, biases: Any, meets: Any
) -> Array:
    return _forward(static, query, key, value, biases, meets)[0]


def _forward(static: _Static, *inputs: Any) -> tuple[Array, Any]:
    (out,) = _call(_forward_kernel, static, inputs, outputs=1, products=2)
    return out, inputs


def _backward(static: _Static, inputs: Any, g: Array) -> tuple[Any, ...]:
    g = g.astype(static.compute.operand_dtype)
    *rows, biases, meets = inputs
    inputs = (*rows, g, biases, meets)
    *grads, d_query, d_key, d_value = _call(
        _backward_kernel, static, inputs, outputs=3, products=5, sums=3
    )
    return *grads, (d_query, d_key, d_value), None


_fused.defvjp(_forward, _backward)


def _call(
    kernel: Any, static: _Static, inputs: Any, outputs: int, products: int, sums: int = 0
) -> Any:
    """The kernel over a grid of rows and of heads that fill the lanes.

    outputs: arrays like the query. sums: vectors to which every program adds.
    """
    *rows, biases, meets = inputs
    batch, length, features = rows[0].shape
    block = pl.BlockSpec((1, length, LANES), lambda row, group: (row, 0, group))
    column = pl.BlockSpec((1, length, 1), lambda row, group: (row, 0, 0))
    line = pl.BlockSpec((1, 1, length), lambda row, group: (row, 0, 0))
    bias = pl.BlockSpec((1, LANES), lambda row, group: (0, group))
    # All of it for every program: one of some lanes would have to be left and come back to.
    total = pl.BlockSpec((1, features), lambda row, group: (0, 0))
    like = jax.ShapeDtypeStruct(rows[0].shape, static.compute.activation_dtype)
    scores = batch * static.heads * length**2
    moved = (len(rows) + outputs) * rows[0].nbytes
    return pl.pallas_call(
        partial(kernel, static),
        grid=(batch, features // LANES),
        in_specs=[
            *(block for _ in rows),
            tuple(bias for _ in biases),
            tuple((column, line) for _ in meets),
        ],
        out_specs=[block] * outputs + [total] * sums,
        out_shape=[like] * outputs + [jax.ShapeDtypeStruct((1, features), jnp.float32)] * sums,
        cost_estimate=pl.CostEstimate(
            flops=2 * products * scores * static.width, transcendentals=scores, bytes_accessed=moved
        ),
        interpret=static.interpret,
        name=kernel.__name__.strip("_"),
    )(*inputs)


def _forward_kernel(
    static: _Static, query: Any, key: Any, value: Any, biases: Any, meets: Any, out: Any
) -> None:
    for own, head in _heads(static):
        q, k, v = _biased(static, (query, key, value), biases, own)
        probabilities = masked(_probabilities(static, q, k, meets), _bits(meets, head), static.rate)
        out[0, :, own] = _product(static, probabilities, v, 1, 0).astype(out.dtype)


def _backward_kernel(
    static: _Static,
    query: Any,
    key: Any,
    value: Any,
    g: Any,
    biases: Any,
    meets: Any,
    *outputs: Any,
) -> None:
    d_query, d_key, d_value, *sums = outputs
    for own, head in _heads(static):
        q, k, v = _biased(static, (query, key, value), biases, own)
        d_out = g[0, :, own]
        bits = _bits(meets, head)
        probabilities = _probabilities(static, q, k, meets)
        d_probabilities = masked(_product(static, d_out, v, 1, 1), bits, static.rate)
        weighted = probabilities * d_probabilities
        d_scores = weighted - probabilities * weighted.sum(axis=-1, keepdims=True)
        d_q = _product(static, d_scores, k, 1, 0) * static.scale
        d_query[0, :, own] = d_q.astype(d_query.dtype)
        d_key[0, :, own] = _product(static, d_scores, q, 0, 0).astype(d_key.dtype)
        dropped = masked(probabilities, bits, static.rate)
        d_value[0, :, own] = _product(static, dropped, d_out, 0, 0).astype(d_value.dtype)

    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _() -> None:
        for total in sums:
            total[...] = jnp.zeros_like(total)

    lanes = pl.ds(pl.multiple_of(pl.program_id(1) * LANES, LANES), LANES)
    for total, gradient in zip(sums, (d_query, d_key, d_value), strict=True):
        total[:, lanes] += gradient[0].astype(jnp.float32).sum(axis=0, keepdims=True)


def _biased(static: _Static, rows: Any, biases: Any, own: Any) -> Any:
    """Query, key and value [L, H] of a head as its products read them, the query scaled."""
    scales = (static.scale, 1.0, 1.0)
    for x, bias, scale in zip(rows, biases, scales, strict=True):
        added = (x[0, :, own].astype(jnp.float32) + bias[:, own]) * scale
        yield added.astype(static.compute.operand_dtype)


def _heads(static: _Static) -> Any:
    """(its columns of the block, its number) of each head of this program."""
    together = LANES // static.width
    for i in range(together):
        yield pl.ds(i * static.width, static.width), pl.program_id(1) * together + i


def _probabilities(static: _Static, query: Array, key: Array, meets: Any) -> Array:
    """[L, L] float32, before dropout."""
    asking, answering = meets[0]
    scores = _product(static, query, key, 1, 1)
    scores = jnp.where(asking[0] == answering[0], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _bits(meets: Any, head: Array) -> Bits | None:
    if len(meets) == 1:
        return None
    asking, answering = meets[1]
    return head_bits(asking[0], head), answering[0]


def _product(static: _Static, a: Array, b: Array, of_a: int, of_b: int) -> Array:
    """The sum over axis `of_a` of a and `of_b` of b, as float32."""
    dtype = static.compute.operand_dtype
    precision = lax.Precision.HIGHEST if dtype == jnp.float32 else None
    return lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        (((of_a,), (of_b,)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def cudnn_takes(shape: tuple[Any, ...], compute: Compute) -> bool:
    """Whether `cudnn_attention` is for keys of this shape [B, L, N, H]."""
    _, length, _, width = shape
    low = compute.dtype in ("bfloat16", "float16")
    return compute.platform == "gpu" and low and length % 2 == 0 and width % 8 == 0 and width <= 128


def cudnn_attention(
    query: Array, key: Array, value: Array, visible: Array | None, compute: Compute
) -> Array:
    """softmax(query @ key^T) @ value, [B, L, N, H], by cuDNN; without dropout.

    visible: which key each query sees, [B, 1, 1 or L, L] bool; None = all.
    """
    query, key, value = (x.astype(compute.operand_dtype) for x in (query, key, value))
    if visible is not None:
        visible = jnp.broadcast_to(visible, (query.shape[0], 1, query.shape[1], key.shape[1]))
    return jax.nn.dot_product_attention(
        query, key, value, mask=visible, scale=1.0, implementation="cudnn"
    )
