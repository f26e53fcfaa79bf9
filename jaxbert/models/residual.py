"""What stands around a block of a layer: its last bias, dropout, the residual sum, and the norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxbert.models.compute import Compute
from jaxbert.models.dropout import Dropout, dropout, token_bits
from jaxbert.models.kernels.norm import Vectors, tpu_add_and_norm, tpu_norm_takes
from jaxbert.models.kernels.norm_gpu import gpu_add_and_norm, gpu_norm_takes
from jaxbert.models.primitives import LayerNorm, biased


class Branch(NamedTuple):
    """What a block adds to its input.

    output: [B, L, D], still without its last bias. bias: [D]; None = none. rate, site, state: see
    `dropout`.
    """

    output: Array
    bias: nnx.Param | None
    rate: float
    site: int
    state: Dropout | None


def add(x: Float[Array, "B L D"], branch: Branch) -> Float[Array, "B L D"]:
    """x + dropout(branch + bias)."""
    y = biased(branch.output, branch.bias)
    return x + dropout(y, branch.rate, branch.site, branch.state)


def add_and_norm(
    x: Float[Array, "B L D"], branch: Branch, norm: Callable[[Array], Array]
) -> Float[Array, "B L D"]:
    """norm(x + dropout(branch + bias)), by one kernel where there is one."""
    if not isinstance(norm, LayerNorm) or (kernel := _kernel(x.shape[-1], norm.compute)) is None:
        return norm(add(x, branch))
    with jax.named_scope("layer_norm"):
        bits = None
        if branch.state is not None and branch.rate > 0:
            bits = token_bits(branch.site, branch.state)
        return kernel(
            x,
            branch.output,
            Vectors(*(_line(leaf, norm.scale) for leaf in (branch.bias, norm.scale, norm.bias))),
            bits,
            rate=branch.rate,
            epsilon=norm.epsilon,
            compute=norm.compute,
        )


def _kernel(width: int, compute: Compute) -> Callable[..., Array] | None:
    """For arrays [..., D] of that width; None where there is none."""
    if tpu_norm_takes(width, compute):
        return tpu_add_and_norm
    return gpu_add_and_norm if gpu_norm_takes(width, compute) else None


def _line(leaf: nnx.Param | None, like: nnx.Param) -> Array:
    """[D] -> [1, D] float32; zeros where there is none."""
    vector = jnp.zeros_like(like[...]) if leaf is None else leaf[...]
    return vector.astype(jnp.float32)[None]
