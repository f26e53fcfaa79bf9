"""One run of the lab: fine-tune with one optimizer, measure everything, write it to a journal."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxbert.data import Shape, load_tokenizer
from jaxbert.errors import DivergedError
from jaxbert.lab.by_example import by_example
from jaxbert.lab.data import Data, sample
from jaxbert.lab.drift import Probe, weight_drift
from jaxbert.models import split_model
from jaxbert.optim import OptimizerConfig
from jaxbert.tasks import TEXT_CLASSIFICATION, load_model
from jaxbert.training.assemble import Assembly, ProgramCache, assemble
from jaxbert.training.config import TrainConfig
from jaxbert.training.engines import make_engine
from jaxbert.training.loop import Evaluation, Loop
from jaxbert.training.predictor import Predictor
from jaxbert.training.step import Params
from jaxbert.weights.directory import model_directory

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
        self._task, self._engine = TEXT_CLASSIFICATION, make_engine()
        self._programs: ProgramCache = {}
        model = self._model(seed=0)
        self._predictor = self._predict_with(model, ())
        shapes = self._predictor.batches(data.train, shuffle=True).shapes
        self._predictor = self._predict_with(model, shapes)
        tested = {"development": data.development, "test": data.test, **data.out_of_domain}
        self._examiners = {name: self._predictor.examiner(e) for name, e in tested.items()}
        neutral = dataclasses.replace(data.neutral, labels=None)
        graphdef, params = split_model(model)
        self._probe = Probe(graphdef, params, self._predictor.batches(neutral), self._engine)

    def _predict_with(self, model: Any, shapes: Sequence[Shape]) -> Predictor:
        return Predictor(
            model,
            self._tokenizer,
            task=self._task,
            batch_size=self.config.batch_size,
            max_length=self.config.max_length,
            layout=self.config.layout,
            engine=self._engine,
            shapes=shapes,
            row_multiple=self.config.accumulation,
            programs=self._programs,
        )

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
            assembled, loop = self._loop(config, examples)
            lines.write("start", 0, {**about, **self._described(config, loop, assembled)})
            end = self._finished(loop, lines, assembled.start, only_development)
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
        kept = {}
        for name, examine in self._examiners.items():
            if name != "development":
                predicted, scores[name] = examine(params)
                kept[name] = by_example(predicted)
        found = {"scores": scores, "drift": weight_drift(params, start), "by_example": kept}
        return {"status": "finished", **found, **self._probe.compare(params)}

    def _described(self, config: TrainConfig, loop: Loop, assembled: Assembly) -> dict[str, Any]:
        return {
            "seed": config.seed,
            "learning_rate": config.optimizer.learning_rate,
            "total_steps": loop.total_steps,
            "steps_per_epoch": loop.steps_per_epoch,
            "optimizer": dataclasses.asdict(config.optimizer),
            "peak_rates": dict(assembled.plan.peaks),
        }

    def _loop(self, config: TrainConfig, examples: int | None) -> tuple[Assembly, Loop]:
        """(what a run is made of, its loop at the first step)."""
        drawn = sample(self.data.train, examples, config.seed)
        batches = self._predictor.batches(drawn, shuffle=True, seed=config.seed)
        assembled = assemble(
            self._model(config.seed),
            self._task,
            config,
            self._engine,
            batches.steps_per_epoch,
            programs=self._programs,
        )
        loop = Loop(
            config,
            batches,
            assembled.step,
            assembled.state,
            assembled.plan.schedules,
            evaluation=Evaluation(
                lambda params: self._examiners["development"](params)[1],
                "accuracy",
                True,
                lambda params: None,
            ),
        )
        return assembled, loop

    def _model(self, seed: int) -> Any:
        return load_model(
            self._task, self._directory, examples=self.data.train, dtype=self.dtype, seed=seed
        )[0]
