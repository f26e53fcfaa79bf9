"""One run of the lab: fine-tune with one optimizer, measure everything, write it to a journal."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbert.data import Batches, load_tokenizer
from jaxbert.errors import DivergedError
from jaxbert.lab.adaptation import NAME, Adaptation, Adapter
from jaxbert.lab.by_example import by_example
from jaxbert.lab.data import Data, sample
from jaxbert.lab.drift import Probe, weight_drift
from jaxbert.lab.journal import LOG_LINES, Journal, diverged
from jaxbert.lab.metric import Metric
from jaxbert.lab.stage import Setup, Stage
from jaxbert.models import split_model
from jaxbert.optim import OptimizerConfig
from jaxbert.tasks import TEXT_CLASSIFICATION, TaskOptions, get_task
from jaxbert.training.assemble import Assembly, ProgramCache, check_token_ids
from jaxbert.training.config import TrainConfig
from jaxbert.training.engines import make_engine
from jaxbert.training.loop import Evaluation, Loop
from jaxbert.training.step import Params
from jaxbert.weights.directory import model_directory

EVALUATIONS = 3  # of a curve on the development set, evenly spaced, the last at the end
_SHARED = ("batch_size", "max_length", "label_smoothing")


class Adapted(NamedTuple):
    """Where a run begins, if not with the pre-trained model: how that is pre-trained further.

    directory: where that is kept; runs on the same examples with the same seed share it.
    """

    how: Adaptation
    directory: Path


class Laboratory:
    """A pre-trained model and data on which runs are made; what is compiled serves all of them.

    Args:
      source: directory or hub id of the pre-trained model.
      data: the examples; they say for which task.
      config: batch size, length and layout of every run, and the metric that runs are compared
        by; its epochs, seed and optimizer are the run's own.
      dtype: of matrix products.
      options: of the task.

    Attributes:
      network: which pre-trained network it is, to the last bit; every journal names it.
    """

    def __init__(
        self,
        source: str | Path,
        data: Data,
        config: TrainConfig,
        dtype: str,
        options: TaskOptions | None = None,
    ) -> None:
        self.data, self.config, self.dtype = data, config, dtype
        task = get_task(data.task, options)
        name, more = task.selection_metric(config.metric)
        self.metric = Metric(name, more, task.full_score if more else 1.0)
        directory = model_directory(source)
        self._programs: ProgramCache = {}
        self._setup = Setup(
            directory, load_tokenizer(directory), config, dtype, make_engine(), self._programs
        )
        self._stage = Stage(self._setup, task, data.train)
        self.task, predictor = self._stage.task, self._stage.predictor
        tested = {"development": data.development, "test": data.test, **data.out_of_domain}
        self._examiners = {name: predictor.examiner(e) for name, e in tested.items()}
        self._calibrated = predictor.calibrator(data.development)
        graphdef, params = split_model(predictor.model)
        self.network = _digest(params["encoder"])
        self._probe = Probe(graphdef, params, self._neutral(), self._setup.engine)

    def _neutral(self) -> Batches:
        """The texts that representations are compared on, whatever the task makes of its own."""
        config, neutral = self.config, self.data.neutral.plain()
        tokenizer = self._setup.tokenizer
        encoded = TEXT_CLASSIFICATION.encode(neutral, tokenizer, config.max_length)
        check_token_ids(self._stage.predictor.config, encoded, neutral.source, tokenizer)
        return Batches(
            encoded,
            config.batch_size,
            max_length=config.max_length,
            layout=config.layout,
            row_multiple=config.accumulation,
            shapes=self._stage.predictor.shapes,
        )

    def describe(self) -> dict[str, Any]:
        """What all runs have in common."""
        # What else a `TrainConfig` holds is a run's own, or changes no number.
        shared = {name: getattr(self.config, name) for name in _SHARED} | {"dtype": self.dtype}
        options = self.task.options
        return {
            "task": self.task.name,
            "task_options": {} if options is None else options.given(),
            "metric": self.metric.name,
            "higher_is_better": self.metric.higher_is_better,
            "full_score": self.metric.full_score,
            "model": {"config": self._stage.described},
            "data": self.data.describe(),
            "training": shared,
        }

    def steps(self, examples: int | None, epochs: int) -> int:
        """Updates in a run on so many examples, without those of an adaptation."""
        return self._stage.steps(examples, epochs)

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
        curve: bool = True,
        adapted: Adapted | None = None,
    ) -> dict[str, Any]:
        """Fine-tunes and measures; returns the journal's last line. A divergence is a result.

        Args:
          optimizer: learning rates and all else of the update.
          journal: the file to write; one that is there is an interrupted run's, and replaced.
          about: what the first line says of the run.
          examples: drawn from the training pool by the seed; None = all.
          epochs: passes over them.
          seed: of the draw, the order, dropout and the head.
          only_development: measure on nothing else, and at the end alone.
          curve: measure on the development set on the way, too.
          adapted: what to begin with; None = the pre-trained model. What it cost stands in the
            last line: "adaptation", with its updates ("step") and seconds.
        """
        drawn = sample(self.data.train, examples, seed)
        cost: Mapping[str, Any] | None = None
        if adapted is not None:
            cost = self._adapter.adapt(adapted.how, drawn, seed, adapted.directory)
        lines, started = Journal(journal), time.perf_counter()
        try:
            batches = self._stage.batches(drawn, seed)
            total = epochs * batches.steps_per_epoch
            evaluations = EVALUATIONS if curve and not only_development else 1
            config = dataclasses.replace(
                self.config,
                epochs=epochs,
                seed=seed,
                optimizer=optimizer,
                eval_every=-(-total // evaluations),
                log_every=-(-total // LOG_LINES),
            )
            prepared = self._prepare(config, batches, adapted, cost)
            described = _described(config, prepared) | {"network": self.network}
            lines.write("start", 0, {**about, **described})
            end = self._finished(prepared, lines, only_development)
            if cost is not None:
                end["adaptation"] = {name: cost[name] for name in ("step", "seconds")}
            end["seconds"] = time.perf_counter() - started
            lines.write("end", prepared.loop.progress.step, end)
        finally:
            lines.close()
        return end

    @cached_property
    def _adapter(self) -> Adapter:
        return Adapter(self._setup, self.data.train)

    def _prepare(
        self,
        config: TrainConfig,
        batches: Batches,
        adapted: Adapted | None,
        cost: Mapping[str, Any] | None,
    ) -> _Prepared:
        model = self._stage.model(config.seed)
        before = split_model(model)[1]
        failed = cost if cost is not None and cost["status"] == "diverged" else None
        if adapted is not None and failed is None:
            model = self._adapter.adapted(model, adapted.directory)
        score = Evaluation(
            lambda params: self._examiners["development"](params)[1],
            self.metric.name,
            self.metric.higher_is_better,
            lambda params: None,
        )
        assembled, loop = self._stage.loop(config, model, batches, score)
        return _Prepared(assembled, loop, assembled.start if adapted is None else before, failed)

    def _finished(
        self, prepared: _Prepared, lines: Journal, only_development: bool
    ) -> dict[str, Any]:
        """Runs the loop; what is measured at its end."""
        nothing = dict.fromkeys(("scores", "drift", "similarity", "neighbour_overlap"))
        loop, failed = prepared.loop, prepared.failed
        if failed is not None:
            return {"status": failed["status"], "why": f"{NAME}: {failed['why']}", **nothing}
        try:
            loop.run(lines)
        except DivergedError as error:
            return {**diverged(error), **nothing}
        scores = {
            "development": {k: v for k, v in loop.progress.history[-1].items() if k != "step"}
        }
        if only_development:
            return {"status": "finished", **nothing, "scores": scores}
        params = loop.params
        tested, kept = self._tested(params)
        drift = weight_drift(params, prepared.before)
        found = {"scores": scores | tested, "drift": drift, "by_example": kept}
        return {"status": "finished", **found, **self._probe.compare(params)}

    def _tested(
        self, params: Params
    ) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Any] | None]]:
        """Of all but the development set the scores, with thresholds tuned on that one, and more.

        The second: {data set: what is kept of each example}.
        """
        predictor = self._stage.predictor
        usual = predictor.config
        predictor.config = self._calibrated(params)
        try:
            found = {
                name: examine(params)
                for name, examine in self._examiners.items()
                if name != "development"
            }
            scores = {name: score for name, (_, score) in found.items()}
            return scores, {name: by_example(predicted) for name, (predicted, _) in found.items()}
        finally:
            predictor.config = usual


class _Prepared(NamedTuple):
    """A run at its first step.

    before: the parameters that drift is measured from: those before any adaptation. failed: the
    last line of an adaptation that has diverged.
    """

    assembled: Assembly
    loop: Loop
    before: Params
    failed: Mapping[str, Any] | None


def _digest(encoder: Params) -> str:
    """Of an encoder's parameters; without the pooler, which may be as newly drawn as a head."""
    digest = hashlib.sha256()
    pretrained = {name: part for name, part in encoder.items() if name != "pooler"}
    for path, leaf in jax.tree.leaves_with_path(pretrained):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _described(config: TrainConfig, prepared: _Prepared) -> dict[str, Any]:
    loop = prepared.loop
    return {
        "seed": config.seed,
        "learning_rate": config.optimizer.learning_rate,
        "total_steps": loop.total_steps,
        "steps_per_epoch": loop.steps_per_epoch,
        "optimizer": dataclasses.asdict(config.optimizer),
        "peak_rates": dict(prepared.assembled.plan.peaks),
    }
