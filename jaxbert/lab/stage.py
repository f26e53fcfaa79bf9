"""One task on one pre-trained model: what its trainings have in common, compiled once for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxbert.data import Batches, Examples, Shape
from jaxbert.tasks import Task, load_model
from jaxbert.training.assemble import Assembly, ProgramCache, assemble
from jaxbert.training.config import TrainConfig
from jaxbert.training.engines import Engine
from jaxbert.training.loop import Evaluation, Loop
from jaxbert.training.predictor import Predictor

# As often as a study's many trainings go through its examples, about: what a shape saves adds up.
_EPOCHS = 10


class Setup(NamedTuple):
    """What all trainings of a laboratory share.

    directory: of the pre-trained model. tokenizer: its own. config: batch size, length and layout;
    the rest is a run's own. dtype: of matrix products. programs: all that is compiled.
    """

    directory: Path
    tokenizer: Any
    config: TrainConfig
    dtype: str
    engine: Engine
    programs: ProgramCache


class Stage:
    """Trainings for one task, which differ in their examples, seeds and learning rates.

    Args:
      setup: what they share with those for other tasks.
      task: not bound to a tokenizer yet.
      pool: what training sets are drawn from; they share the shapes of its batches.

    Attributes:
      task: bound to the tokenizer.
      predictor: of the pre-trained model, with a head drawn with seed 0.
      described: the configuration of that model, as its files say it.
    """

    def __init__(self, setup: Setup, task: Task, pool: Examples) -> None:
        self.task = task.bound(setup.tokenizer)
        self._setup, self._pool = setup, pool
        model = self._load(seed=0)
        self.described = model.config.to_hf()
        model.config = self.task.configured(model.config, pool)
        batches = self._predict_with(model, ()).batches(
            self.task.weigh(pool), shuffle=True, epochs=_EPOCHS
        )
        self.predictor = self._predict_with(model, batches.shapes)
        self._taken = batches.examples / len(pool)

    def model(self, seed: int) -> Any:
        """The pre-trained model with a head for the task; what is new is drawn with the seed."""
        model = self._load(seed)
        model.config = self.task.configured(model.config, self._pool)
        return model

    def _load(self, seed: int) -> Any:
        setup = self._setup
        found, _ = load_model(
            self.task, setup.directory, examples=self._pool, dtype=setup.dtype, seed=seed
        )
        return found

    def steps(self, examples: int | None, epochs: int) -> int:
        """Updates in a training on so many examples of the pool, None = all.

        Where long texts are read in windows, that is about right: it depends on which are drawn.
        """
        count = len(self._pool) if examples is None else examples
        return epochs * -(-round(count * self._taken) // self._setup.config.batch_size)

    def batches(self, examples: Examples, seed: int) -> Batches:
        """Of examples to train on, in an order by the seed."""
        return self.predictor.batches(self.task.weigh(examples), shuffle=True, seed=seed)

    def loop(
        self,
        config: TrainConfig,
        model: Any,
        batches: Batches,
        evaluation: Evaluation | None = None,
    ) -> tuple[Assembly, Loop]:
        """(what a training is made of, its loop at the first step)."""
        assembled = assemble(
            model,
            self.task,
            config,
            self._setup.engine,
            batches.steps_per_epoch,
            programs=self._setup.programs,
        )
        return assembled, Loop(
            config,
            batches,
            assembled.step,
            assembled.state,
            assembled.plan,
            evaluation=evaluation,
        )

    def _predict_with(self, model: Any, shapes: Sequence[Shape]) -> Predictor:
        setup = self._setup
        return Predictor(
            model,
            setup.tokenizer,
            task=self.task,
            batch_size=setup.config.batch_size,
            max_length=setup.config.max_length,
            layout=setup.config.layout,
            engine=setup.engine,
            shapes=shapes,
            row_multiple=setup.config.accumulation,
            programs=setup.programs,
        )
