"""Gradient -> step of size about 1, before rate and sign: what the optimizers differ in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxbert.optim import layers
from jaxbert.optim.config import SCHEDULE_FREE, OptimizerConfig

# Liu et al. 2025, "Muon is scalable for LLM training", section 2.2: the root mean square of
# AdamW's steps, so that its rates serve for Muon too.
MUON_RMS = 0.2


def direction(
    config: OptimizerConfig, params: Any, labels: Mapping[str, str]
) -> optax.GradientTransformation:
    """What the chosen optimizer makes of a gradient; for SGD a step of the gradient's own size.

    Args:
      config: the configuration.
      params: a tree of arrays or ShapeDtypeStructs.
      labels: {path: label} of what trains; the gradient has a MaskedNode elsewhere.

    Returns:
      A transformation without rate, decay and sign.

    Example:
      >>> sgd = direction(OptimizerConfig("sgd"), {}, {})
      >>> sgd.update(jnp.float32(2.0), sgd.init(jnp.float32(0.0)))[0].item()
      2.0
    """
    beta1, beta2 = config.beta1, 0.999 if config.beta2 is None else config.beta2
    if config.optimizer in ("adamw", "lamb"):
        adam = optax.scale_by_adam if config.bias_correction else scale_by_uncorrected_adam
        return adam(b1=beta1, b2=beta2, eps=config.epsilon)
    if config.optimizer == "lion":
        # Chen et al. 2023: .99, since Lion's second beta averages the gradient, not its square.
        return optax.scale_by_lion(b1=beta1, b2=0.99 if config.beta2 is None else beta2)
    if config.optimizer == "sgd":
        return optax.trace(decay=beta1)
    if config.optimizer == SCHEDULE_FREE:
        # Adam without a first moment: the average of the weights takes its place.
        return optax.scale_by_rms(
            decay=beta2, eps=config.epsilon, eps_in_sqrt=False, bias_correction=True
        )
    if config.optimizer == "muon":
        adam = optax.scale_by_adam(b1=beta1, b2=beta2, eps=config.epsilon)
        kinds = {path: _muon_or_adam(path, label) for path, label in labels.items()}
        return optax.partition(
            {"muon": scale_by_muon(beta1), "adam": adam},
            layers.path_tree(params, kinds, optax.MaskedNode()),
        )
    # Adafactor (Shazeer & Stern 2018) without its scaling by the parameter's own size, so that a
    # learning rate is a step size, as it is for the others.
    return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))


def _muon_or_adam(path: str, label: str) -> str:
    """Muon is for hidden matrices; embeddings, head, biases and LayerNorm are Adam's (Jordan)."""
    hidden = path.endswith("/kernel") and label not in ("embeddings", "head")
    return "muon" if hidden else "adam"


def scale_by_muon(beta: float) -> optax.GradientTransformation:
    """Momentum whose singular values are all made about 1, at the size of AdamW's steps.

    Args:
      beta: of Nesterov's momentum; Jordan 2024 takes .95.

    Returns:
      `optax.contrib.scale_by_muon` for matrices [in, out] only, times MUON_RMS * sqrt(max(in,
      out)), which makes MUON_RMS the root mean square of a full-rank step.

    Example:
      >>> muon = scale_by_muon(0.95)
      >>> with jax.numpy_dtype_promotion("standard"):
      ...     step, _ = muon.update(1e-3 * jnp.eye(4), muon.init(jnp.eye(4)))
      >>> bool(jnp.abs(jnp.diag(step) / (MUON_RMS * 2) - 1).max() < 0.35)
      True
    """

    def whole(updates: Any) -> Any:
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), updates)

    return optax.chain(
        optax.contrib.scale_by_muon(beta=beta, weight_dimension_numbers=whole),
        optax.stateless_with_tree_map(lambda step, _: MUON_RMS * max(step.shape) ** 0.5 * step),
    )


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """m / (sqrt(v) + eps) without bias correction, as google-research/bert optimization.py.

    So eps is added to the uncorrected root. The first steps are up to 6.6 times the size of
    corrected Adam's (at step t by (1 - b1^t) / sqrt(1 - b2^t)): the instability that Zhang et al.
    2020 and Mosbach et al. 2020 trace to it.

    Args:
      b1: of the average of gradients.
      b2: of the average of their squares.
      eps: added to the root of the latter.

    Returns:
      A transformation with the state of `optax.scale_by_adam`.

    Example:
      >>> adam = scale_by_uncorrected_adam(b1=0.5, b2=0.75, eps=1.0)
      >>> step, _ = adam.update(jnp.float32(2.0), adam.init(jnp.float32(0.0)))
      >>> float(step)  # 0.5 * 2 / (sqrt(0.25 * 4) + 1)
      0.5
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        # Two sets of zeros: a buffer shared by both could not be donated.
        mu, nu = optax.tree.zeros_like(params), optax.tree.zeros_like(params)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), mu, nu)

    def update(
        gradients: Any, state: optax.ScaleByAdamState, params: Any = None
    ) -> tuple[Any, optax.ScaleByAdamState]:
        mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, gradients, state.mu)
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * g * g, gradients, state.nu)
        steps = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        # Nothing here uses the count; it keeps the state, and so a checkpoint's shape, optax's.
        return steps, optax.ScaleByAdamState(optax.safe_increment(state.count), mu, nu)

    return optax.GradientTransformation(init, update)
