"""Running a chain on given gradients: what the tests of updates share."""

import jax
import numpy as np
import optax

from jaxbert.optim import make_optimizer
from jaxbert.optim.layers import leaf_paths


def flat(tree):
    return dict(zip(leaf_paths(tree), map(np.asarray, jax.tree.leaves(tree)), strict=True))


def random_gradients(params, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: np.float32(scale * rng.normal(size=np.shape(p))), params)


def run(config, params, gradients, steps_per_epoch=4, total_steps=12, **kwargs):
    """Applies each gradient; returns the parameters before and after each, flat, and the state."""
    optimizer = make_optimizer(config, params, total_steps, steps_per_epoch, **kwargs)
    state, history = optimizer.init(params), [flat(params)]

    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    # Level 0: a third less time to compile what runs for microseconds.
    step = jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})
    for gradient in gradients:
        params, state = step(params, state, gradient)
        history.append(flat(params))
    return history, state
