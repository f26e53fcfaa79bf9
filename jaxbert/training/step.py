"""The training step and the evaluation step: pure functions of a state and a batch.

They know no devices and do no I/O; `parallel` decides where they run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxbert.models import Dropout, dropout_key, merge_model
from jaxbert.optim.layers import leaf_labels, leaf_paths
from jaxbert.training.losses import SumAndCount

Array = jax.Array
Params = Any
Batch = Mapping[str, Array]
Loss = Callable[[Array, Array, Array], SumAndCount]
# (params, batch, ...) -> (results [B, ...] for each row, sums over all rows)
OverRows = Callable[..., tuple[Any, Any]]

# Of so many tokens what a layer computes stays in a CPU's last-level cache until it is read.
CACHED_TOKENS = 2048
# What of a batch the model reads; the rest is the loss's or the host's.
MODEL_INPUTS = ("input_ids", "token_type_ids", "position_ids", "segment_ids", "segment_starts")


class TrainState(NamedTuple):
    """Everything that a training step changes, and the seed of its dropout.

    step: [] int32, updates done. seed: [] uint32. params, opt_state: trees of arrays.
    """

    step: Array
    seed: Array
    params: Params
    opt_state: optax.OptState


def on_one_device(function: OverRows) -> OverRows:
    """`function` as it is. The place for an engine's way of giving each device some of the rows."""
    return function


