"""`Trainer`: fits, evaluates and predicts with a text classifier; moves data, computes nothing."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxbert.data import Batches, Examples, save_tokenizer, tokenize
from jaxbert.models import merge_model, split_model
from jaxbert.optim import learning_rates, make_optimizer, peak_rates, trainable_mask
from jaxbert.optim.layers import leaf_paths, reinitialised_paths
from jaxbert.training import distributed, inference, metrics, parallel, record
from jaxbert.training.checkpoint import Checkpoints
from jaxbert.training.config import TrainConfig
from jaxbert.training.loop import DivergedError, Evaluation, Loop, Preempted
from jaxbert.training.losses import LOSSES
from jaxbert.training.step import Params, init_state, make_eval_step, make_train_step

# What a resumed run may be told anew: it changes what is written, and no number of the training.
_FREE = ("log_every", "checkpoint_every", "keep_checkpoints", "parallel", "mesh")


class Trainer:
    """Fine-tunes a sequence classification model on labelled texts.

    Args:
      model: a `BertForSequenceClassification`. Its config gives the labels' names and the problem
        type; where it has no problem type, the training examples decide.
      tokenizer: from `load_tokenizer`.
      train: labelled examples; may be left out for evaluation and prediction.
      evaluation: labelled examples by which the best model is chosen; without them the last is.
      config: how to train.
      output: where the run is written: the best model with its tokenizer, run.json, metrics.jsonl,
        TensorBoard events, checkpoints. None writes nothing.
      overwrite: delete a run that is in `output` already.
      resume: continue the run that is in `output`.
      about: what to keep with the run's description, JSON.
      cache_dir: where token ids are kept between runs.
      progress: show a bar; None = where standard error is a terminal.

    Raises:
      ValueError: settings that do not fit the model or the data.
      FileExistsError: `output` holds something and neither `overwrite` nor `resume` is set.
    """

    def __init__(
        self,
        model: nnx.Module,
        tokenizer: Any,
        *,
        train: Examples | None = None,
        evaluation: Examples | None = None,
        config: TrainConfig | None = None,
        output: str | Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
        about: dict[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        progress: bool | None = None,
    ) -> None:
        self.config = config or TrainConfig()
        self.tokenizer = tokenizer
        self.output = None if output is None else Path(output)
        self._about = about or {}
        self._cache_dir = cache_dir
        self._show = sys.stderr.isatty() if progress is None else progress
        self._show = self._show and distributed.is_first()
        self.problem_type = _problem_type(model, train)
        self._check_length(model)
        self._graphdef, self._params = split_model(_described(model, self.problem_type, train))
        self._model = model
        if train is not None and evaluation is None:
            _check_needs_no_evaluation(self.config)
        self._engine = parallel.make_engine(self.config.parallel, self.config.mesh)
        if train is not None:
            self._engine.check(self.config.batch_size, self.config.accumulation)
        loss = LOSSES[self.problem_type]
        self._loss = partial(loss, smoothing=self.config.label_smoothing)
        step = make_eval_step(self._graphdef, loss, across=self._engine.across)
        self._eval_step = parallel.Compiled(step, self._engine)
        self._metric = metrics.selection_metric(self.problem_type, self.config.metric)
        self._examples = {"train": train, "evaluation": evaluation}
        self._train = None if train is None else self._batches(train, training=True)
        self._evaluation = None
        if evaluation is not None:
            self._check_labels(evaluation)
            self._evaluation = self._batches(evaluation)
        self._resume, self._fitted = resume, False
        self._best: Params | None = None
        if self.output is not None and train is not None:
            if resume:
                self._check_run()
            elif distributed.is_first():
                record.prepare(self.output, overwrite=overwrite)
                # From here on there is a run to resume, even if it stops before its first step.
                record.write_run(self.output, {"status": record.PREPARED, **self._identity()})

    @property
    def model(self) -> nnx.Module:
        """The model with the present parameters: after `fit`, the best."""
        return merge_model(self._graphdef, self._params)

    def fit(self) -> dict[str, Any]:
        """Trains, and returns what run.json holds.

        Raises:
          DivergedError: the loss is no longer finite; the last good checkpoint is kept.
          KeyboardInterrupt: on Ctrl-C, after the present step, with a checkpoint written; on
            SIGTERM the subclass `Preempted`.
        """
        if self._train is None:
            raise ValueError("fit() needs training examples: Trainer(..., train=examples)")
        if self._fitted:
            raise ValueError("fit() has been called: make a new Trainer to train again or resume")
        self._fitted, started = True, time.perf_counter()
        checkpoints = None
        if self.output is not None:
            directory = self.output / record.CHECKPOINTS
            checkpoints = Checkpoints(directory, self.config.keep_checkpoints)
        self._engine.say_what_is_idle()
        loop = self._loop(checkpoints)
        if self._resume:
            loop.restore()
        written = self.output if distributed.is_first() else None
        lines = record.Record(written, loop.progress.step, loop.progress.evaluated)
        self._describe(loop, "running", started)
        status = "failed"
        try:
            loop.run(lines)
            self._params = self._chosen(loop)
            status = "finished"
        except KeyboardInterrupt as stop:
            status = "preempted" if isinstance(stop, Preempted) else "interrupted"
            raise
        except DivergedError:
            status = "diverged"
            raise
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            checkpoints = None  # to close them it would wait for the others
            raise distributed.lost(error) from error
        finally:
            lines.close()
            if checkpoints is not None:
                checkpoints.close()
            run = self._describe(loop, status, started)
        return run

    def rate_losses(self, rates: Sequence[float]) -> list[float]:
        """The loss of each step of a training in which the base rate takes these values.

        For a range test: the groups keep their multipliers, the model stays as it is. Ends early
        with a loss that is no finite number.
        """
        if self._train is None:
            raise ValueError("rate_losses() needs training examples: Trainer(..., train=examples)")
        config = self.config.optimizer
        peaks = peak_rates(config, self._params)
        shares = {group: peak / config.learning_rate for group, peak in peaks.items()}
        loop = self._loop(None)
        return loop.losses(
            {group: np.float32(rate * share) for group, share in shares.items()} for rate in rates
        )

    def evaluate(self, examples: Examples) -> dict[str, float]:
        """Loss and every metric of the problem on labelled examples."""
        self._check_labels(examples)
        return self._score(self._params, self._batches(examples), examples)

    def logits(self, texts: Sequence[str] | Examples) -> np.ndarray:
        """[N, C] float32, in the order of the texts."""
        batches = self._batches(inference.as_examples(texts))
        return self._run(self._params, batches)["logits"]

    def predict(self, texts: Sequence[str] | Examples) -> list[dict[str, Any]]:
        """For each text {"label", "probabilities": {label: p}}, or {"score"} of a regression."""
        logits = self.logits(texts)
        if self.problem_type == "regression":
            return [{"score": float(row[0])} for row in logits]
        names = self.model.config.id2label or tuple(map(str, range(logits.shape[1])))
        return [
            {
                "label": names[int(row.argmax())],
                "probabilities": dict(zip(names, map(float, row), strict=True)),
            }
            for row in inference.probabilities(logits)
        ]

    def _check_length(self, model: nnx.Module) -> None:
        most = model.config.max_position_embeddings
        if self.config.max_length > most:
            raise ValueError(
                f"max_length={self.config.max_length} is more than the model's {most} positions"
            )

    def _batches(self, examples: Examples, *, training: bool = False) -> Batches:
        config = self.config
        tokenized = tokenize(examples, self.tokenizer, config.max_length, self._cache_dir)
        known = self._train.shapes if not training and self._train is not None else ()
        size = config.batch_size
        if not training and config.eval_batch_size:
            size, known = config.eval_batch_size, ()
        return Batches(
            tokenized,
            size,
            max_length=config.max_length,
            layout=config.layout,
            shuffle=training,
            seed=config.seed,
            part=(jax.process_index(), jax.process_count()),
            row_multiple=self._engine.parts * (config.accumulation if training or known else 1),
            shapes=known,
        )

    def _check_labels(self, examples: Examples) -> None:
        """That labels are there, and mean what the model's do."""
        if examples.labels is None:
            raise ValueError(f"{examples.source}: evaluation needs labels")
        if examples.problem_type not in (None, self.problem_type):
            raise ValueError(
                f"the model is for {self.problem_type}, the labels of {examples.source} are "
                f"{examples.problem_type}"
            )
        _check_names(self.model.config.id2label, examples)

    def _score(self, params: Params, batches: Batches, examples: Examples) -> dict[str, float]:
        found = self._run(params, batches)
        guesses = inference.predictions(self.problem_type, found["logits"])
        scores = metrics.compute_scores(self.problem_type, examples.labels, guesses)
        return {"loss": found["loss"], **scores}

    def _run(self, params: Params, batches: Batches) -> dict[str, Any]:
        return inference.run_batches(self._eval_step, self._engine.place(params), batches)

    def _loop(self, checkpoints: Checkpoints | None) -> Loop:
        """The loop at its first step, with everything it needs."""
        config, batches = self.config, self._train
        params = initial_params(self._model, config)
        steps_per_epoch = batches.steps_per_epoch
        plan = (config.optimizer, params, config.epochs * steps_per_epoch, steps_per_epoch)
        optimizer = make_optimizer(*plan)
        step = make_train_step(
            self._graphdef,
            optimizer,
            self._loss,
            trainable=trainable_mask(config.optimizer, params),
            accumulation=config.accumulation,
            across=self._engine.across,
        )
        # A copy: the state's memory is given to each next state, the caller's model is not.
        own = jax.tree.map(jnp.copy, params)
        return Loop(
            config,
            batches,
            parallel.Compiled(step, self._engine, donate=True),
            self._engine.place(init_state(own, optimizer, config.seed)),
            learning_rates(*plan),
            evaluation=self._evaluate_with(),
            checkpoints=checkpoints,
            show=self._show,
        )

    def _evaluate_with(self) -> Evaluation | None:
        batches, examples = self._evaluation, self._examples["evaluation"]
        if batches is None:
            return None
        score = partial(self._score, batches=batches, examples=examples)
        return Evaluation(score, *self._metric, self._keep_best)

    def _keep_best(self, params: Params) -> None:
        """Goes to disk at once, or is kept in memory where there is no output."""
        if self.output is None:
            self._best = self._engine.whole(params)
        else:
            self._write_model(params)

    def _write_model(self, params: Params) -> None:
        params = self._engine.whole(params)
        if distributed.is_first():
            merge_model(self._graphdef, params).save_pretrained(self.output)
            save_tokenizer(self.tokenizer, self.output)

    def _chosen(self, loop: Loop) -> Params:
        """The best parameters, and the last where none were evaluated."""
        if loop.progress.best is None:
            if self.output is not None:
                self._write_model(loop.state.params)
            return loop.state.params
        if self.output is None:
            return jax.tree.map(jnp.asarray, self._best)
        distributed.wait_for_all("the best model is written")
        compute = dataclasses.asdict(self._model.compute)
        return split_model(type(self._model).from_pretrained(self.output, **compute))[1]

    def _check_run(self) -> None:
        """That the run in `output` is this one, so that it can go on where it stopped."""
        run = record.read_run(self.output)
        now = self._identity()
        differ = [
            key
            for part in ("config", "compute", "model_config")
            for key, value in now[part].items()
            if key not in _FREE and run.get(part, {}).get(key) != value
        ]
        for name, examples in self._examples.items():
            before = run["data"].get(name, {}).get("fingerprint")
            if before != (None if examples is None else examples.fingerprint):
                differ.append(f"the {name} examples")
        if differ:
            raise ValueError(
                f"output {self.output} holds a run that differs in {', '.join(differ)}; resume it "
                "as it was, or start another in another directory"
            )

    def _identity(self) -> dict[str, Any]:
        """What a run is, from before its first step to its end."""
        identity = {
            **self._about,
            "config": dataclasses.asdict(self.config),
            "compute": dataclasses.asdict(self._model.compute),
            "model_config": self.model.config.to_hf(),
            "data": record.describe_data(self._examples, self._train.stats),
        }
        return _as_json(identity)

    def _describe(self, loop: Loop, status: str, started: float) -> dict[str, Any]:
        """Writes and returns the run's description."""
        progress = loop.progress
        run = {
            "status": status,
            "step": progress.step,
            "total_steps": loop.total_steps,
            "best": {
                "metric": self._metric[0],
                "score": progress.best,
                "step": progress.best_step,
            },
            "evaluations": progress.history,
            **self._identity(),
            "compilation": {
                "train_shapes": sorted(set(loop.compiled.shapes)),
                "possible_shapes": len(self._train.shapes),
                "seconds": round(loop.compiled.seconds + self._eval_step.seconds, 2),
            },
            "seconds": round(time.perf_counter() - started, 2),
            "seconds_waiting_for_data": round(loop.seconds_waited, 3),
            **record.environment(),
        }
        run = _as_json(run)
        if self.output is not None and distributed.is_first():
            record.write_run(self.output, run)
        return run


