"""`Trainer`: fits, evaluates and predicts with a text classifier; moves data, computes nothing."""

from __future__ import annotations

import dataclasses
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from flax import nnx

from jaxbert.data import Batches, Examples, Prefetch, save_tokenizer, tokenize
from jaxbert.models import merge_model, split_model
from jaxbert.optim import learning_rates, make_optimizer, trainable_mask
from jaxbert.optim.layers import leaf_paths, reinitialised_paths
from jaxbert.training import inference, metrics, parallel, record
from jaxbert.training.checkpoint import Checkpoints
from jaxbert.training.config import TrainConfig
from jaxbert.training.losses import LOSSES
from jaxbert.training.step import init_state, make_eval_step, make_train_step


class DivergedError(RuntimeError):
    """The loss or the gradient is no longer a finite number."""


@dataclasses.dataclass
class Progress:
    """Where a run is; saved with every checkpoint.

    epoch, step_in_epoch: the next batch. best: the best score so far, None before the first
    evaluation. best_step: when it was. waiting: evaluations since. history: every evaluation.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    best: float | None = None
    best_step: int = 0
    waiting: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


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
        self.problem_type = _problem_type(model, train)
        self._check_length(model)
        self._model_class, self._model_config = type(model), model.config
        self._compute = model.compute
        self._graphdef, self._params = split_model(model)
        self._loss = partial(LOSSES[self.problem_type], smoothing=self.config.label_smoothing)
        self._eval_step = parallel.Compiled(
            make_eval_step(self._graphdef, LOSSES[self.problem_type])
        )
        self._metric = metrics.selection_metric(self.problem_type, self.config.metric)
        self._train = None if train is None else self._batches(train, training=True)
        self._train_examples = train
        self._evaluation = None if evaluation is None else self._batches(evaluation)
        self._evaluation_examples = evaluation
        self._resume = resume
        if self.output is not None and train is not None:
            _prepare_output(self.output, overwrite=overwrite, resume=resume)

    @property
    def model(self) -> nnx.Module:
        """The model with the present parameters: after `fit`, the best."""
        config = self._model_config
        if config.problem_type is None:
            config = dataclasses.replace(config, problem_type=self.problem_type)
        model = merge_model(self._graphdef, self._params)
        model.config = config
        return model

    def fit(self) -> dict[str, Any]:
        """Trains, and returns what run.json holds.

        Raises:
          DivergedError: the loss is no longer finite; the last good checkpoint is kept.
          KeyboardInterrupt: on Ctrl-C, after the present step, with a checkpoint written.
        """
        if self._train is None:
            raise ValueError("fit() needs training examples: Trainer(..., train=examples)")
        return _Fit(self).run()

    def evaluate(self, examples: Examples) -> dict[str, float]:
        """Loss and every metric of the problem on labelled examples."""
        if examples.labels is None:
            raise ValueError(f"{examples.source}: evaluation needs labels")
        return self._score(self._params, self._batches(examples), examples)

    def logits(self, texts: Sequence[str] | Examples) -> np.ndarray:
        """[N, C] float32, in the order of the texts."""
        examples = texts if isinstance(texts, Examples) else Examples(tuple(texts))
        unlabelled = dataclasses.replace(examples, labels=None)
        batches = self._batches(unlabelled)
        return inference.run_batches(self._eval_step, self._params, batches)["logits"]

    def predict(self, texts: Sequence[str] | Examples) -> list[dict[str, Any]]:
        """For each text {"label", "probabilities": {label: p}}, or {"score"} of a regression."""
        logits = self.logits(texts)
        if self.problem_type == "regression":
            return [{"score": float(row[0])} for row in logits]
        names = self._model_config.id2label or tuple(map(str, range(logits.shape[1])))
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
            row_multiple=config.accumulation if training or known else 1,
            shapes=known,
        )

    def _score(self, params: Any, batches: Batches, examples: Examples) -> dict[str, float]:
        found = inference.run_batches(self._eval_step, params, batches)
        guesses = inference.predictions(self.problem_type, found["logits"])
        scores = metrics.compute_scores(self.problem_type, examples.labels, guesses)
        return {"loss": found["loss"], **scores}


class _Fit:
    """One call of `Trainer.fit`: the loop, and what it keeps track of."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.config = trainer, trainer.config
        self.batches = trainer._train
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = self.config.epochs * self.steps_per_epoch
        params = self._initial_params()
        plan = (self.config.optimizer, params, self.total_steps, self.steps_per_epoch)
        self.rates = learning_rates(*plan)
        optimizer = make_optimizer(*plan)
        step = make_train_step(
            trainer._graphdef,
            optimizer,
            trainer._loss,
            trainable=trainable_mask(self.config.optimizer, params),
            accumulation=self.config.accumulation,
        )
        self.step = parallel.Compiled(step, donate=True)
        # A copy: the state's memory is given to each next state, the caller's model is not.
        own = jax.tree.map(lambda leaf: leaf.copy(), params)
        self.state = init_state(own, optimizer, self.config.seed)
        self.best_params: Any = None
        self.progress = Progress()
        self.checkpoints = None
        if trainer.output is not None:
            self.checkpoints = Checkpoints(
                trainer.output / record.CHECKPOINTS, self.config.keep_checkpoints
            )
        self.unchecked: tuple[int, dict[str, jax.Array]] | None = None
        self.started = time.perf_counter()
        self.seconds_waited = 0.0

    def run(self) -> dict[str, Any]:
        if self.trainer._resume and self.checkpoints is not None:
            self._restore()
        self.record = record.Record(self.trainer.output, int(self.state.step))
        self._describe("running")
        status = "failed"
        try:
            with _Interruption() as interruption, self._bar() as bar:
                self._train(interruption, bar)
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except DivergedError:
            status = "diverged"
            raise
        finally:
            self.record.close()
            if self.checkpoints is not None:
                self.checkpoints.close()
            result = self._describe(status)
        self._finish()
        return result

    def _train(self, interruption: _Interruption, bar: Any) -> None:
        progress = self.progress
        while progress.epoch < self.config.epochs and not self._patience_is_over():
            stream = Prefetch(self.batches.epoch(progress.epoch, progress.step_in_epoch))
            window = _Window()
            for batch in stream:
                self._one_step(batch, window)
                progress.step_in_epoch += 1
                bar.update()
                last = progress.step_in_epoch == self.steps_per_epoch
                done = int(self.unchecked[0])
                if done % self.config.log_every == 0 or last:
                    window.waited = stream.seconds_waited - window.waited_before
                    self._log(window, bar)
                    window = _Window(stream.seconds_waited)
                if last:
                    progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
                if self._is_due(done, last):
                    self._evaluate(done)
                    window.start = time.perf_counter()
                if interruption.asked or self._wants_checkpoint(done, last):
                    self._save()
                if interruption.asked:
                    raise KeyboardInterrupt
                if self._patience_is_over():
                    break
            self.seconds_waited += stream.seconds_waited

    def _one_step(self, batch: dict[str, np.ndarray], window: _Window) -> None:
        before = self.unchecked
        self.state, values = self.step(self.state, parallel.put(batch))
        self.unchecked = ((before[0] if before else int(self.state.step) - 1) + 1, values)
        window.examples += int(batch["weights"].sum())
        window.tokens += int((batch["segment_ids"] > 0).sum())
        if before is not None:
            # One step late, so that the host never waits for the device.
            self._check_finite(*before)

    def _check_finite(self, step: int, values: dict[str, jax.Array]) -> None:
        loss, norm = float(values["loss"]), float(values["grad_norm"])
        if math.isfinite(loss) and math.isfinite(norm):
            return
        kept = "" if self.checkpoints is None else self._kept()
        raise DivergedError(
            f"step {step}: loss {loss}, gradient norm {norm}; the learning rate is too high for "
            f"this model and data: try a lower one or a longer warm-up{kept}"
        )

    def _kept(self) -> str:
        latest = self.checkpoints.latest
        return "" if latest is None else f"; the checkpoint of step {latest} is kept"

    def _log(self, window: _Window, bar: Any) -> None:
        step, values = self.unchecked
        self._check_finite(step, values)
        seconds = time.perf_counter() - window.start
        loss = float(values["loss"])
        bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        epoch = self.progress.epoch + self.progress.step_in_epoch / self.steps_per_epoch
        self.record.write(
            "train",
            step,
            {
                "epoch": round(epoch, 6),
                "loss": loss,
                "grad_norm": float(values["grad_norm"]),
                "learning_rate": {k: float(rate(step - 1)) for k, rate in self.rates.items()},
                "examples_per_second": window.examples / seconds,
                "tokens_per_second": window.tokens / seconds,
                "waiting_share": window.waited / seconds,
            },
        )

    def _is_due(self, step: int, epoch_ends: bool) -> bool:
        if self.trainer._evaluation is None:
            return False
        every = self.config.eval_every
        return step == self.total_steps or (step % every == 0 if every else epoch_ends)

    def _wants_checkpoint(self, step: int, epoch_ends: bool) -> bool:
        every = self.config.checkpoint_every
        if every is None and self.config.eval_every:
            return step % self.config.eval_every == 0 or step == self.total_steps
        return step % every == 0 or step == self.total_steps if every else epoch_ends

    def _evaluate(self, step: int) -> None:
        self._check_finite(*self.unchecked)
        trainer, progress = self.trainer, self.progress
        scores = trainer._score(
            self.state.params, trainer._evaluation, trainer._evaluation_examples
        )
        self.record.write("eval", step, scores)
        progress.history.append({"step": step, **scores})
        name, metric = trainer._metric
        score = scores[name]
        better = progress.best is None or (
            score > progress.best if metric.higher_is_better else score < progress.best
        )
        progress.waiting = 0 if better else progress.waiting + 1
        if better:
            progress.best, progress.best_step = score, step
            self._keep_best()

    def _keep_best(self) -> None:
        """The best model goes to disk at once, or is kept in memory where there is no output."""
        self.best_params = jax.tree.map(np.asarray, self.state.params)
        if self.trainer.output is not None:
            self._write_model(self.best_params)

    def _write_model(self, params: Any) -> None:
        self.trainer._params, own = params, self.trainer._params
        self.trainer.model.save_pretrained(self.trainer.output)
        self.trainer._params = own
        save_tokenizer(self.trainer.tokenizer, self.trainer.output)

    def _patience_is_over(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.progress.waiting >= patience

    def _save(self) -> None:
        if self.checkpoints is not None:
            self._check_finite(*self.unchecked)
            self.checkpoints.save(self.state, dataclasses.asdict(self.progress))

    def _restore(self) -> None:
        if self.checkpoints.latest is None:
            return  # stopped before its first checkpoint: begins again
        self.state, progress = self.checkpoints.restore(self.state)
        self.progress = Progress(**progress)
        if self.progress.best is not None:
            best = self.trainer._model_class.from_pretrained(
                self.trainer.output, **dataclasses.asdict(self.trainer._compute)
            )
            self.best_params = split_model(best)[1]

    def _finish(self) -> None:
        """Leaves the trainer with the best parameters, and the last where none were evaluated."""
        if self.best_params is None:
            self.best_params = self.state.params
            if self.trainer.output is not None:
                self._write_model(jax.tree.map(np.asarray, self.best_params))
        self.trainer._params = jax.tree.map(jax.numpy.asarray, self.best_params)

    def _initial_params(self) -> Any:
        """The model's parameters, with the top layers drawn anew where the optimizer says so."""
        trainer, count = self.trainer, self.config.optimizer.reinitialise_layers
        paths = set(reinitialised_paths(trainer._params, count))
        if not paths:
            return trainer._params
        rngs = nnx.Rngs(self.config.seed)
        fresh = trainer._model_class(trainer._model_config, rngs=rngs, compute=trainer._compute)
        names = iter(leaf_paths(trainer._params))
        return jax.tree.map(
            lambda old, new: new if next(names) in paths else old,
            trainer._params,
            split_model(fresh)[1],
        )

    def _bar(self) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=self.total_steps,
            initial=int(self.state.step),
            disable=not self.trainer._show,
            unit="step",
            desc="fine-tuning",
        )

    def _describe(self, status: str) -> dict[str, Any]:
        """Writes and returns the run's description."""
        trainer, progress, stats = self.trainer, self.progress, self.batches.stats
        sources = {"train": trainer._train_examples, "evaluation": trainer._evaluation_examples}
        shapes = sorted(set(self.step.shapes))
        run = {
            "status": status,
            "step": int(self.state.step) if status != "failed" else None,
            "total_steps": self.total_steps,
            "best": {
                "metric": trainer._metric[0],
                "score": progress.best,
                "step": progress.best_step,
            },
            "evaluations": progress.history,
            **trainer._about,
            "config": dataclasses.asdict(self.config) | trainer._about.get("config", {}),
            "compute": dataclasses.asdict(trainer._compute),
            "data": {
                name: {
                    "source": Path(examples.source).name,
                    "examples": len(examples),
                    "fingerprint": examples.fingerprint,
                }
                for name, examples in sources.items()
                if examples is not None
            }
            | {
                "truncated_examples": stats.truncated_examples,
                "packing_efficiency": round(stats.packing_efficiency, 4),
            },
            "compilation": {
                "train_shapes": shapes,
                "possible_shapes": len(self.batches.shapes),
                "seconds": round(self.step.seconds + trainer._eval_step.seconds, 2),
            },
            "seconds": round(time.perf_counter() - self.started, 2),
            "seconds_waiting_for_data": round(self.seconds_waited, 3),
            **record.environment(),
        }
        if trainer.output is not None:
            record.write_run(trainer.output, run)
        return run


@dataclasses.dataclass
class _Window:
    """What happened since the last line of the log."""

    waited_before: float = 0.0
    start: float = dataclasses.field(default_factory=time.perf_counter)
    examples: int = 0
    tokens: int = 0
    waited: float = 0.0


class _Interruption:
    """Turns Ctrl-C into a request that the loop grants between two steps; a second one is final.

    In the middle of a step the old state's memory is already given away and the new one's not yet
    there: an exception then would leave nothing to save.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


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


def _prepare_output(output: Path, *, overwrite: bool, resume: bool) -> None:
    """An empty directory for a new run; refuses to touch what it does not know."""
    if resume:
        record.read_run(output)
        return
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"output {output} is a file; name a directory")
    if output.exists() and any(output.iterdir()):
        if not (output / record.RUN).is_file():
            raise FileExistsError(f"output {output} holds files that are no run; name another")
        if not overwrite:
            raise FileExistsError(
                f"output {output} holds another run; name another directory, continue it with "
                "--resume, or delete it with --overwrite"
            )
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
