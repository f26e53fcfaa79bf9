"""Where a step takes its gradient, if not at the parameters: mixed with their start, or uphill.

Mixout (Lee et al. 2020) computes with some of the parameters as they were before the first step;
SAM (Foret et al. 2021) takes the gradient where the loss is highest nearby. Both are functions of
whole parameters and of the batch's whole gradient, outside of what an engine gives to each device,
so that no layout, device or microbatch changes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxbert.models.dropout import mix
from jaxbert.optim import OptimizerConfig
from jaxbert.optim.layers import leaf_paths
from jaxbert.optim.start import StartState, is_masked, is_mixed, states_of

Params = Any
# Parameters -> (loss, count, gradient); the gradient has None where a leaf is frozen.
Gradient = Callable[[Params], tuple[Array, Array, Params]]

_MIXOUT = 0x6D69786F  # sets its bits apart from dropout's, whose key they share


def gradient_of(
    config: OptimizerConfig, gradient: Gradient, params: Params, state: optax.OptState, key: Array
) -> tuple[Array, Array, Params]:
    """(loss, count, gradient) that the optimizer's settings ask for.

    Args:
      config: of it `mixout` and `sam_radius`; with neither, `gradient` of the parameters.
      gradient: of the batch's mean loss.
      params: those that train.
      state: of the optimizer; for Mixout it keeps the start.
      key: [] uint32, of the step.
    """
    shares = None
    if config.mixout:
        (kept,) = states_of(StartState, state)
        shares = mixout_shares(kept.start, config.mixout, key)
        params = mixed(params, kept.start, shares)
    loss, count, grads = gradient(params)
    if config.sam_radius:
        grads = gradient(uphill(params, grads, config.sam_radius))[2]
    if shares is not None:
        grads = jax.tree.map(
            lambda share, g: g if share is None else g * share, shares, grads, is_leaf=_is_none
        )
    return loss, count, grads


def mixout_shares(start: Params, rate: float, key: Array) -> Params:
    """{matrix [in, out]: [in, 1]}: 0 for a row that is as at the start, 1 / (1 - rate) for others.

    A row is all that one input feeds, as in the released code (bloodwass/mixout); there the factor
    is left out of the gradient, here it is not. Every step and every matrix draws anew.

    Args:
      start: with MaskedNodes for what has none.
      rate: the probability of the start, in [0, 1].
      key: [] uint32, of the step.

    Returns:
      A tree like `start`, None for what is not mixed.
    """
    sites = {path: site for site, path in enumerate(leaf_paths(start))}
    paths = iter(sites)
    own = mix(key ^ jnp.uint32(_MIXOUT))

    def share(leaf: Any) -> Any:
        if is_masked(leaf) or not is_mixed(path := next(paths)):
            return None
        rows = jnp.arange(leaf.shape[0], dtype=jnp.uint32)[:, None]
        bits = mix(rows ^ mix(own + jnp.uint32(sites[path])))
        moved = bits >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
        return jnp.where(moved, 1 / (1 - rate), 0.0) if rate < 1 else jnp.zeros(rows.shape)

    return jax.tree.map(share, start, is_leaf=is_masked)


def mixed(params: Params, start: Params, shares: Params) -> Params:
    """start + share * (w - start), whose mean over draws is w.

    Example:
      >>> one, half = {"kernel": jnp.ones((2, 1))}, {"kernel": jnp.array([[0.0], [2.0]])}
      >>> mixed(one, {"kernel": jnp.full((2, 1), 0.5)}, half)["kernel"].tolist()
      [[0.5], [1.5]]
    """
    return jax.tree.map(
        lambda share, w, w0: w if share is None else w0 + share * (w - w0),
        shares, params, start, is_leaf=_is_none,
    )  # fmt: skip


def uphill(params: Params, grads: Params, radius: float) -> Params:
    """The point at that distance along the gradient; frozen leaves as they are.

    Reference: Foret et al. 2021, eq. 2, p = 2, on the gradient of the whole batch (theirs on each
    device's part of it). `optax.contrib.sam` is the same, but hands no `learning_rates` on.

    Example:
      >>> uphill({"bias": jnp.zeros(2)}, {"bias": jnp.array([3.0, 4.0])}, 0.5)["bias"].tolist()
      [0.30000001192092896, 0.4000000059604645]
    """
    norm = optax.tree.norm(grads)
    # Where nothing counts there is no gradient, and no way up.
    scale = jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1.0), 0.0)
    return jax.tree.map(
        lambda g, w: w if g is None else w + scale * g, grads, params, is_leaf=_is_none
    )


def _is_none(node: Any) -> bool:
    return node is None