def init_state(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step; takes `params` over (a step gives their memory away)."""
    return TrainState(
        jnp.zeros((), jnp.int32), jnp.asarray(seed, jnp.uint32), params, optimizer.init(params)
    )


def make_train_step(
    graphdef: Any,
    optimizer: optax.GradientTransformationExtraArgs,
    loss: Loss,
    *,
    trainable: Params,
    accumulation: int = 1,
    across: Callable[[OverRows], OverRows] = on_one_device,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """(state, batch, rates) -> (state, {"loss", "count", "grad_norm", "grad_norms"}).

    rates: {group: [] float32}, the learning rates of this step; left out, the optimizer's own. As
    an argument, and not a constant of the program, they never make it compile anew.
    grad_norms: {label: norm} of the gradient's parts, `grad_norm` that of the whole, both before
    clipping.

    Args:
      graphdef: of the model, from `split_model`.
      loss: (logits, labels, weights) -> (sum, count).
      trainable: a tree like the parameters' of bool; the others are not differentiated.
      accumulation: the batch's rows are taken in so many equal parts, one after the other. The
        parts' sums are divided once, by the whole batch's count, so the result is the large
        batch's.
      across: of the engine that runs it, see `parallel.Jit`.
    """

    def loss_sum(moving: Params, resting: Params, part: Batch, key: Array) -> SumAndCount:
        model = merge_model(graphdef, _join(moving, resting))
        logits = model(**model_inputs(part), dropout=Dropout(key, part["token_index"]))
        return loss(logits, part["labels"], part["weights"])

    def sums(params: Params, batch: Batch, key: Array) -> tuple[Any, Any]:
        moving, resting = _split(params, trainable)

        def gradient(part: Batch) -> tuple[Array, Array, Params]:
            run = jax.value_and_grad(loss_sum, has_aux=True)
            (total, count), grads = run(moving, resting, part, key)
            return total, count, jax.tree.map(lambda g: g.astype(jnp.float32), grads)

        return (), _accumulate(gradient, batch, accumulation)

    def step(
        state: TrainState, batch: Batch, rates: Mapping[str, Array] | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        key = dropout_key(state.seed, state.step)
        _, (total, count, grads) = across(sums)(state.params, batch, key)
        grads = jax.tree.map(lambda g: g / count, grads)
        norms = _norms(grads, leaf_labels(state.params))
        moving, resting = _split(state.params, trainable)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, moving)
        grads = _join(grads, jax.tree.map(jnp.zeros_like, resting))
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params, learning_rates=rates
        )
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": total / count, "count": count, **norms}
        return TrainState(state.step + 1, state.seed, params, opt_state), metrics

    return step


def _norms(grads: Params, label_of: Mapping[str, str]) -> dict[str, Any]:
    """The norm of the gradient, and of the part of it that each label has."""
    squares: dict[str, Array] = {}
    for path, leaf in zip(leaf_paths(grads), jax.tree.leaves(grads), strict=True):
        label = label_of[path]
        squares[label] = squares.get(label, 0.0) + jnp.square(leaf).sum()
    total = jnp.stack([*squares.values()]).sum()
    return {
        "grad_norm": jnp.sqrt(total),
        "grad_norms": {label: jnp.sqrt(square) for label, square in squares.items()},
    }


def make_eval_step(
    graphdef: Any, loss: Loss, *, across: Callable[[OverRows], OverRows] = on_one_device
) -> Callable[[Params, Batch], dict[str, Array]]:
    """(params, batch) -> {"logits", and with labels "loss_sum", "count"}; no dropout."""

    def logits_and_sums(model: nnx.Module, batch: Batch) -> tuple[Array, tuple[Array, ...]]:
        logits = model(**model_inputs(batch))
        if "labels" not in batch:
            return logits, ()
        return logits, loss(logits, batch["labels"], batch["weights"])

    def step(params: Params, batch: Batch) -> dict[str, Array]:
        logits, sums = across(part_by_part(graphdef, logits_and_sums))(params, batch)
        return {"logits": logits, **dict(zip(("loss_sum", "count"), sums, strict=False))}

    return step


def model_inputs(batch: Batch) -> dict[str, Array]:
    """What of a batch a model is called with."""
    return {name: batch[name] for name in MODEL_INPUTS if name in batch}


def part_by_part(
    graphdef: Any, function: Callable[[nnx.Module, Batch], tuple[Any, Any]]
) -> OverRows:
    """`function` of a model and rows; on CPUs it is given some of the rows at a time.

    For evaluation: a gradient through the loop would store what the loop is there to keep small.
    """

    def over_rows(params: Params, batch: Batch) -> tuple[Any, Any]:
        model = merge_model(graphdef, params)
        parts = _cached_parts(*batch["input_ids"].shape) if model.compute.on_cpu else 1
        if parts == 1:
            return function(model, batch)
        rows, sums = jax.lax.map(lambda part: function(model, part), _in_parts(batch, parts))
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)
        return rows, jax.tree.map(lambda leaf: leaf.sum(axis=0), sums)

    return over_rows


def _cached_parts(rows: int, length: int) -> int:
    """In how many equal parts so many rows have at most, and at least half of, `CACHED_TOKENS`."""
    fewest = -(-rows * length // CACHED_TOKENS)
    return next((parts for parts in range(fewest, 2 * fewest) if rows % parts == 0), 1)


def _in_parts(batch: Batch, parts: int) -> Batch:
    """Rows [B, ...] -> [parts, B / parts, ...]."""
    return {name: rows.reshape(parts, -1, *rows.shape[1:]) for name, rows in batch.items()}


def all_finite(params: Params) -> bool:
    """Whether there is neither infinity nor NaN in any parameter."""
    return bool(_all_finite(params))


@jax.jit
def _all_finite(params: Params) -> Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def _accumulate(gradient: Callable[[Batch], Any], batch: Batch, parts: int) -> Any:
    """The sum of `gradient` over the batch's rows in `parts` equal parts."""
    if parts == 1:
        return gradient(batch)

    batch = _in_parts(batch, parts)
    zero = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(gradient, {name: rows[0] for name, rows in batch.items()}),
    )
    add = lambda total, part: (jax.tree.map(jnp.add, total, gradient(part)), None)  # noqa: E731
    return jax.lax.scan(add, zero, batch)[0]


def _split(params: Params, trainable: Params) -> tuple[Params, Params]:
    """(the trainable leaves, the others), with None, which is no leaf, in the gaps."""
    moving = jax.tree.map(lambda leaf, moves: leaf if moves else None, params, trainable)
    resting = jax.tree.map(lambda leaf, moves: None if moves else leaf, params, trainable)
    return moving, resting


def _join(moving: Params, resting: Params) -> Params:
    return jax.tree.map(
        lambda a, b: b if a is None else a, moving, resting, is_leaf=lambda x: x is None
    )
