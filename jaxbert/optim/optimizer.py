"""Groups and their schedules -> one optax chain.

    clip -> direction -> add_decayed_weights -> [trust ratio] -> rate per group -> -1

- Clipping is by one norm over everything trainable, before the groups part. Frozen leaves are
  outside the chain: they hold no moments, enter no norm and get an update of exactly zero.
- Moments are one state for all groups, with one step count.
- Weight decay is decoupled and comes before the rates: a step shrinks a weight by rate * decay, as
  in torch's AdamW; so does the decay towards the start. LAMB's trust ratio comes after the decay,
  as in optax.lamb.
- Around it, each where it is asked for: schedule-free's average, low rank, a moving average.

Gradual unfreezing: until its epoch a group's rate, and so its update, is exactly 0, and it stays
out of the clipping norm, so that what is awake trains as if the rest were frozen for good. But its
moments follow its gradient from the first step (clipped as if all were awake). Kept at zero until
then they would meet a step count that calls them settled, and Adam's first updates would be 3 to
6.6 times too large; so, a group wakes with honest averages. The schedule is the whole run's: a
group that wakes late joins it where it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbert.optim import averages, layers, low_rank, start
from jaxbert.optim.config import SCHEDULE_FREE, OptimizerConfig
from jaxbert.optim.directions import direction
from jaxbert.optim.groups import Group
from jaxbert.optim.schedules import Schedule


def make_chain(
    config: OptimizerConfig,
    params: Any,
    groups: Mapping[str, Group],
    schedules: Mapping[str, Schedule],
    steps_per_epoch: int,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a run, from what `RatePlan.make` has worked out.

    Args:
      config: the configuration.
      params: a tree of arrays or ShapeDtypeStructs.
      groups: of these parameters.
      schedules: {group: step -> learning rate}, for the groups that are not frozen at least.
      steps_per_epoch: for the steps at which groups wake.

    Returns:
      A transformation whose `update` wants the parameters too. `update(gradients, state, params,
      learning_rates={group: rate})` takes these rates, which may be traced, instead of the
      schedules' own: programs that differ in nothing but rate, schedule, decay and length of the
      run are then one.

    Example:
      >>> from jaxbert.optim.groups import make_groups
      >>> params = {"head": {"bias": jnp.zeros(2)}}
      >>> config = OptimizerConfig("sgd", weight_decay=0.0, clip_norm=None)
      >>> groups = make_groups(config, layers.leaf_labels(params))
      >>> chain = make_chain(config, params, groups, {"head": lambda step: jnp.float32(0.5)}, 1)
      >>> gradients = {"head": {"bias": jnp.ones(2)}}
      >>> chain.update(gradients, chain.init(params), params)[0]["head"]["bias"].tolist()
      [-0.5, -0.5]
    """
    trained = {name: group for name, group in groups.items() if not group.frozen}
    labels = {path: group.label for group in trained.values() for path in group.paths}
    adapted = low_rank.adapted_tree(config, params, labels)

    def tree(value: Callable[[Group, str], Any]) -> Any:
        values = {path: value(group, path) for group in trained.values() for path in group.paths}
        # The chain sees a MaskedNode, no leaf at all, where a leaf is frozen; so must its trees.
        return low_rank.over_factors(adapted, layers.path_tree(params, values, optax.MaskedNode()))

    rates = {name: _scale_by_rate(name, schedules[name]) for name in trained}
    chain = optax.chain(
        # Before the groups part: a norm per group would change their balance, which is the rates'.
        _clip(config.clip_norm, tree(lambda group, path: group.first_step(steps_per_epoch))),
        direction(config, params, labels),
        # After the moments, which so never see the decay (Loshchilov & Hutter 2019, AdamW).
        _decay(config, tree),
        # LAMB's ratio is of the whole step, decay and all; the rate must not enter it.
        optax.scale_by_trust_ratio() if config.optimizer == "lamb" else optax.identity(),
        optax.multi_transform(rates, tree(lambda group, path: group.name)),
        optax.scale(-1.0),
    )
    chain = _around(config, chain, adapted, {name: schedules[name] for name in trained})
    # set_to_zero, not a rate of 0: it has no state, and no NaN of a frozen leaf comes through it.
    sides = layers.path_tree(params, dict.fromkeys(labels, "trainable"), "frozen")
    whole = optax.multi_transform({"trainable": chain, "frozen": optax.set_to_zero()}, sides)
    return optax.GradientTransformationExtraArgs(whole.init, _promoting(whole.update))


