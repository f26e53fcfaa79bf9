"""Attention without its scores in memory, for accelerators: what `attention` uses where it can.

- TPU: a Pallas kernel. Rows of BERT are short, so the scores of a head fit into a core's own
  memory whole: no running softmax, and nothing of size L x L is written anywhere else. The backward
  pass computes them again. Dropout is that of `dropout`, bit for bit.
- NVIDIA: cuDNN's kernel, which has no dropout of this kind and is used where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
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
SUBLANES = 8
MAX_LENGTH = 512  # of a row: float32 [512, 512] is 1 MiB, and a few are alive at once
# Of short rows it takes more, up to all: what a head waits for, others compute meanwhile.
SHORT, BLOCK_SIZE = 256, 2**18  # tokens; elements of a block, 512 KiB of bfloat16


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
    meets = tuple((asking[:, None], answering[:, None]) for asking, answering in pairs)
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
    lanes = _lanes(length, features)
    block = pl.BlockSpec((1, length, lanes), lambda row, part: (row, 0, part))
    line = pl.BlockSpec((1, 1, length), lambda row, part: (row, 0, 0))
    bias = pl.BlockSpec((1, lanes), lambda row, part: (0, part))
    # All of it for every program: one of some lanes would have to be left and come back to.
    total = pl.BlockSpec((1, features), lambda row, part: (0, 0))
    like = jax.ShapeDtypeStruct(rows[0].shape, static.compute.activation_dtype)
    scores = batch * static.heads * length**2
    moved = (len(rows) + outputs) * rows[0].nbytes
    return pl.pallas_call(
        partial(kernel, static),
        grid=(batch, features // lanes),
        in_specs=[
            *(block for _ in rows),
            tuple(bias for _ in biases),
            tuple((line, line) for _ in meets),
        ],
        out_specs=[block] * outputs + [total] * sums,
        out_shape=[like] * outputs + [jax.ShapeDtypeStruct((1, features), jnp.float32)] * sums,
        cost_estimate=pl.CostEstimate(
            flops=2 * products * scores * static.width, transcendentals=scores, bytes_accessed=moved
        ),
        interpret=static.interpret,
        name=kernel.__name__.strip("_"),
    )(*inputs)


def _lanes(length: int, features: int) -> int:
    """Of a program: those of one register, or for short rows as many as fit that divide all."""
    groups = features // LANES
    fits = BLOCK_SIZE // (length * LANES) if length <= SHORT else 1
    return LANES * max(n for n in range(1, groups + 1) if groups % n == 0 and n <= max(1, fits))


# Scores are held as [keys, queries]: what there is one of for each query, as the sum of its
# softmax, then fills the lanes of a register, not one lane of many registers, and two of the
# backward pass's three sums over tokens need nothing turned around. The heads of a program stay
# side by side: a product with the others' lanes set to zero takes no longer than one of few lanes.


def _forward_kernel(
    static: _Static, query: Any, key: Any, value: Any, biases: Any, meets: Any, out: Any
) -> None:
    seen, key_bits = _pairs(meets)
    for group, at in _groups(query):
        q, k, v = _biased(static, (query, key, value), biases, at)
        found = jnp.zeros(q.shape, jnp.float32)
        for own, head in _heads(static, group):
            bits = _bits(meets, key_bits, head)
            probabilities = masked(_probabilities(static, q, k, own, seen), bits, static.rate)
            found = jnp.where(own, block_product(static.compute, probabilities, v, 0, 0), found)
        out[0, :, at] = found.astype(out.dtype)


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
    *grads, d_query, d_key, d_value = outputs
    seen, key_bits = _pairs(meets)

    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _() -> None:
        for total in (d_query, d_key, d_value):
            total[...] = jnp.zeros_like(total)

    for group, at in _groups(query):
        q, k, v = _biased(static, (query, key, value), biases, at)
        d_out = g[0, :, at]
        found = [jnp.zeros(q.shape, jnp.float32)] * 3
        for own, head in _heads(static, group):
            bits = _bits(meets, key_bits, head)
            of_head = _gradients(static, (q, k, v, d_out), own, seen, bits)
            found = [jnp.where(own, new, old) for new, old in zip(of_head, found, strict=True)]
        lanes = pl.ds(pl.multiple_of(group * LANES, LANES), LANES)
        for ref, total, gradient in zip(grads, (d_query, d_key, d_value), found, strict=True):
            ref[0, :, at] = gradient.astype(ref.dtype)
            total[:, lanes] += gradient.sum(axis=0, keepdims=True)


def _gradients(
    static: _Static, rows: tuple[Array, ...], own: Array, seen: Array, bits: Bits | None
) -> tuple[Array, Array, Array]:
    """Of query, key and value [L, LANES], right in the lanes of one head."""
    q, k, v, d_out = rows
    probabilities = _probabilities(static, q, k, own, seen)
    d_dropped = block_product(static.compute, jnp.where(own, v, jnp.zeros_like(v)), d_out, 1, 1)
    d_probabilities = masked(d_dropped, bits, static.rate)
    mean = (probabilities * d_probabilities).sum(axis=0, keepdims=True)
    d_scores = probabilities * (d_probabilities - mean)
    dropped = masked(probabilities, bits, static.rate)
    return (
        block_product(static.compute, d_scores, k, 0, 0) * static.scale,
        block_product(static.compute, d_scores, q, 1, 0),
        block_product(static.compute, dropped, d_out, 1, 0),
    )


def _groups(query: Any) -> Iterator[tuple[Any, slice]]:
    """(the number among all; its lanes in this program's block) of each register of lanes."""
    groups = query.shape[-1] // LANES
    for i in range(groups):
        yield pl.program_id(1) * groups + i, slice(i * LANES, (i + 1) * LANES)


def _biased(static: _Static, rows: Any, biases: Any, at: slice) -> Any:
    """Query, key and value [L, LANES] of some lanes as products read them, the query scaled."""
    scales = (static.scale, 1.0, 1.0)
    for x, bias, scale in zip(rows, biases, scales, strict=True):
        added = (x[0, :, at].astype(jnp.float32) + bias[:, at]) * scale
        yield added.astype(static.compute.operand_dtype)


def _heads(static: _Static, group: Any) -> Any:
    """(which lanes are its own, [1, LANES]; its number) of each head of a register."""
    together, lane = LANES // static.width, lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    for i in range(together):
        own = (lane >= i * static.width) & (lane < (i + 1) * static.width)
        yield own, group * together + i


def _pairs(meets: Any) -> tuple[Array, Array | None]:
    """What all heads share: (which keys the queries see, [L, L]; the bits of the keys, [L, 1])."""
    asking, answering = meets[0]
    seen = _column(answering[0]) == asking[0]
    return seen, _column(meets[1][1][0]) if len(meets) > 1 else None


def _column(line: Array) -> Array:
    """[1, L] -> [L, 1]."""
    return jnp.broadcast_to(line, (SUBLANES, line.shape[1])).T[:, :1]


def _probabilities(static: _Static, query: Array, key: Array, own: Array, seen: Array) -> Array:
    """[keys, queries] float32 of the head with these lanes, before dropout."""
    scores = block_product(static.compute, key, jnp.where(own, query, jnp.zeros_like(query)), 1, 1)
    scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - scores.max(axis=0, keepdims=True))
    return weights * (1 / weights.sum(axis=0, keepdims=True))


def _bits(meets: Any, key_bits: Array | None, head: Array) -> Bits | None:
    return None if key_bits is None else (head_bits(meets[1][0][0], head), key_bits)


def block_product(compute: Compute, a: Array, b: Array, of_a: int, of_b: int) -> Array:
    """In a kernel: the sum over axis `of_a` of a and `of_b` of b, as float32."""
    dtype = compute.operand_dtype
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
