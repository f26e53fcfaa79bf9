"""`RatePlan`: everything a run has to know of its learning rates, worked out once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxbert.errors import InputError
from jaxbert.optim import averages, layers
from jaxbert.optim.config import OptimizerConfig
from jaxbert.optim.groups import Group, make_groups
from jaxbert.optim.optimizer import make_chain
from jaxbert.optim.schedules import Schedule, make_schedule

# Fields of `OptimizerConfig` whose effect on a step is the learning rates that it is given. A list
# of what does not count, not of what does: a field forgotten here costs time, not a wrong update.
_RATES_ALONE = (
    "learning_rate",
    "schedule",
    "schedule_options",
    "warmup",
    "layer_decay",
    "convention",
    "head_multiplier",
    "reinitialize_layers",  # of the first parameters, not of the step
)


# By identity: it stands for one run, and functions do not compare.
@dataclass(frozen=True, eq=False)
class RatePlan:
    """Which parameter of a run trains how fast, and when; and the optimizer that does so.

    Attributes:
      config: the configuration it was made from.
      total_steps: of the run.
      steps_per_epoch: of the run.
      labels: {path: label} of every parameter.
      groups: {name: group}, from input to output; the order of `peaks` and `schedules` too.
      peaks: {group: learning rate where the schedule is at 1}, 0 for frozen groups.
      schedules: {group: step -> learning rate}, 0 for frozen groups and before a group's epoch.
      trainable: a tree like the parameters of bool: False where a leaf is frozen, True where it
        trains, sooner or later.
      optimizer: see `optimizer.make_chain` for what its `update` takes.

    Example:
      >>> params = {"encoder": {"layers": {"0": {"bias": jnp.zeros(3)}}},
      ...           "head": {"bias": jnp.zeros(2)}}
      >>> config = OptimizerConfig(learning_rate=0.5, layer_decay=0.25, warmup=2)
      >>> plan = RatePlan.make(config, params, total_steps=10, steps_per_epoch=5)
      >>> plan.peaks
      {'layer_0': 0.125, 'head': 0.5}
      >>> [float(plan.schedules["head"](step)) for step in (0, 1, 2, 6, 10)]
      [0.0, 0.25, 0.5, 0.25, 0.0]
      >>> plan.trainable
      {'encoder': {'layers': {'0': {'bias': True}}}, 'head': {'bias': True}}
      >>> state = plan.optimizer.init(params)
    """

    config: OptimizerConfig
    total_steps: int
    steps_per_epoch: int
    labels: Mapping[str, str]
    groups: Mapping[str, Group]
    peaks: Mapping[str, float]
    schedules: Mapping[str, Schedule]
    trainable: Any
    optimizer: optax.GradientTransformationExtraArgs

    @classmethod
    def make(
        cls, config: OptimizerConfig, params: Any, total_steps: int, steps_per_epoch: int
    ) -> RatePlan:
        """The plan of a run.

        Args:
          config: the configuration.
          params: a tree of arrays or ShapeDtypeStructs; of it only paths and structure count.
          total_steps: of the run, at least 1.
          steps_per_epoch: at least 1; for the epochs of `unfreezing`, rounded to whole steps.

        Returns:
          The plan.

        Raises:
          InputError: parameters without a label, rows that decide nothing, everything frozen, a
            schedule that does not fit into the run.
        """
        if not isinstance(steps_per_epoch, int) or steps_per_epoch < 1:
            raise InputError(f"{steps_per_epoch=} must be a whole number, at least 1")
        labels = layers.leaf_labels(params)
        groups = make_groups(config, labels)
        peaks = {
            name: 0.0 if group.frozen else config.learning_rate * group.multiplier
            for name, group in groups.items()
        }
        factor = make_schedule(
            config.schedule, total_steps, config.warmup, **dict(config.schedule_options)
        )
        schedules = {
            name: _rate(peaks[name], factor, group.first_step(steps_per_epoch))
            for name, group in groups.items()
        }
        trains = {path: not group.frozen for group in groups.values() for path in group.paths}
        return cls(
            config=config,
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
            labels=labels,
            groups=groups,
            peaks=peaks,
            schedules=schedules,
            trainable=layers.path_tree(params, trains),
            optimizer=make_chain(config, params, groups, schedules, steps_per_epoch),
        )

    @property
    def averages(self) -> bool:
        """Whether others than the parameters that train are evaluated and saved."""
        return averages.is_averaged(self.config)

    def evaluated(self, state: optax.OptState, params: Any) -> Any:
        """What is evaluated and saved: the parameters that train, or an average of them.

        Args:
          state: of the optimizer, after one update at least.
          params: those that train.

        Returns:
          A tree like `params`.

        Example:
          >>> params = {"head": {"bias": jnp.zeros(2)}}
          >>> plan = RatePlan.make(OptimizerConfig(), params, 10, 5)
          >>> plan.evaluated(plan.optimizer.init(params), params) is params
          True
        """
        return averages.evaluated(self.config, state, params)

    @property
    def program_key(self) -> str:
        """What a compiled step depends on beyond the learning rates that it is given, as JSON.

        Two plans for one model with the same key have optimizers whose `update`, given
        `learning_rates`, is the same function of the same state: one compiled step serves both.
        Steps per epoch count only where groups wake, at steps that are constants of the program.

        Example:
          >>> params = {"head": {"bias": jnp.zeros(2)}}
          >>> keys = [RatePlan.make(config, params, 10, 5).program_key for config in (
          ...     OptimizerConfig(), OptimizerConfig(learning_rate=1.0, schedule="cosine"),
          ...     OptimizerConfig(weight_decay=0.0))]
          >>> keys[0] == keys[1], keys[0] == keys[2]
          (True, False)
        """
        settings = dataclasses.asdict(self.config)
        for name in _RATES_ALONE:
            del settings[name]
        if self.config.unfreezing:
            settings["steps_per_epoch"] = self.steps_per_epoch
        return json.dumps(settings)


def _rate(peak: float, factor: Schedule, first_step: int) -> Schedule:
    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        return jnp.where(jnp.asarray(step) >= first_step, peak * factor(step), 0.0)

    return rate


def make_optimizer(
    config: OptimizerConfig, params: Any, total_steps: int, steps_per_epoch: int
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of `RatePlan.make`, for whoever needs nothing else of the plan.

    Args:
      config: the configuration.
      params: a tree of arrays or ShapeDtypeStructs.
      total_steps: of the run, at least 1.
      steps_per_epoch: at least 1; for the epochs of `unfreezing`.

    Returns:
      A transformation whose `update` wants the parameters too, and takes `learning_rates={group:
      rate}` instead of the schedules' own.

    Raises:
      InputError: as `RatePlan.make`.

    Example:
      >>> params = {"head": {"kernel": jnp.ones((3, 2))}}
      >>> config = OptimizerConfig("sgd", 0.5, "constant", weight_decay=0.0, clip_norm=None)
      >>> optimizer = make_optimizer(config, params, total_steps=10, steps_per_epoch=5)
      >>> updates, state = optimizer.update(params, optimizer.init(params), params)
      >>> updates["head"]["kernel"].tolist()
      [[-0.5, -0.5], [-0.5, -0.5], [-0.5, -0.5]]
    """
    return RatePlan.make(config, params, total_steps, steps_per_epoch).optimizer
