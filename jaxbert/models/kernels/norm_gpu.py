"""Bias, dropout, residual sum and LayerNorm as one Pallas kernel for GPUs, compiled by Triton.

What `norm` says of the kernel for TPUs, with a row at a time: a program of the forward pass has
one; one of the backward pass has a few, adds up the vectors' gradients over them, and writes its
sums, which are added up after it. Triton wants powers of two: a row is read as if it went on to the
next one, and zeros stand there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jaxbert.models.compute import Compute
from jaxbert.models.dropout import masked
from jaxbert.models.kernels.norm import WIDEST, Bits, Static, Vectors, add_and_norm_by

try:
    from jax.experimental.pallas import triton
except ImportError:  # JAX 0.12 deprecates it; without it GPUs take plain operations again
    triton = None  # type: ignore[assignment]

Array = jax.Array

# Programs of a backward pass: enough to fill a GPU, few enough that their sums are small beside
# what they read. None has fewer rows than this.
PROGRAMS, LEAST_ROWS = 1024, 8
PER_THREAD, WARP = 8, 32  # elements: a load of 16 bytes of bfloat16


def gpu_norm_takes(width: int, compute: Compute) -> bool:
    """Whether `gpu_add_and_norm` is for arrays [..., D] of that width."""
    fits = width % PER_THREAD == 0 and width <= WIDEST
    return triton is not None and compute.platform == "gpu" and fits


def _call(
    static: Static,
    arrays: tuple[Array, ...],
    vectors: Vectors,
    bits: Bits,
    *,
    outputs: int,
    backward: bool = False,
) -> Any:
    """A kernel over a grid of rows; see `norm._call`."""
    stripe = max(LEAST_ROWS, pl.cdiv(static.rows, PROGRAMS)) if backward else 1
    programs = pl.cdiv(static.rows, stripe)
    kernel = (
        partial(_backward_kernel, static, stripe) if backward else partial(_forward_kernel, static)
    )
    like = jax.ShapeDtypeStruct(arrays[0].shape, static.compute.activation_dtype)
    sums = jax.ShapeDtypeStruct((programs, static.width), jnp.float32)
    warps = max(1, pl.next_power_of_2(static.width) // (PER_THREAD * WARP))
    whole = pl.BlockSpec()
    line = pl.BlockSpec((None, static.width), lambda i: (0, 0))
    column = pl.BlockSpec((static.rows, None), lambda i: (0, 0))
    found = pl.pallas_call(
        kernel,
        grid=(programs,),
        in_specs=[*(whole for _ in arrays), (line, line, line), (column, line) if bits else ()],
        out_shape=[like] * outputs + [sums] * (3 if backward else 0),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=2),
        interpret=static.interpret,
        name="backward_norm" if backward else "forward_norm",
    )(*arrays, tuple(vectors), bits)
    return [*found[:outputs], *(own.sum(axis=0, keepdims=True) for own in found[outputs:])]


gpu_add_and_norm = partial(add_and_norm_by, _call)


def _forward_kernel(
    static: Static, x: Any, branch: Any, vectors: Any, bits: Any, out: Any, *kept: Any
) -> None:
    row = _Row(static, pl.program_id(0))
    bias, scale, shift = (row.line(vector) for vector in vectors)
    dropped = row.dropped(row.read(branch) + bias, bits)
    # Rounded before the statistics are taken, for the backward pass takes them again.
    total = (row.read(x) + dropped).astype(static.compute.activation_dtype)
    for ref in kept:
        row.write(ref, total)
    normalized, _ = row.normalized(total.astype(jnp.float32))
    row.write(out, normalized * scale + shift)


def _backward_kernel(
    static: Static, stripe: int, total: Any, g: Any, vectors: Any, bits: Any, *outputs: Any
) -> None:
    *grads, d_bias, d_scale, d_shift = outputs
    program = pl.program_id(0)
    own_row = _Row(static, program)
    scale = own_row.line(vectors[1])

    def step(i: Any, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        row = _Row(static, program * stripe + i)
        normalized, inverse = row.normalized(row.read(total))
        own = row.read(g)
        scaled = own * scale
        along = row.mean(normalized * scaled)
        d_total = inverse * (scaled - row.mean(scaled) - normalized * along)
        dropped = row.dropped(d_total, bits)
        for ref, gradient in zip(grads, (d_total, dropped), strict=False):
            row.write(ref, gradient)
        # Where there is no row its gradient is zero, and so are these.
        terms = dropped, own * normalized, own
        return tuple(a + b for a, b in zip(sums, terms, strict=True))

    nothing = jnp.zeros_like(scale)
    sums = lax.fori_loop(0, stripe, step, (nothing, nothing, nothing))
    for ref, found in zip((d_bias, d_scale, d_shift), sums, strict=True):
        own_row.write(ref, found)


class _Row:
    """A row of the arrays, or none: beyond its end and theirs zeros are read, nothing is written.

    Its numbers are [D'], where D' is the next power of two.
    """

    def __init__(self, static: Static, index: Any) -> None:
        self.static, self.index = static, index
        self.columns = jnp.arange(pl.next_power_of_2(static.width))
        self.is_there = index < static.rows
        self.is_inside = self.columns < static.width

    def read(self, ref: Any) -> Array:
        """Of an array [R, D], in float32."""
        mask = self.is_inside & self.is_there
        found = triton.load(ref.at[self.index, self.columns], mask=mask, other=0.0)
        return found.astype(jnp.float32)

    def line(self, ref: Any) -> Array:
        """Of a vector [D]."""
        zero = jnp.zeros((), ref.dtype)
        return triton.load(ref.at[self.columns], mask=self.is_inside, other=zero)

    def write(self, ref: Any, x: Array) -> None:
        """To an array [R, D]."""
        mask = self.is_inside & self.is_there
        triton.store(ref.at[self.index, self.columns], x.astype(ref.dtype), mask=mask)

    def mean(self, x: Array) -> Array:
        """[] of [D'] that is zero beyond the row's end."""
        return x.sum() / self.static.width

    def normalized(self, total: Array) -> tuple[Array, Array]:
        """(the row at mean 0 and variance 1, what it was divided by, inverted)."""
        centred = jnp.where(self.is_inside, total - self.mean(total), 0.0)
        inverse = lax.rsqrt(self.mean(jnp.square(centred)) + self.static.epsilon)
        return centred * inverse, inverse

    def dropped(self, x: Array, bits: Any) -> Array:
        """What dropout leaves of it."""
        if not bits:
            return x
        tokens, features = bits
        nothing = jnp.zeros((), jnp.uint32)
        token = triton.load(tokens.at[self.index], mask=self.is_there, other=nothing)
        return masked(x, (token, self.line(features)), self.static.rate)