def _decay(
    config: OptimizerConfig, tree: Callable[[Callable[[Group, str], Any]], Any]
) -> optax.GradientTransformation:
    """Towards zero, or towards the start.

    Args:
      tree: (group, path) -> value, as a tree like the gradients.
    """
    decayed = tree(lambda group, path: start.decays_to(config, path, group.label) == "zero")
    towards_zero = optax.add_decayed_weights(config.weight_decay, mask=decayed)
    if not (config.anchor_decay or config.mixout):
        return towards_zero
    kept = tree(lambda group, path: start.is_kept(config, path, group.label))
    return optax.chain(towards_zero, start.decay_to_start(config.anchor_decay, kept))


def _around(
    config: OptimizerConfig,
    chain: optax.GradientTransformationExtraArgs,
    adapted: Any,
    schedules: Mapping[str, Schedule],
) -> optax.GradientTransformationExtraArgs:
    """The chain with what is asked for around it."""
    if config.optimizer == SCHEDULE_FREE:
        chain = averages.schedule_free(chain, schedules, config.beta1)
    if config.lora_rank:
        scale = config.lora_alpha / config.lora_rank
        chain = low_rank.low_rank(chain, adapted, config.lora_rank, scale)
    if config.ema_decay:
        chain = optax.chain(chain, averages.moving_average(config.ema_decay))
    return chain


def _promoting(update: Callable[..., Any]) -> Callable[..., Any]:
    """The same, also where promotion is strict: optax takes floats to the power of int32 counts."""

    @functools.wraps(update)
    def promoted(*args: Any, **more: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return update(*args, **more)

    return promoted


def _scale_by_rate(group: str, schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Times the group's learning rate: the one given to `update`, or else the schedule's."""
    scheduled = optax.scale_by_schedule(schedule)

    def update(
        updates: Any,
        state: optax.ScaleByScheduleState,
        params: Any = None,
        *,
        learning_rates: Mapping[str, jax.typing.ArrayLike] | None = None,
        **_: Any,
    ) -> tuple[Any, optax.ScaleByScheduleState]:
        if learning_rates is None:
            by_schedule: tuple[Any, optax.ScaleByScheduleState]
            by_schedule = scheduled.update(updates, state, params)
            return by_schedule
        # In the update's type, or a float32 rate would make bfloat16 updates float32.
        scaled = jax.tree.map(lambda u: u * jnp.asarray(learning_rates[group], u.dtype), updates)
        # Counts all the same: a later update without rates takes up the schedule where it is.
        return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(scheduled.init, update)


class ClipState(NamedTuple):
    """The number of updates so far, which says who is awake.

    Attributes:
      step: [] int32.

    Example:
      >>> ClipState(step=jnp.int32(3)).step.item()
      3
    """

    step: jax.Array


def _clip(max_norm: float | None, first_steps: Any) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` that leaves sleeping leaves out of the norm of the others.

    Args:
      max_norm: None = no clipping.
      first_steps: a tree like the gradients of the step at which each leaf wakes.
    """
    if max_norm is None:
        return optax.identity()
    if not any(jax.tree.leaves(first_steps)):
        # Nobody sleeps: one norm instead of two.
        return optax.clip_by_global_norm(max_norm)

    def clip(gradient: jax.Array, norm: jax.Array) -> jax.Array:
        # As optax writes it: what is awake gets the bits that it gets where nobody sleeps.
        return jnp.where(norm < max_norm, gradient, gradient / norm * max_norm)

    def update(gradients: Any, state: ClipState, params: Any = None) -> tuple[Any, ClipState]:
        awake = jax.tree.map(lambda first: state.step >= first, first_steps)
        # where, not a product: a sleeper's infinity times 0 would be a NaN in everybody's norm.
        awake_norm = optax.tree.norm(
            jax.tree.map(lambda g, a: jnp.where(a, g, 0), gradients, awake)
        )
        # Sleepers are clipped too, by the norm of all: their moments average what they would have
        # got awake, and one huge gradient cannot lie in wait for the day they wake.
        norm = optax.tree.norm(gradients)
        clipped = jax.tree.map(
            lambda g, a: clip(g, jnp.where(a, awake_norm, norm)), gradients, awake
        )
        return clipped, ClipState(optax.safe_increment(state.step))

    return optax.GradientTransformation(lambda params: ClipState(jnp.zeros([], jnp.int32)), update)
