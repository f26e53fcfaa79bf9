"""Bias, dropout, residual sum and LayerNorm as one Pallas kernel, there and back; that for TPUs.

By itself the compiler makes a dozen passes of them and draws the mask twice in each direction. Here
a block of rows is read once and written once: statistics and sums are float32 in registers, the
dropout is that of `dropout`, bit for bit, and the gradients of the three vectors add up in the
chip's memory while the rows go by. The sum before the norm is all that the backward pass needs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jaxbert.models.compute import Compute
from jaxbert.models.dropout import feature_bits, masked

Array = jax.Array

LANES, SUBLANES = 128, 8  # of a float32 register
CHUNK = 16  # rows at a time: whole registers of bfloat16, and few enough that none spills
BLOCK_ROWS, BLOCK_SIZE = 256, 2**18  # of an array in the chip's memory: 1 MiB of float32
WIDEST = 4096


Bits: TypeAlias = tuple[()] | tuple[Array, Array]  # of tokens [R, 1] and features [1, D], or none
Call: TypeAlias = Callable[..., Any]


class Vectors(NamedTuple):
    """What is added to the branch, and the norm's own: [1, D] float32 each."""

    bias: Array
    scale: Array
    shift: Array


class Static(NamedTuple):
    """What is known when a kernel is compiled. rows, width: of the arrays, [R, D].

    call: runs the kernels of a platform: `_call` here.
    """

    rate: float
    epsilon: float
    rows: int
    width: int
    compute: Compute
    interpret: bool
    call: Call

    @property
    def block(self) -> int:
        """Rows of a program, whole chunks; the last program's may be beyond the arrays' end."""
        most = min(BLOCK_ROWS, BLOCK_SIZE // self.width // CHUNK * CHUNK)
        return min(most, pl.cdiv(self.rows, CHUNK) * CHUNK)


def tpu_norm_takes(width: int, compute: Compute) -> bool:
    """Whether `tpu_add_and_norm` is for arrays [..., D] of that width."""
    fits = width % LANES == 0 and width <= WIDEST
    return compute.platform == "tpu" and compute.dtype != "float16" and fits


def add_and_norm_by(
    call: Call,
    x: Array,
    branch: Array,
    vectors: Vectors,
    bits: Array | None,
    *,
    rate: float,
    epsilon: float,
    compute: Compute,
    interpret: bool = False,
) -> Array:
    """LayerNorm(x + dropout(branch + bias)).

    Args:
      call: what runs the kernels.
      x, branch: [..., D].
      bits: from `token_bits`, [...] uint32; None = no dropout.
      interpret: compute what the kernels say by plain operations, on any device: to test them.

    Returns:
      [..., D] in `compute.activation_dtype`.
    """
    width = x.shape[-1]
    arrays = [a.reshape(-1, width).astype(compute.activation_dtype) for a in (x, branch)]
    static = Static(rate, epsilon, len(arrays[0]), width, compute, interpret, call)
    pair = () if bits is None else (bits.reshape(-1, 1), feature_bits(width)[None])
    return _fused(static, *arrays, vectors, pair).reshape(x.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(static: Static, x: Array, branch: Array, vectors: Vectors, bits: Bits) -> Array:
    (out,) = static.call(static, (x, branch), vectors, bits, outputs=1)
    return out


def _forward(static: Static, x: Array, branch: Array, vectors: Vectors, bits: Bits) -> Any:
    out, total = static.call(static, (x, branch), vectors, bits, outputs=2)
    return out, (total, vectors, bits)


def _backward(static: Static, residuals: Any, g: Array) -> tuple[Any, ...]:
    total, vectors, bits = residuals
    # Where nothing is dropped both terms of the sum have the same gradient.
    count = 2 if bits else 1
    *grads, d_bias, d_scale, d_shift = static.call(
        static, (total, g), vectors, bits, outputs=count, backward=True
    )
    return grads[0], grads[-1], Vectors(d_bias, d_scale, d_shift), None


_fused.defvjp(_forward, _backward)


def _call(
    static: Static,
    arrays: tuple[Array, ...],
    vectors: Vectors,
    bits: Bits,
    *,
    outputs: int,
    backward: bool = False,
) -> Any:
    """A kernel over a grid of blocks of rows.

    Args:
      outputs: arrays like the first.
      backward: whether it is the backward pass, which returns the vectors' gradients after them:
        every program adds to these.
    """
    kernel, sums = (_backward_kernel, 3) if backward else (_forward_kernel, 0)
    rows = pl.BlockSpec((static.block, static.width), lambda i: (i, 0))
    column = pl.BlockSpec((static.block, 1), lambda i: (i, 0))
    line = pl.BlockSpec((1, static.width), lambda i: (0, 0))
    like = jax.ShapeDtypeStruct(arrays[0].shape, static.compute.activation_dtype)
    total = jax.ShapeDtypeStruct((1, static.width), jnp.float32)
    return pl.pallas_call(
        partial(kernel, static),
        grid=(pl.cdiv(static.rows, static.block),),
        in_specs=[
            *(rows for _ in arrays),
            (line, line, line),
            (column, line) if bits else (),
        ],
        out_specs=[rows] * outputs + [line] * sums,
        out_shape=[like] * outputs + [total] * sums,
        # FLOPs are those of products, of which there are none.
        cost_estimate=pl.CostEstimate(
            flops=0,
            transcendentals=static.rows,
            bytes_accessed=sum(a.nbytes for a in arrays) + outputs * arrays[0].nbytes,
        ),
        interpret=static.interpret,
        name=kernel.__name__.strip("_").replace("kernel", "norm"),
    )(*arrays, tuple(vectors), bits)


tpu_add_and_norm = partial(add_and_norm_by, _call)


def _forward_kernel(
    static: Static, x: Any, branch: Any, vectors: Any, bits: Any, out: Any, *kept: Any
) -> None:
    bias, scale, shift = (line[...] for line in vectors)

    def chunk(at: Any, carry: tuple[()]) -> tuple[()]:
        dropped = _dropped(static, _float32(branch[at]) + bias, bits, at)
        # Rounded before the statistics are taken, for the backward pass takes them again.
        total = (_float32(x[at]) + dropped).astype(static.compute.activation_dtype)
        for ref in kept:
            ref[at] = total
        normalized, _ = _normalized(static, _float32(total))
        out[at] = (normalized * scale + shift).astype(out.dtype)
        return carry

    _over_chunks(static, chunk, ())


def _backward_kernel(
    static: Static, total: Any, g: Any, vectors: Any, bits: Any, *outputs: Any
) -> None:
    scale = vectors[1]
    *grads, d_bias, d_scale, d_shift = outputs
    first = pl.program_id(0) * static.block

    @pl.when(first == 0)
    def _() -> None:
        for sum_of in (d_bias, d_scale, d_shift):
            sum_of[...] = jnp.zeros_like(sum_of)

    def chunk(at: Any, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        normalized, inverse = _normalized(static, _float32(total[at]))
        own = _float32(g[at])
        scaled = own * scale[...]
        along = _mean(normalized * scaled)
        d_total = inverse * (scaled - _mean(scaled) - normalized * along)
        dropped = _dropped(static, d_total, bits, at)
        for ref, gradient in zip(grads, (d_total, dropped), strict=False):
            ref[at] = gradient.astype(ref.dtype)
        terms = dropped, own * normalized, own
        real = (_real_rows(static, term, first + at.start) for term in terms)
        # Whole registers are added; what is left to do within them is done once a program.
        folded = (term.reshape(-1, SUBLANES, static.width).sum(axis=0) for term in real)
        return tuple(a + b for a, b in zip(sums, folded, strict=True))

    zeros = jnp.zeros((SUBLANES, static.width), jnp.float32)
    sums = _over_chunks(static, chunk, (zeros, zeros, zeros))
    for ref, folded in zip((d_bias, d_scale, d_shift), sums, strict=True):
        ref[...] += folded.sum(axis=0, keepdims=True)


def _over_chunks(static: Static, chunk: Callable[[Any, Any], Any], carry: Any) -> Any:
    """`chunk` of the rows of a program, some at a time: (their slice, carry) -> carry."""

    def body(i: Array, carry: Any) -> Any:
        return chunk(pl.ds(pl.multiple_of(i * CHUNK, CHUNK), CHUNK), carry)

    return lax.fori_loop(0, static.block // CHUNK, body, carry)


def _dropped(static: Static, x: Array, bits: Any, at: Any) -> Array:
    if not bits:
        return x
    tokens, features = bits
    return masked(x, (tokens[at], features[...]), static.rate)


def _normalized(static: Static, total: Array) -> tuple[Array, Array]:
    """(rows of mean 0 and variance 1, what they were divided by, inverted)."""
    centred = total - _mean(total)
    inverse = lax.rsqrt(_mean(jnp.square(centred)) + static.epsilon)
    return centred * inverse, inverse


def _real_rows(static: Static, term: Array, first: Array) -> Array:
    """Zero in rows beyond the arrays' end, where anything may stand."""
    if static.rows % static.block == 0:
        return term
    row = first + lax.broadcasted_iota(jnp.int32, term.shape, 0)
    return jnp.where(row < static.rows, term, jnp.zeros_like(term))


def _mean(x: Array) -> Array:
    return x.mean(axis=-1, keepdims=True)


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)
