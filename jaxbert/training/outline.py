"""What a training would be, before any of it: steps, shapes, memory, learning rates."""

from __future__ import annotations

from typing import NamedTuple

import jax

from jaxbert.data import BatchStats, Shape
from jaxbert.models import split_model
from jaxbert.optim import RatePlan
from jaxbert.optim.table import GroupRow, group_table
from jaxbert.training.step import init_state
from jaxbert.training.trainer import Trainer


class Outline(NamedTuple):
    """A training that has not begun.

    Attributes:
      steps_per_epoch, total_steps: updates; patience may end it before.
      shapes: of the batches; each is compiled once.
      stats: of an epoch's tokens.
      parameters, trained: how many there are, and how many are not frozen.
      state_bytes: of the parameters and the optimizer, all devices together.
      gradient_bytes: of the gradient. What the layers keep for it comes on top, and grows with the
        largest shape.
      groups: the learning rates.

    Example:
      >>> Outline._fields[:2]
      ('steps_per_epoch', 'total_steps')
    """

    steps_per_epoch: int
    total_steps: int
    shapes: tuple[Shape, ...]
    stats: BatchStats
    parameters: int
    trained: int
    state_bytes: int
    gradient_bytes: int
    groups: tuple[GroupRow, ...]


def outline(trainer: Trainer) -> Outline:
    """Of a trainer with training examples; computes and writes nothing.

    Raises:
      InputError: it has none, or its settings do not fit the model.
    """
    batches, config = trainer.batches, trainer.config
    steps = batches.steps_per_epoch
    params = jax.eval_shape(lambda: split_model(trainer.model)[1])
    plan = RatePlan.make(config.optimizer, params, config.epochs * steps, steps)
    state = jax.eval_shape(lambda p: init_state(p, plan.optimizer, config.seed), params)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    trains = jax.tree.leaves(plan.trainable)
    trained = sum(size for size, moves in zip(sizes, trains, strict=True) if moves)
    return Outline(
        steps_per_epoch=steps,
        total_steps=config.epochs * steps,
        shapes=tuple(batches.shapes),
        stats=batches.stats,
        parameters=sum(sizes),
        trained=trained,
        state_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
        gradient_bytes=4 * trained,
        groups=tuple(group_table(plan, params)),
    )
