"""LoRA as an optimizer: a matrix W moves only by what two narrow ones, A and B, make together.

    W = start + scale * A B,    dL/dA = scale * dL/dW B^T,    dL/dB = scale * A^T dL/dW

The factors live in the optimizer's state, and everything else sees W: the model, its evaluation
and what is saved know nothing of them, and a fine-tuned directory is a plain one. The same as
adapters inside a model, but for memory: the gradient of W is whole while a step lasts. Moments,
clipping and decay are those of the factors.

Reference: Hu et al. 2022, "LoRA", sections 4.1-4.2: B is zero at first and A random. What a matrix
multiplies has the model's dropout and no other.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbert.optim import layers
from jaxbert.optim.config import OptimizerConfig

_HIGHEST = jax.lax.Precision.HIGHEST  # float32 means float32, also on accelerators


class LowRankState(NamedTuple):
    """Of matrices that move by a low rank; MaskedNodes elsewhere.

    Attributes:
      start: where they began; a constant.
      factors: {"a": [in, rank], "b": [rank, out]} of each.
      inner: of the optimizer of the factors and of the other parameters.

    Example:
      >>> LowRankState._fields
      ('start', 'factors', 'inner')
    """

    start: Any
    factors: Any
    inner: optax.OptState


def adapted_tree(config: OptimizerConfig, params: Any, labels: Mapping[str, str]) -> Any:
    """Which matrices move by a low rank.

    Args:
      config: the configuration.
      params: a tree of arrays or ShapeDtypeStructs.
      labels: {path: label} of what trains.

    Returns:
      A tree like `params` of bool, with MaskedNodes for what does not train.

    Raises:
      InputError: a pattern of `lora_targets` that means no matrix that trains.

    Example:
      >>> params = {"layers": {"0": {"attention": {"query": {"bias": 0.0, "kernel": 1.0}}}}}
      >>> labels = layers.leaf_labels(params)
      >>> adapted_tree(OptimizerConfig(lora_rank=8), params, labels)
      {'layers': {'0': {'attention': {'query': {'bias': False, 'kernel': True}}}}}
    """
    kernels = {path: label for path, label in labels.items() if path.endswith("/kernel")}
    patterns = config.lora_targets if config.lora_rank else ()
    low = layers.first_matches("lora_targets", patterns, kernels)
    return layers.path_tree(params, {path: path in low for path in labels}, optax.MaskedNode())


def over_factors(adapted: Any, tree: Any) -> Any:
    """A tree with what it has for a matrix twice, for its factors.

    Args:
      adapted: a tree like the parameters of whether a leaf moves by a low rank.
      tree: like it.

    Returns:
      The tree.

    Example:
      >>> over_factors({"kernel": True, "bias": False}, {"kernel": "x", "bias": "y"})
      {'bias': 'y', 'kernel': {'a': 'x', 'b': 'x'}}
    """
    return jax.tree.map(
        lambda low, value: {"a": value, "b": value} if low else value, adapted, tree
    )


def low_rank(
    inner: optax.GradientTransformationExtraArgs, adapted: Any, rank: int, scale: float
) -> optax.GradientTransformationExtraArgs:
    """The updates of whole matrices by an optimizer of their factors.

    A is drawn in every run alike, uniform within 1 / sqrt(in) (the released code's), so that
    B = 0 leaves the matrix as it is.

    Args:
      inner: of a tree that has {"a", "b"} where a matrix is adapted.
      adapted: a tree like the parameters of whether a leaf is such a matrix.
      rank: of the factors.
      scale: of their product.

    Returns:
      A transformation whose `update` wants the parameters.

    Example:
      >>> params = {"kernel": jnp.zeros((2, 3))}
      >>> lora = low_rank(optax.with_extra_args_support(optax.sgd(1.0)), {"kernel": True}, 1, 1.0)
      >>> updates, state = lora.update({"kernel": jnp.ones((2, 3))}, lora.init(params), params)
      >>> int(jnp.linalg.matrix_rank(updates["kernel"]))
      1
    """

    def init(params: Any) -> LowRankState:
        numbers = itertools.count()
        start = jax.tree.map(
            lambda low, w: jnp.copy(w) if low else optax.MaskedNode(), adapted, params
        )
        factors = jax.tree.map(
            lambda low, w: _factors(w, rank, next(numbers)) if low else optax.MaskedNode(),
            adapted, params,
        )  # fmt: skip
        return LowRankState(start, factors, inner.init(_joined(adapted, factors, params)))

    def update(
        gradients: Any, state: LowRankState, params: Any = None, **more: Any
    ) -> tuple[Any, LowRankState]:
        def narrow(low: bool, g: Any, f: Any) -> Any:
            if not low:
                return g
            return {"a": scale * _product(g, f["b"].T), "b": scale * _product(f["a"].T, g)}

        def whole(low: bool, step: Any, w: Any, start: Any, f: Any) -> Any:
            # From the start, not from the last step: rounding does not add up.
            return start + scale * _product(f["a"], f["b"]) - w if low else step

        gradients = jax.tree.map(narrow, adapted, gradients, state.factors)
        joined = _joined(adapted, state.factors, params)
        steps, inner_state = inner.update(gradients, state.inner, joined, **more)
        factors = jax.tree.map(
            lambda low, f, step: optax.apply_updates(f, step) if low else f,
            adapted, state.factors, steps,
        )  # fmt: skip
        updates = jax.tree.map(whole, adapted, steps, params, state.start, factors)
        return updates, LowRankState(state.start, factors, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _factors(w: jax.Array, rank: int, number: int) -> dict[str, jax.Array]:
    """Those of the matrix of that number, before the first step."""
    key, within = jax.random.fold_in(jax.random.key(0), number), w.shape[0] ** -0.5
    a = jax.random.uniform(key, (w.shape[0], rank), w.dtype, -within, within)
    return {"a": a, "b": jnp.zeros((rank, w.shape[1]), w.dtype)}


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def _joined(adapted: Any, factors: Any, params: Any) -> Any:
    """The parameters, with their factors in the place of matrices that have them."""
    return jax.tree.map(lambda low, f, w: f if low else w, adapted, factors, params)
