"""Where the pre-trained weights stood: a constant of the run that decay and Mixout lead back to.

It is kept in the optimizer's state, so that a checkpoint holds it, an engine shards it as it does
the parameters, and an exact resume needs nothing else. The head is new, and has no start that is
worth keeping.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbert.optim import layers
from jaxbert.optim.config import OptimizerConfig


class StartState(NamedTuple):
    """What never changes of an optimizer's state.

    Attributes:
      start: the parameters before the first step, with MaskedNodes in place of the others.

    Example:
      >>> StartState(start={"bias": 0.0}).start
      {'bias': 0.0}
    """

    start: Any


def is_kept(config: OptimizerConfig, path: str, label: str) -> bool:
    """Whether a parameter's start is kept: for the decay towards it all, for Mixout the matrices.

    Example:
      >>> config = OptimizerConfig(mixout=0.5)
      >>> is_kept(config, "pooler/kernel", "pooler"), is_kept(config, "pooler/bias", "pooler")
      (True, False)
    """
    if label == "head":
        return False
    return config.anchor_decay > 0 or (config.mixout > 0 and is_mixed(path))


def decays_to(config: OptimizerConfig, path: str, label: str) -> str:
    """Where decay leads a parameter: "start", "zero" or, where it does not decay, "".

    Example:
      >>> config = OptimizerConfig(anchor_decay=1.0)
      >>> [decays_to(config, path, label) for path, label in (
      ...     ("pooler/bias", "pooler"), ("head/kernel", "head"), ("head/bias", "head"))]
      ['start', 'zero', '']
    """
    if config.anchor_decay and label != "head":
        return "start"
    return "zero" if config.weight_decay and layers.decays_weight(path) else ""


def is_mixed(path: str) -> bool:
    """Whether Mixout concerns a parameter: the matrices of products, not those of embeddings."""
    return path.endswith("/kernel")


def decay_to_start(strength: float, kept: Any) -> optax.GradientTransformation:
    """Adds strength * (w - start): L2-SP, decoupled as AdamW's decay is.

    Reference: Li et al. 2018, eq. 2, whose penalty strength / 2 * |w - start|^2 has this gradient.

    Args:
      strength: 0 only keeps the start.
      kept: a tree like the parameters of whether a leaf's start is kept.

    Returns:
      A transformation whose `update` wants the parameters.

    Example:
      >>> decay = decay_to_start(0.5, {"bias": True})
      >>> state = decay.init({"bias": jnp.ones(2)})
      >>> updates, _ = decay.update({"bias": jnp.zeros(2)}, state, {"bias": jnp.full(2, 3.0)})
      >>> updates["bias"].tolist()
      [1.0, 1.0]
    """

    def init(params: Any) -> StartState:
        # Copies: the parameters' own memory is given to the next state.
        return StartState(jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: StartState, params: Any = None) -> tuple[Any, StartState]:
        if strength:
            updates = jax.tree.map(
                lambda u, w, start: u + strength * (w - start), updates, params, state.start
            )
        return updates, state

    return optax.masked(optax.GradientTransformation(init, update), kept)


def states_of(kind: type[Any], state: optax.OptState) -> list[Any]:
    """The states of that type in an optimizer's.

    Example:
      >>> decay = decay_to_start(0.5, {"bias": True})
      >>> len(states_of(StartState, decay.init({"bias": jnp.ones(2)})))
      1
    """
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


def is_masked(node: Any) -> bool:
    """Whether a tree has no leaf there."""
    return isinstance(node, optax.MaskedNode)
