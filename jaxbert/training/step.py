"""The training step and the evaluation step: pure functions of a state and a batch.

They know no devices and do no I/O; an engine decides where they run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int, UInt32

from jaxbert import cpu
from jaxbert.models import Dropout, dropout_key, merge_model
from jaxbert.optim import RatePlan
from jaxbert.optim.layers import leaf_paths
from jaxbert.tasks import Task
from jaxbert.tasks.losses import SumAndCount
from jaxbert.training.engines import OverRows
from jaxbert.training.points import gradient_of

Params = Any
Batch = Mapping[str, Array]
Shard = Callable[[OverRows], OverRows]

# What of a batch the model reads; the rest is the loss's or the host's.
MODEL_INPUTS = ("input_ids", "token_type_ids", "segment_ids", "segment_starts", "columns")


class TrainState(NamedTuple):
    """Everything that a training step changes, and the seed of its dropout.

    step: updates done. params, opt_state: trees of arrays; the parameters in float32, whatever the
    model keeps its own in: an update is smaller than what bfloat16 can tell apart.
    """

    step: Int[Array, ""]
    seed: UInt32[Array, ""]
    params: Params
    opt_state: optax.OptState


def unsharded(function: OverRows) -> OverRows:
    """`function` as it is. The place for an engine's way of giving each device some of the rows."""
    return function


