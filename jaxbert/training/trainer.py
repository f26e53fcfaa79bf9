"""`Trainer`: fits a model to labelled examples; moves data, computes nothing."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbert import cpu
from jaxbert.data import Batches, Examples
from jaxbert.errors import DivergedError, InputError, Preempted
from jaxbert.models import merge_model, split_model
from jaxbert.models.model import Model
from jaxbert.tasks import Task, choose_task
from jaxbert.training import distributed, record
from jaxbert.training.assemble import Assembly, ProgramCache, assemble, check_optimizer
from jaxbert.training.callbacks import Callback, Told
from jaxbert.training.checkpoint import Checkpoints
from jaxbert.training.config import TrainConfig
from jaxbert.training.engines import make_engine
from jaxbert.training.loop import Evaluation, Loop
from jaxbert.training.predictor import Predictor
from jaxbert.training.run import Run
from jaxbert.training.step import Params, cast

logger = logging.getLogger("jaxbert")


class Trainer:
    """Fine-tunes a model on labelled examples.

    Args:
      model: a model with a head, such as `AutoModelForSequenceClassification` gives. Its config
        gives the labels' names and says what it is for; where it does not, the examples decide.
      tokenizer: from `load_tokenizer`.
      train: labelled examples; may be left out for evaluation and prediction.
      evaluation: labelled examples by which the best model is chosen; without them the last is.
      task: the task or its name; None = what model or examples say.
      config: how to train.
      output: where the run is written: the best model with its tokenizer, run.json, metrics.jsonl,
        TensorBoard events, checkpoints. None writes nothing.
      overwrite: replace a run that is in `output` already, once this one is finished.
      resume: continue the run that is in `output`.
      about: what to keep with the run's description, JSON.
      cache_dir: where token ids are kept between runs.
      callbacks: are told what the training does.
      progress: show a bar; None = where standard error is a terminal, elsewhere lines of the log.
      programs: where compiled steps are kept, for trainers of the same model; None = for itself.

    `predictor` evaluates and predicts with the present parameters, as do the methods of the same
    names here.

    Raises:
      InputError: settings that do not fit the model or the data; another process has `output`.
      FileExistsError: `output` holds something and neither `overwrite` nor `resume` is set.

    Example:
      >>> from flax import nnx
      >>> from transformers import BertTokenizer
      >>> from jaxbert import BertConfig, BertForSequenceClassification, load_examples
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
      >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] a good dull film".split()
      >>> tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
      >>> films = load_examples({"text": ["a good film", "dull"], "label": ["yes", "no"]},
      ...                       label_column="label")
      >>> trainer = Trainer(model, tokenizer, train=films, progress=False,
      ...                   config=TrainConfig(epochs=2, max_length=8))
      >>> trainer.fit()["status"]
      'finished'
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Any,
        *,
        train: Examples | None = None,
        evaluation: Examples | None = None,
        task: Task | str | None = None,
        config: TrainConfig | None = None,
        output: str | Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
        about: dict[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool | None = None,
        programs: ProgramCache | None = None,
    ) -> None:
        self.config = config or TrainConfig()
        self.tokenizer = tokenizer
        self.output = None if output is None else Path(output)
        self._about, self._programs, self._callbacks = about or {}, programs, tuple(callbacks)
        show = {True: "bar", False: "nothing", None: "bar" if sys.stderr.isatty() else "lines"}
        self._show = show[progress] if distributed.is_first() else "nothing"
        self.task = choose_task(task, model, train).bound(tokenizer)
        if train is not None and distributed.is_first():
            logger.info("task %s: %s", self.task.name, train.reason or "as the model is made for")
        self._check(train, evaluation)
        self._model = _configured(model, self.task, train)
        self._metric = self.task.selection_metric(self.config.metric)
        self._examples = {"train": train, "evaluation": evaluation}
        self.engine = make_engine(self.config.parallel, self.config.mesh)
        self.predictor = self._predictor(cache_dir, ())
        self._train: Batches | None = None
        if train is not None:
            self.engine.check(self.config.batch_size, self.config.accumulation)
            self._train = self._training_batches(train)
            check_optimizer(self._model, self.config, self._train.steps_per_epoch)
            self.predictor = self._predictor(cache_dir, self._train.shapes)
        self._score = None if evaluation is None else self.predictor.scorer(evaluation)
        self._resume, self._fitted = resume, False
        self._best: Params | None = None
        writes = self.output is not None and train is not None
        self._run = Run(
            self.output if writes else None,
            self._identity() if writes else {},
            resume=resume,
            overwrite=overwrite,
        )

    @property
    def directory(self) -> Path | None:
        """Where the run is written: `output`, or beside a run that it is to replace there."""
        return self._run.directory

    @property
    def batches(self) -> Batches:
        """Of the training examples. InputError where there are none."""
        if self._train is None:
            raise InputError("fit() needs training examples: Trainer(..., train=examples)")
        return self._train

    @property
    def model(self) -> Model:
        """The model with the present parameters: after `fit`, the best."""
        return self.predictor.model

    def fit(self) -> dict[str, Any]:
        """Trains, and returns what run.json holds.

        Raises:
          DivergedError: the loss is no longer finite; the last good checkpoint is kept.
          KeyboardInterrupt: on Ctrl-C, after the present step, with a checkpoint written; on
            SIGTERM the subclass `Preempted`.
        """
        self.batches  # noqa: B018 (or there are none to fit)
        if self._fitted:
            raise InputError("fit() has been called: make a new Trainer to train again or resume")
        self._fitted = True
        with self._run.busy():
            return self._fit()

    def _fit(self) -> dict[str, Any]:
        started = time.perf_counter()
        checkpoints, status = self._run.checkpoints(self.config.keep_checkpoints), "failed"
        self.engine.log_idle_devices()
        loop = self._loop(checkpoints)
        if self._resume:
            loop.restore()
        lines = self._run.record(loop.progress.step, loop.progress.evaluated)
        callbacks = self._callbacks if distributed.is_first() else ()
        self._describe(loop, "running", started)
        try:
            loop.run(Told(lines, callbacks, self.directory), self.predictor.prepare)
            self.predictor.params = self._chosen(loop)
            self._calibrate()
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
            for step in (loop.compiled, self.predictor.step):
                step.forget()
            try:
                lines.close()
            finally:  # a full disk is no reason to leave the checkpoint half-written
                if checkpoints is not None:
                    checkpoints.close()
            run = self._describe(loop, status, started)
            cpu.give_back_memory()
        self._run.finish(run)
        return run

    def rate_losses(self, rates: Sequence[float]) -> list[float]:
        """The loss of each step of a training in which the base rate takes these values.

        For a range test: the groups keep their multipliers, the model stays as it is. Ends early
        with a loss that is no finite number.
        """
        assembled = self._assembled()
        base = self.config.optimizer.learning_rate
        shares = {group: peak / base for group, peak in assembled.plan.peaks.items()}
        return self._loop(None, assembled).losses(
            {group: np.float32(rate * share) for group, share in shares.items()} for rate in rates
        )

    def evaluate(self, examples: Examples) -> dict[str, float]:
        """Loss and every metric of the task on labelled examples."""
        return self.predictor.evaluate(examples)

    def logits(self, texts: Sequence[str] | Examples) -> Any:
        """See `Predictor.logits`."""
        return self.predictor.logits(texts)

    def predict(self, texts: Sequence[str] | Examples) -> list[dict[str, Any]]:
        """See `Predictor.predict`."""
        return self.predictor.predict(texts)

    def _check(self, train: Examples | None, evaluation: Examples | None) -> None:
        """InputError for settings that could have no effect, or fail only later."""
        config = self.config
        if train is not None and train.labels is None and self.task.labelled:
            raise InputError(f"{train.source}: training needs labels")
        if config.label_smoothing and not self.task.smooths_labels:
            raise InputError(
                f"label_smoothing={config.label_smoothing} has no meaning for {self.task.name}; "
                "want 0"
            )
        if train is not None and evaluation is None:
            names = ("eval_every", "metric", "patience")
            unused = [name for name in names if getattr(config, name) is not None]
            if unused:
                raise InputError(f"{', '.join(unused)} set without evaluation examples; give some")

    def _predictor(self, cache_dir: str | Path | None, shapes: Sequence[Any]) -> Predictor:
        config, size = self.config, self.config.eval_batch_size
        shapes = () if size else shapes  # those are for batches of the training's size
        predictor = Predictor(
            self._model,
            self.tokenizer,
            task=self.task,
            batch_size=size or config.batch_size,
            max_length=config.max_length,
            layout=config.layout,
            engine=self.engine,
            cache_dir=cache_dir,
            shapes=shapes,
            row_multiple=self.engine.parts * (config.accumulation if shapes else 1),
            programs=self._programs,
        )
        if self._examples["train"] is not None:
            settings = (("max_length", config.max_length), *self.task.settings)
            predictor.config = dataclasses.replace(predictor.config, settings=settings)
        return predictor

    def _training_batches(self, examples: Examples) -> Batches:
        config = self.config
        return Batches(
            self.predictor.encode(self.task.weigh(examples)),
            config.batch_size,
            max_length=config.max_length,
            layout=config.layout,
            shuffle=True,
            seed=config.seed,
            part=self.engine.part,
            row_multiple=self.engine.parts * config.accumulation,
            epochs=config.epochs,
        )

    def _assembled(self) -> Assembly:
        return assemble(
            self._model,
            self.task,
            self.config,
            self.engine,
            self.batches.steps_per_epoch,
            programs=self._programs,
        )

    def _loop(self, checkpoints: Checkpoints | None, assembled: Assembly | None = None) -> Loop:
        """The loop at its first step, with everything it needs."""
        assembled = assembled or self._assembled()
        return Loop(
            self.config,
            self.batches,
            assembled.step,
            assembled.state,
            assembled.plan,
            evaluation=self._evaluation(),
            checkpoints=checkpoints,
            show=self._show,
        )

    def _evaluation(self) -> Evaluation | None:
        score = self._score
        if score is None:
            return None
        return Evaluation(
            lambda params: score(self._of_model(params)), *self._metric, self._keep_best
        )

    def _of_model(self, params: Params) -> Params:
        """A training state's parameters as the model keeps them."""
        return cast(params, self._model.compute.param_dtype)

    def _keep_best(self, params: Params) -> None:
        """Goes to disk at once, or is kept in memory where there is no output."""
        if self.directory is None:
            self._best = self.engine.gather(self._of_model(params))
        else:
            self._write_model(params)

    def _write_model(self, params: Params) -> None:
        params = self.engine.gather(self._of_model(params))
        self._run.write_model(self.predictor.model_with(params), self.tokenizer)

    def _calibrate(self) -> None:
        """Thresholds that suit the examples of the evaluation, where the task has any."""
        examples = self._examples["evaluation"]
        if self.task.calibrate is None or examples is None:
            return
        found = self.predictor.calibrated(examples)
        if found != self.predictor.config:
            self.predictor.config = found
            self._run.write_config(self.predictor.model)

    def _chosen(self, loop: Loop) -> Params:
        """The best parameters, and the last where none were evaluated."""
        directory = self.directory
        if loop.progress.best is None:
            params = loop.params
            self._write_model(params)
            return self._of_model(params)
        if directory is None:
            return jax.tree.map(jnp.asarray, self._best)
        distributed.wait_for_all("the best model is written")
        compute = dataclasses.asdict(self._model.compute)
        return split_model(type(self._model).from_pretrained(directory, **compute))[1]

    def _identity(self) -> dict[str, Any]:
        """What a run is, from before its first step to its end."""
        identity = {
            **self._about,
            "task": self.task.name,
            "task_options": self._task_options(),
            "config": dataclasses.asdict(self.config),
            "compute": dataclasses.asdict(self._model.compute),
            "model_config": self._model.config.to_hf(),
            "data": record.describe_data(self._examples, self.batches.stats),
        }
        return record.as_json(identity)

    def _task_options(self) -> dict[str, Any]:
        options = self.task.options
        return {} if options is None else dataclasses.asdict(options)

    def _describe(self, loop: Loop, status: str, started: float) -> dict[str, Any]:
        """Writes and returns the run's description."""
        progress = loop.progress
        run = {
            "status": status,
            "step": progress.step,
            "total_steps": loop.total_steps,
            "best": {"metric": self._metric[0], "score": progress.best, "step": progress.best_step},
            "evaluations": progress.history,
            **self._identity(),
            "compilation": {
                "train_shapes": sorted(set(loop.compiled.shapes)),
                "possible_shapes": len(self.batches.shapes),
                "seconds": round(loop.compiled.seconds + self.predictor.step.seconds, 2),
            },
            "seconds": round(time.perf_counter() - started, 2),
            "seconds_waiting_for_data": round(loop.seconds_waited, 3),
            **record.environment(),
        }
        run = record.as_json(run)
        self._run.describe(run)
        return run


def _configured(model: Model, task: Task, train: Examples | None) -> Model:
    """A copy whose configuration says what it is for and, where it does not yet, of which classes.

    The parameters are shared; the caller's module is left as it is.
    """
    copy = merge_model(*split_model(model))
    copy.config = task.configured(model.config, train)
    return copy
