"""The parameters that are evaluated and saved, where these are not the ones that train: averages.

Two there are: an exponential moving average beside the training, and schedule-free's, which
training itself leads through. Both live in the optimizer's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxbert.optim.config import SCHEDULE_FREE, OptimizerConfig
from jaxbert.optim.schedules import Schedule
from jaxbert.optim.start import is_masked, states_of


def is_averaged(config: OptimizerConfig) -> bool:
    """Whether others than the parameters that train are evaluated and saved.

    Example:
      >>> is_averaged(OptimizerConfig()), is_averaged(OptimizerConfig(ema_decay=0.9))
      (False, True)
    """
    return config.ema_decay > 0 or config.optimizer == SCHEDULE_FREE


def evaluated(config: OptimizerConfig, state: optax.OptState, params: Any) -> Any:
    """The parameters to evaluate and to save; frozen leaves as they are.

    Args:
      config: the configuration.
      state: of the optimizer.
      params: those that train.

    Returns:
      A tree like `params`.

    Example:
      >>> config, params = OptimizerConfig(ema_decay=0.5), {"bias": jnp.zeros(1)}
      >>> ema = moving_average(0.5)
      >>> state = ema.init(params)
      >>> for step in (3.0, 3.0):  # to 3, then to 6
      ...     updates, state = ema.update({"bias": jnp.full(1, step)}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> evaluated(config, state, params)["bias"].tolist()  # (6 + 3 / 2) / (1 + 1 / 2)
      [5.0]
    """
    with jax.numpy_dtype_promotion("standard"):  # of a float to the power of a count
        if config.optimizer == SCHEDULE_FREE:
            (free,) = states_of(optax.contrib.ScheduleFreeState, state)
            trained = jax.tree.map(
                lambda z, w: z if is_masked(z) else w, free.z, params, is_leaf=is_masked
            )
            average = optax.contrib.schedule_free_eval_params(free, trained)
        elif config.ema_decay:
            (ema,) = states_of(optax.EmaState, state)
            average = optax.tree.bias_correction(ema.ema, config.ema_decay, ema.count)
        else:
            return params
    return jax.tree.map(lambda a, w: w if is_masked(a) else a, average, params, is_leaf=is_masked)


def moving_average(decay: float) -> optax.GradientTransformation:
    """Leaves updates as they are, and averages the parameters after them, by `optax.ema`.

    The average starts at nothing and is corrected for that: after t steps it is the mean of the
    t parameters so far, weighted by decay^age; the start has no part in it.

    Args:
      decay: of an update's weight, in each update that follows.

    Returns:
      A transformation to come last, whose `update` wants the parameters.

    Example:
      See `evaluated`.
    """
    # Not debiased here, where nobody reads it: `evaluated` does.
    ema = optax.ema(decay, debias=False)

    def update(updates: Any, state: optax.EmaState, params: Any = None) -> tuple[Any, Any]:
        _, state = ema.update(optax.apply_updates(params, updates), state)
        return updates, state

    return optax.GradientTransformation(ema.init, update)


def schedule_free(
    chain: optax.GradientTransformation, schedules: Mapping[str, Schedule], beta1: float
) -> optax.GradientTransformationExtraArgs:
    """`optax.contrib.schedule_free` around a chain whose rates are given to `update`.

    Each group moves at its own rate; the average's weights are one for all. They are by the first
    group's rate, as good as any other: only ratios between steps count, and all groups have those
    of the schedule.

    Reference: Defazio et al. 2024, "The Road Less Scheduled", eqs. 2-4 and section 4: weights are
    squares of the largest rate so far.

    Args:
      chain: with rates and sign, without momentum.
      schedules: {group: step -> learning rate} of what trains.
      beta1: the weight of the average in the point where the gradient is taken, in (0, 1).

    Returns:
      A transformation; the parameters that it moves are those points.

    Example:
      >>> free = schedule_free(optax.sgd(0.5), {"head": lambda step: jnp.float32(0.5)}, beta1=0.9)
      >>> state = free.init(jnp.float32(1.0))
      >>> round(free.update(jnp.float32(1.0), state, jnp.float32(1.0))[0].item(), 4)
      -0.5
    """

    name, schedule = next(iter(schedules.items()))

    def weighted_by(rate: jax.typing.ArrayLike) -> optax.GradientTransformationExtraArgs:
        return optax.contrib.schedule_free(chain, rate, b1=beta1)

    def update(
        updates: Any,
        state: optax.contrib.ScheduleFreeState,
        params: Any = None,
        *,
        learning_rates: Mapping[str, jax.typing.ArrayLike] | None = None,
        **more: Any,
    ) -> tuple[Any, optax.contrib.ScheduleFreeState]:
        step = state.step_count - 1  # optax counts it from 1
        rate = schedule(step) if learning_rates is None else learning_rates[name]
        moved: tuple[Any, optax.contrib.ScheduleFreeState]
        moved = weighted_by(jnp.asarray(rate, state.max_lr.dtype)).update(
            updates, state, params, learning_rates=learning_rates, **more
        )
        return moved

    return optax.GradientTransformationExtraArgs(weighted_by(0.0).init, update)