def initial_params(model: nnx.Module, config: TrainConfig) -> Params:
    """The model's parameters, with the top layers drawn anew where the optimizer says so."""
    params = split_model(model)[1]
    paths = set(reinitialised_paths(params, config.optimizer.reinitialise_layers))
    if not paths:
        return params
    rngs = nnx.Rngs(config.seed)
    fresh = type(model)(model.config, rngs=rngs, compute=model.compute)
    names = iter(leaf_paths(params))
    return jax.tree.map(
        lambda old, new: new if next(names) in paths else old, params, split_model(fresh)[1]
    )


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _check_needs_no_evaluation(config: TrainConfig) -> None:
    unused = [n for n in ("eval_every", "metric", "patience") if getattr(config, n) is not None]
    if unused:
        raise ValueError(f"{', '.join(unused)} set without evaluation examples; give some")


def _problem_type(model: nnx.Module, train: Examples | None) -> str:
    """From the model, or the training labels; checks that the two, and the width, agree."""
    ours, theirs = model.config.problem_type, None if train is None else train.problem_type
    if train is not None and train.labels is None:
        raise ValueError(f"{train.source}: training needs labels")
    if ours and theirs and ours != theirs:
        raise ValueError(f"the model is for {ours}, the labels of {train.source} are {theirs}")
    problem = ours or theirs or "single_label_classification"
    width = model.config.num_labels
    if problem == "regression" and width != 1:
        raise ValueError(f"regression needs num_labels=1, the model has {width}")
    if theirs == "single_label_classification" and len(train.label_names) > width:
        raise ValueError(
            f"{train.source} has {len(train.label_names)} labels "
            f"({', '.join(train.label_names[:5])} ...), the model has num_labels={width}"
        )
    return problem


def _described(model: nnx.Module, problem_type: str, train: Examples | None) -> nnx.Module:
    """A copy whose configuration says what it is for and, where it does not yet, of which classes.

    The parameters are shared; the caller's module is left as it is.
    """
    config, names = model.config, None if train is None else train.label_names
    if names is not None:
        _check_names(config.id2label, train)
    if config.id2label is None and names is not None and len(names) == config.num_labels:
        config = dataclasses.replace(config, id2label=tuple(names))
    copy = merge_model(*split_model(model))
    copy.config = dataclasses.replace(config, problem_type=problem_type)
    return copy


def _check_names(ours: tuple[str, ...] | None, examples: Examples) -> None:
    theirs = examples.label_names
    if ours is not None and theirs is not None and ours[: len(theirs)] != tuple(theirs):
        raise ValueError(
            f"{examples.source} numbers its labels {', '.join(theirs)}, the model "
            f"{', '.join(ours)}; load the examples with label_names={list(ours)}, or the model "
            f"with labels={list(theirs)}"
        )
