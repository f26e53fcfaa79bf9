"""The one place where a training step is put together: model, task, learning rates, engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxbert.data import Tokenized, vocabulary_size
from jaxbert.errors import InputError
from jaxbert.models import EncoderConfig, split_model
from jaxbert.models.model import Model
from jaxbert.optim import RatePlan
from jaxbert.optim.layers import leaf_paths, reinitialized_paths
from jaxbert.tasks import Task
from jaxbert.training import distributed
from jaxbert.training.config import TrainConfig
from jaxbert.training.engines import Compiled, Engine, Programs
from jaxbert.training.step import Params, TrainState, init_state, make_train_step

logger = logging.getLogger("jaxbert")

# {what a step depends on: its compiled programs}: those of steps that would compile to the same.
ProgramCache = dict[Any, Programs]


class Assembly(NamedTuple):
    """A training that is ready for its first step.

    step: (state, batch, rates) -> (state, values), see `make_train_step`.
    state: before the first step.
    plan: the learning rates.
    start: the parameters before the first step, in the model's dtype.

    Example:
      >>> Assembly._fields
      ('step', 'state', 'plan', 'start')
    """

    step: Compiled
    state: TrainState
    plan: RatePlan
    start: Params


def assemble(
    model: Model,
    task: Task,
    config: TrainConfig,
    engine: Engine,
    steps_per_epoch: int,
    *,
    programs: ProgramCache | None = None,
) -> Assembly:
    """Model, task and settings as a training on an engine's devices.

    Args:
      model: of the task, see `tasks.choose_task`; is left as it is.
      steps_per_epoch: updates in an epoch; with `config.epochs` the length of the schedules.
      programs: where compiled steps are kept, to be shared with trainings that differ in learning
        rates alone; None = for itself.

    Raises:
      InputError: settings that do not fit the model.

    Example:
      >>> from jaxbert import BertConfig, BertForSequenceClassification, TASKS
      >>> from jaxbert.training import make_engine
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
      >>> training = TrainConfig(epochs=2, max_length=16)
      >>> task = TASKS["text-classification"]
      >>> ready = assemble(model, task, training, make_engine(), steps_per_epoch=10)
      >>> int(ready.state.step), ready.plan.total_steps
      (0, 20)
    """
    check_max_length(model.config, config.max_length)
    start = initial_params(model, config)
    graphdef, _ = split_model(model)
    step, plan = make_step(graphdef, start, task, config, engine, steps_per_epoch)
    settings = (config.label_smoothing, config.accumulation, task.key)
    kept = kept_programs(programs, engine, plan.program_key, *settings, graphdef)
    state = first_state(start, plan, config.seed)
    compiled = Compiled(step, engine, donate=True, programs=kept)
    return Assembly(compiled, engine.put_state(state), plan, start)


def first_state(params: Params, plan: RatePlan, seed: int) -> TrainState:
    """Before the first step, of copies: its memory is given away, the caller's model is not.

    In one program: the operations would compile one by one otherwise.
    """

    def copied(params: Params) -> TrainState:
        return init_state(jax.tree.map(jnp.copy, params), plan.optimizer, seed)

    return jax.jit(copied)(params)


def check_optimizer(model: Model, config: TrainConfig, steps_per_epoch: int) -> None:
    """InputError where the optimizer's settings do not fit the model; computes nothing."""
    params = split_model(model)[1]
    reinitialized_paths(params, config.optimizer.reinitialize_layers)
    total_steps = config.epochs * steps_per_epoch
    RatePlan.make(config.optimizer, params, total_steps, steps_per_epoch)


def make_step(
    graphdef: Any,
    params: Params,
    task: Task,
    config: TrainConfig,
    engine: Engine,
    steps_per_epoch: int,
) -> tuple[Callable[..., tuple[TrainState, dict[str, Any]]], RatePlan]:
    """(the step, its learning rates) of a split model, whose parameters may be shapes only."""
    total_steps = config.epochs * steps_per_epoch
    plan = RatePlan.make(config.optimizer, params, total_steps, steps_per_epoch)
    step = make_train_step(
        graphdef,
        plan,
        task,
        smoothing=config.label_smoothing,
        accumulation=config.accumulation,
        param_dtype=jax.tree.leaves(params)[0].dtype.name,
        shard=engine.shard,
    )
    return step, plan


def kept_programs(programs: ProgramCache | None, engine: Engine, *key: Any) -> Programs | None:
    """Of the step that depends on `key`, on this engine; None where none are kept."""
    if programs is None:
        return None
    return programs.setdefault((*key, type(engine), engine.rows), {})


def check_max_length(config: EncoderConfig, max_length: int) -> None:
    """InputError if texts may be longer than the model has positions for."""
    if max_length > config.max_tokens:
        raise InputError(
            f"max_length={max_length} is more than the model's {config.max_tokens} positions: want "
            f"{config.max_tokens} or fewer"
        )


def check_token_ids(
    config: EncoderConfig, tokenized: Tokenized, source: str, tokenizer: Any
) -> None:
    """InputError if a text has a token, or a token type, that the model has no row for.

    Looked up all the same, it would be NaN, and through packing make its neighbours NaN as well.
    """
    beyond = np.flatnonzero(tokenized.input_ids >= config.vocab_size)
    if len(beyond):
        row, token = _place_of(tokenized, int(beyond[0])), int(tokenized.input_ids[beyond[0]])
        raise InputError(
            f"{source}: the text in data row {row} (counted from 1) has token id {token} "
            f"({tokenizer.convert_ids_to_tokens(token)!r}), the model's vocabulary has "
            f"{config.vocab_size} tokens: use the tokenizer that belongs to the model, or give the "
            f"model rows for added tokens and train them: jaxbert finetune "
            f"--resize-token-embeddings, or model.resize_token_embeddings("
            f"{vocabulary_size(tokenizer)})"
        )
    types = config.type_vocab_size
    beyond = np.flatnonzero(tokenized.token_type_ids >= types) if types else beyond
    if len(beyond):
        raise InputError(
            f"{source}: the text in data row {_place_of(tokenized, int(beyond[0]))} (counted from "
            f"1) has token type {tokenized.token_type_ids[beyond[0]]}, the model has "
            f"type_vocab_size={types}: use the tokenizer that belongs to the model"
        )


def tell_what_is_cut(tokenized: Tokenized, source: str, max_length: int) -> None:
    """A line of the logger "jaxbert" where texts of a data set lose their ends."""
    if tokenized.truncated and distributed.is_first():
        logger.warning(
            "%s: %d of %d texts were cut to %d tokens",
            source, tokenized.truncated, len(tokenized), max_length,
        )  # fmt: skip


def _place_of(tokenized: Tokenized, token: int) -> int:
    """The row, counted from 1, that a token of all is in."""
    feature = int(np.searchsorted(tokenized.offsets, token, side="right")) - 1
    return tokenized.example(feature) + 1


def initial_params(model: Model, config: TrainConfig) -> Params:
    """The model's parameters, with the top layers drawn anew where the optimizer says so."""
    params = split_model(model)[1]
    paths = set(reinitialized_paths(params, config.optimizer.reinitialize_layers))
    if not paths:
        return params
    rngs = nnx.Rngs(config.seed)
    fresh = type(model)(model.config, rngs=rngs, compute=model.compute)
    names = iter(leaf_paths(params))
    return jax.tree.map(
        lambda old, new: new if next(names) in paths else old, params, split_model(fresh)[1]
    )
