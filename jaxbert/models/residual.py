"""What stands around a block of a layer: its last bias, dropout, the residual sum, and the norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxbert.models.dropout import Dropout, dropout, token_bits
from jaxbert.models.kernels.norm import Vectors, tpu_add_and_norm, tpu_norm_takes
from jaxbert.models.primitives import LayerNorm, biased


def add(
    x: Float[Array, "B L D"],
    branch: Float[Array, "B L D"],
    bias: nnx.Param | None,
    rate: float,
    site: int,
    state: Dropout | None,
) -> Float[Array, "B L D"]:
    """x + dropout(branch + bias).

    Args:
      bias: [D]; None = none.
      rate, site, state: see `dropout`.
    """
    return x + dropout(biased(branch, bias), rate, site, state)


def add_and_norm(
    x: Float[Array, "B L D"],
    branch: Float[Array, "B L D"],
    bias: nnx.Param | None,
    norm: LayerNorm,
    rate: float,
    site: int,
    state: Dropout | None,
) -> Float[Array, "B L D"]:
    """norm(x + dropout(branch + bias)), by one kernel where there is one; see `add`."""
    if not tpu_norm_takes(x.shape[-1], norm.compute):
        return norm(add(x, branch, bias, rate, site, state))
    with jax.named_scope("layer_norm"):
        bits = None if state is None or rate == 0 else token_bits(site, state)
        return tpu_add_and_norm(
            x,
            branch,
            Vectors(*(_line(leaf, norm.scale) for leaf in (bias, norm.scale, norm.bias))),
            bits,
            rate=rate,
            epsilon=norm.epsilon,
            compute=norm.compute,
        )


def _line(leaf: nnx.Param | None, like: nnx.Param) -> Array:
    """[D] -> [1, D] float32; zeros where there is none."""
    vector = jnp.zeros_like(like[...]) if leaf is None else leaf[...]
    return vector.astype(jnp.float32)[None]
