"""One run of the lab: fine-tune with one optimizer, measure everything, write it to a journal."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxbert.data import Batches, Examples, Shape, Tokenized, load_tokenizer, tokenize
from jaxbert.lab.data import PROBLEM, Data, sample
from jaxbert.lab.drift import Probe, weight_drift
from jaxbert.models import BertForSequenceClassification, split_model
from jaxbert.optim import (
    OptimizerConfig,
    learning_rates,
    make_optimizer,
    peak_rates,
    trainable_mask,
)
from jaxbert.training import DivergedError, TrainConfig, inference, metrics, parallel
from jaxbert.training.loop import Evaluation, Loop
from jaxbert.training.losses import LOSSES
from jaxbert.training.step import Params, init_state, make_eval_step, make_train_step
from jaxbert.training.trainer import initial_params
from jaxbert.weights.pretrained import load_pretrained, model_directory

LOG_LINES = 25  # of the training loss in a journal
EVALUATIONS = 3  # on the development set, evenly spaced, the last at the end
SIGNIFICANT = 6  # digits of a number in a journal


class Journal:
    """The file of one run: JSON lines, written as it goes; the last, "end", makes it a result."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """One line; what measures the machine and not the training is left out."""
        kept = {k: v for k, v in values.items() if k not in _OF_THE_MACHINE}
        line = {"event": event, "step": step, **_rounded(kept)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """After the last line."""
        self._file.close()


_SHARED = ("batch_size", "max_length", "label_smoothing")
_OF_THE_MACHINE = ("examples_per_second", "tokens_per_second", "waiting_share")


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.{SIGNIFICANT}g}") if isinstance(value, float) else value


class Laboratory:
    """A pre-trained model and data on which runs are made; what is compiled serves all of them.

    Args:
      source: directory or hub id of the pre-trained model.
      data: the examples.
      config: batch size, length and layout of every run; its epochs, seed and optimizer are the
        run's own.
      dtype: of matrix products.
    """

    def __init__(self, source: str | Path, data: Data, config: TrainConfig, dtype: str) -> None:
        self.data, self.config, self.dtype = data, config, dtype
        self._directory = model_directory(source)
        self._tokenizer = load_tokenizer(self._directory)
        self._graphdef, pretrained = split_model(self._model(seed=0))
        self._shapes: tuple[Shape, ...] = ()
        self._shapes = self._batches(self._tokenize(data.train), shuffle=True).shapes
        tested = {"development": data.development, "test": data.test, **data.out_of_domain}
        self._tested = {n: (e, self._batches(self._tokenize(e))) for n, e in tested.items()}
        neutral = dataclasses.replace(data.neutral, labels=None)
        self._probe = Probe(self._graphdef, pretrained, self._batches(self._tokenize(neutral)))
        self._programs: dict[str, parallel.Compiled] = {}
        self._eval_step = parallel.Compiled(make_eval_step(self._graphdef, LOSSES[PROBLEM]))

    def describe(self) -> dict[str, Any]:
        """What all runs have in common."""
        # What else a `TrainConfig` holds is a run's own, or changes no number.
        shared = {name: getattr(self.config, name) for name in _SHARED} | {"dtype": self.dtype}
        return {
            "model": {"config": self._model(seed=0).config.to_hf()},
            "data": self.data.describe(),
            "training": shared,
        }

    def steps(self, examples: int | None, epochs: int) -> int:
        """Updates in a run on so many examples."""
        count = len(self.data.train) if examples is None else examples
        return epochs * -(-count // self.config.batch_size)

    def run(
        self,
        optimizer: OptimizerConfig,
        journal: Path,
        about: Mapping[str, Any],
        *,
        examples: int | None,
        epochs: int,
        seed: int,
        only_development: bool = False,
    ) -> dict[str, Any]:
        """Fine-tunes and measures; returns the journal's last line. A divergence is a result.

        Args:
          optimizer: learning rates and all else of the update.
          journal: the file to write; one that is there is an interrupted run's, and replaced.
          about: what the first line says of the run.
          examples: drawn from the training pool by the seed; None = all.
          epochs: passes over them.
          seed: of the draw, the order, dropout and the head.
          only_development: measure on nothing else.
        """
        total = self.steps(examples, epochs)
        config = dataclasses.replace(
            self.config,
            epochs=epochs,
            seed=seed,
            optimizer=optimizer,
            eval_every=total if only_development else -(-total // EVALUATIONS),
            log_every=-(-total // LOG_LINES),
        )
        lines, started = Journal(journal), time.perf_counter()
        try:
            start, loop = self._loop(config, examples)
            lines.write("start", 0, {**about, **self._described(config, loop, start)})
            end = self._finished(loop, lines, start, only_development)
            end["seconds"] = time.perf_counter() - started
            lines.write("end", loop.progress.step, end)
        finally:
            lines.close()
        return end

    def _finished(
        self, loop: Loop, lines: Journal, start: Params, only_development: bool
    ) -> dict[str, Any]:
        """Runs the loop; what is measured at its end."""
        nothing = dict.fromkeys(("scores", "drift", "similarity", "neighbour_overlap"))
        try:
            loop.run(lines)
        except DivergedError as error:
            return {"status": "diverged", "why": str(error).split(";")[0], **nothing}
        scores = {
            "development": {k: v for k, v in loop.progress.history[-1].items() if k != "step"}
        }
        if only_development:
            return {"status": "finished", **nothing, "scores": scores}
        params = loop.state.params
        for name in self._tested:
            if name != "development":
                scores[name] = self._score(params, name)
        found = {"scores": scores, "drift": weight_drift(params, start)}
        return {"status": "finished", **found, **self._probe.compare(params)}

    def _described(self, config: TrainConfig, loop: Loop, start: Params) -> dict[str, Any]:
        return {
            "seed": config.seed,
            "learning_rate": config.optimizer.learning_rate,
            "total_steps": loop.total_steps,
            "steps_per_epoch": loop.steps_per_epoch,
            "optimizer": dataclasses.asdict(config.optimizer),
            "peak_rates": peak_rates(config.optimizer, start),
        }

    def _loop(self, config: TrainConfig, examples: int | None) -> tuple[Params, Loop]:
        """(the parameters before the first step, the loop at it)."""
        start = initial_params(self._model(config.seed), config)
        drawn = sample(self.data.train, examples, config.seed)
        batches = self._batches(self._tokenize(drawn), shuffle=True, seed=config.seed)
        steps_per_epoch = batches.steps_per_epoch
        plan = (config.optimizer, start, config.epochs * steps_per_epoch, steps_per_epoch)
        optimizer = make_optimizer(*plan)
        loop = Loop(
            config,
            batches,
            self._program(config.optimizer, start, optimizer, steps_per_epoch),
            # A copy: the state's memory is given to each next state.
            init_state(jax.tree.map(jnp.copy, start), optimizer, config.seed),
            learning_rates(*plan),
            evaluation=Evaluation(self._score, "accuracy", True, lambda params: None),
        )
        return start, loop

    def _program(
        self, config: OptimizerConfig, params: Params, optimizer: Any, steps_per_epoch: int
    ) -> parallel.Compiled:
        """The compiled step, shared by all runs that differ in rates and their schedules alone."""
        settings = dataclasses.asdict(config)
        for argument in _ARGUMENTS:
            del settings[argument]
        if config.unfreezing:
            settings["steps_per_epoch"] = steps_per_epoch
        key = json.dumps(settings, sort_keys=True)
        if key not in self._programs:
            step = make_train_step(
                self._graphdef,
                optimizer,
                LOSSES[PROBLEM],
                trainable=trainable_mask(config, params),
                accumulation=self.config.accumulation,
            )
            self._programs[key] = parallel.Compiled(step, donate=True)
        return self._programs[key]

    def _score(self, params: Params, name: str = "development") -> dict[str, float]:
        examples, batches = self._tested[name]
        found = inference.run_batches(self._eval_step, params, batches)
        guesses = inference.predictions(PROBLEM, found["logits"])
        return {
            "loss": found["loss"],
            **metrics.compute_scores(PROBLEM, examples.labels, guesses),
        }

    def _model(self, seed: int) -> BertForSequenceClassification:
        names = self.data.train.label_names
        return load_pretrained(
            BertForSequenceClassification,
            self._directory,
            labels=names,
            dtype=self.dtype,
            seed=seed,
        )[0]

    def _tokenize(self, examples: Examples) -> Tokenized:
        return tokenize(examples, self._tokenizer, self.config.max_length)

    def _batches(self, tokenized: Tokenized, *, shuffle: bool = False, seed: int = 0) -> Batches:
        config = self.config
        return Batches(
            tokenized,
            config.batch_size,
            max_length=config.max_length,
            layout=config.layout,
            shuffle=shuffle,
            seed=seed,
            row_multiple=config.accumulation,
            shapes=self._shapes,
        )


# Fields of `OptimizerConfig` whose effect on a step is the learning rates that it is given.
_ARGUMENTS = (
    "learning_rate",
    "schedule",
    "schedule_options",
    "warmup",
    "layer_decay",
    "convention",
    "head_multiplier",
    "reinitialise_layers",
)