def init_state(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step; takes `params` over (a step gives their memory away)."""
    params = cast(params, "float32")
    return TrainState(
        jnp.zeros((), jnp.int32), jnp.asarray(seed, jnp.uint32), params, optimizer.init(params)
    )


def cast(params: Params, dtype: str) -> Params:
    """The parameters in that dtype; those that are in it already, as they are."""
    return jax.tree.map(lambda leaf: leaf if leaf.dtype == dtype else leaf.astype(dtype), params)


def make_train_step(
    graphdef: Any,
    plan: RatePlan,
    task: Task,
    *,
    smoothing: float = 0.0,
    accumulation: int = 1,
    param_dtype: str = "float32",
    shard: Shard = unsharded,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """(state, batch, rates) -> (state, {"loss", "count", "grad_norm", "grad_norms"}).

    rates: {group: [] float32}, the learning rates of this step; left out, the optimizer's own. As
    an argument, and not a constant of the program, they never make it compile anew.
    grad_norms: {label: norm} of the gradient's parts, `grad_norm` that of the whole, both before
    clipping.

    Args:
      graphdef: of the model, from `split_model`.
      plan: the optimizer, and what is trainable; the rest is not differentiated.
      task: gives the loss.
      smoothing: of labels.
      accumulation: the batch's rows are taken in so many equal microbatches, one after the other.
        Their sums are divided once, by the whole batch's count: as for the batch in one piece.
      param_dtype: in which the model has its parameters.
      shard: of the engine that runs it, see `engines.Engine.shard`.
    """

    def loss_sum(trainable: Params, frozen: Params, rows: Batch, key: Array) -> SumAndCount:
        model = merge_model(graphdef, _combine(trainable, frozen))
        rows = task.prepared(rows, key)
        outputs = model(**model_inputs(rows), dropout=Dropout(key, rows["token_index"]))
        with jax.named_scope("loss"):
            return task.loss(outputs, rows, smoothing)

    def sums(params: Params, batch: Batch, key: Array) -> tuple[Any, Any]:
        trainable, frozen = _partition(cast(params, param_dtype), plan.trainable)

        def gradient(rows: Batch) -> tuple[Array, Array, Params]:
            run = jax.value_and_grad(loss_sum, has_aux=True)
            (total, count), grads = run(trainable, frozen, rows, key)
            return total, count, jax.tree.map(lambda g: g.astype(jnp.float32), grads)

        return (), _accumulate(gradient, batch, accumulation)

    def step(
        state: TrainState, batch: Batch, rates: Mapping[str, Array] | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        key = dropout_key(state.seed, state.step)

        def gradient(params: Params) -> tuple[Array, Array, Params]:
            return _means(*shard(sums)(_as_read(graphdef, params, param_dtype), batch, key)[1])

        loss, count, grads = gradient_of(plan.config, gradient, state.params, state.opt_state, key)
        with jax.named_scope("gradient_norms"):
            norms = _norms(grads, plan.labels)
        return _updated(plan, state, grads, rates), {"loss": loss, "count": count, **norms}

    return step


def _as_read(graphdef: Any, params: Params, param_dtype: str) -> Params:
    """The parameters in `param_dtype`; those that only products read, in these products' dtype.

    Before they are gathered, for it is half the bytes on the wire.
    """
    params = cast(params, param_dtype)
    dtype, paths = merge_model(graphdef, params).compute.operand_dtype, iter(leaf_paths(params))

    def read(leaf: Array) -> Array:
        narrows = next(paths).endswith("/kernel") and dtype.itemsize < leaf.dtype.itemsize
        return leaf.astype(dtype) if narrows else leaf

    return jax.tree.map(read, params)


def _means(total: Array, count: Array, grads: Params) -> tuple[Array, Array, Params]:
    """(loss, count, gradient) from the sums."""
    count = jnp.where(count > 0, count, 1.0)  # nothing counts: a loss of 0, and no gradient
    return total / count, count, jax.tree.map(lambda g: g / count, grads)


@jax.named_scope("optimizer")
def _updated(
    plan: RatePlan, state: TrainState, grads: Params, rates: Mapping[str, Array] | None
) -> TrainState:
    """The state after an update; `grads` has None where a leaf is frozen."""
    _, frozen = _partition(state.params, plan.trainable)
    grads = _combine(grads, jax.tree.map(jnp.zeros_like, frozen))
    updates, opt_state = plan.optimizer.update(
        grads, state.opt_state, state.params, learning_rates=rates
    )
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, state.seed, params, opt_state)


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
    graphdef: Any, task: Task, *, shard: Shard = unsharded
) -> Callable[[Params, Batch], dict[str, Any]]:
    """(params, batch) -> {"results": {name: rows}, and with labels "loss_sum", "count"}.

    Without dropout and without smoothing. The results are the task's.
    """

    def results_and_sums(model: nnx.Module, batch: Batch) -> tuple[Any, tuple[Array, ...]]:
        batch = task.prepared(batch, dropout_key(0, 0))
        outputs = model(**model_inputs(batch))
        sums = task.loss(outputs, batch, 0.0) if "labels" in batch else ()
        return dict(task.results(outputs, batch)), sums

    def step(params: Params, batch: Batch) -> dict[str, Any]:
        results, sums = shard(in_microbatches(graphdef, results_and_sums))(params, batch)
        return {"results": results, **dict(zip(("loss_sum", "count"), sums, strict=False))}

    return step


def model_inputs(batch: Batch) -> dict[str, Array]:
    """What of a batch a model is called with."""
    return {name: batch[name] for name in MODEL_INPUTS if name in batch}


def in_microbatches(
    graphdef: Any, function: Callable[[nnx.Module, Batch], tuple[Any, Any]]
) -> OverRows:
    """`function` of a model and rows; on CPUs it is given some of the rows at a time.

    For evaluation: a gradient through the loop would store what the loop is there to keep small.
    """

    def over_rows(params: Params, batch: Batch) -> tuple[Any, Any]:
        model = merge_model(graphdef, params)
        rows_and_length = batch["input_ids"].shape
        count = cpu.cached_microbatches(*rows_and_length) if model.compute.on_cpu else 1
        if count == 1:
            return function(model, batch)
        rows, sums = jax.lax.map(lambda part: function(model, part), _split_rows(batch, count))
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)
        return rows, jax.tree.map(lambda leaf: leaf.sum(axis=0), sums)

    return over_rows


def _split_rows(batch: Batch, count: int) -> Batch:
    """Rows [B, ...] -> [count, B / count, ...]."""
    return {name: rows.reshape(count, -1, *rows.shape[1:]) for name, rows in batch.items()}


def global_norm(params: Params) -> float:
    """The Euclidean norm of all parameters; not finite where one of them is not, or is enormous."""
    return float(_global_norm(params))


@jax.jit
def _global_norm(params: Params) -> Array:
    squares = [jnp.square(leaf.astype(jnp.float32)).sum() for leaf in jax.tree.leaves(params)]
    return jnp.sqrt(jnp.stack(squares).sum())


def _accumulate(gradient: Callable[[Batch], Any], batch: Batch, count: int) -> Any:
    """The sum of `gradient` over the batch's rows in `count` equal microbatches."""
    if count == 1:
        return gradient(batch)

    batch = _split_rows(batch, count)
    zero = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(gradient, {name: rows[0] for name, rows in batch.items()}),
    )
    add = lambda total, rows: (jax.tree.map(jnp.add, total, gradient(rows)), None)  # noqa: E731
    return jax.lax.scan(add, zero, batch)[0]


def _partition(params: Params, trainable: Params) -> tuple[Params, Params]:
    """(the trainable leaves, the frozen ones), with None, which is no leaf, in the gaps."""
    first = jax.tree.map(lambda leaf, moves: leaf if moves else None, params, trainable)
    second = jax.tree.map(lambda leaf, moves: None if moves else leaf, params, trainable)
    return first, second


def _combine(trainable: Params, frozen: Params) -> Params:
    return jax.tree.map(
        lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda x: x is None
    )
