"""Task-adaptive pre-training: masked LM on a run's own training texts, before it is fine-tuned.

It is made once for every train size and seed, so that the luck of it is in a strategy's interval
like that of all else; all rates of a grid, whose runs have one seed, begin from the same.

References: Sun et al. 2019, "How to fine-tune BERT for text classification" (within-task further
pre-training); Gururangan et al. 2020, "Don't stop pretraining" (TAPT), which see a small set 100
times with a peak of 1e-4, as here after a warm-up of 6% and with Adam's beta2 of .98.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxbert.data import Examples, save_tokenizer
from jaxbert.errors import DivergedError, InputError
from jaxbert.lab.journal import LOG_LINES, Journal, diverged, finished
from jaxbert.lab.stage import Setup, Stage
from jaxbert.models import merge_model, split_model
from jaxbert.optim import OptimizerConfig, Strategy, get_strategy
from jaxbert.optim.config import DEFAULT_STRATEGY
from jaxbert.settings import is_count, is_number
from jaxbert.tasks import get_task, load_examples, load_model
from jaxbert.tasks.options import MASKED_LM

NAME = "task-adaptive"  # of the strategy
JOURNAL = "journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How a model is pre-trained further.

    Attributes:
      epochs: passes over the training texts.
      learning_rate: the peak.

    Raises:
      InputError: on construction, naming every bad value.

    Example:
      >>> Adaptation().optimizer.learning_rate
      0.0001
    """

    epochs: int = 10
    learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        problems = []
        if not is_count(self.epochs):
            problems.append(f"epochs={self.epochs!r} must be a whole number, at least 1")
        if not (is_number(self.learning_rate) and self.learning_rate > 0):
            problems.append(f"learning_rate={self.learning_rate!r} must be a positive number")
        if problems:
            raise InputError("adaptation: " + "; ".join(problems))

    @property
    def optimizer(self) -> OptimizerConfig:
        """Every layer at one rate, as in pre-training."""
        return OptimizerConfig(
            learning_rate=self.learning_rate, schedule="linear", warmup=0.06, beta2=0.98
        )


def strategy() -> Strategy:
    """What fine-tunes the adapted model: the default strategy, under the name of this one."""
    about = f"masked LM on the training texts first, then `{DEFAULT_STRATEGY}`"
    source = "Sun et al. 2019, within-task further pre-training; Gururangan et al. 2020, TAPT"
    return dataclasses.replace(
        get_strategy(DEFAULT_STRATEGY), name=NAME, about=about, source=source
    )


def texts_of(examples: Examples) -> Examples:
    """Every text of a task's examples once, in their order, for masked LM."""
    plain = examples.plain()
    texts = dict.fromkeys(itertools.chain(plain.texts, plain.pairs or ()))
    found = load_examples({"text": list(texts)}, task=MASKED_LM)
    return dataclasses.replace(found, source=examples.source)


class Adapter:
    """Pre-trains a laboratory's model further, on texts of its training pool.

    Args:
      setup: the laboratory's.
      pool: of its training examples.
    """

    def __init__(self, setup: Setup, pool: Examples) -> None:
        self._setup = setup
        self._stage = Stage(setup, get_task(MASKED_LM), texts_of(pool))

    def adapt(
        self, how: Adaptation, examples: Examples, seed: int, directory: Path
    ) -> dict[str, Any]:
        """Pre-trains on the texts of the examples, unless `directory` holds what came of it.

        It is a Hugging Face directory then, with the journal of the training.

        Returns:
          the journal's last line: "status", the updates ("step") and the seconds that it took.
        """
        end = finished(directory / JOURNAL)
        if end is not None:
            return end
        stage, started = self._stage, time.perf_counter()
        batches = stage.batches(texts_of(examples), seed)
        config = dataclasses.replace(
            self._setup.config,
            epochs=how.epochs,
            seed=seed,
            label_smoothing=0.0,
            optimizer=how.optimizer,
            log_every=-(-how.epochs * batches.steps_per_epoch // LOG_LINES),
        )
        _, loop = stage.loop(config, stage.model(seed), batches)
        lines = Journal(directory / JOURNAL)
        try:
            lines.write("start", 0, {"seed": seed, **dataclasses.asdict(how)})
            end = self._end(loop, lines, directory)
            end["seconds"] = time.perf_counter() - started
            lines.write("end", loop.progress.step, end)
        finally:
            lines.close()
        return {**end, "step": loop.progress.step}

    def _end(self, loop: Any, lines: Journal, directory: Path) -> dict[str, Any]:
        try:
            loop.run(lines)
        except DivergedError as error:
            return dict(diverged(error))
        self._stage.predictor.model_with(loop.state.params).save_pretrained(directory)
        save_tokenizer(self._setup.tokenizer, directory)
        return {"status": "finished"}

    def adapted(self, model: Any, directory: Path) -> Any:
        """The model with the encoder that `adapt` has left; its pooler, if any, and head stay."""
        other, _ = load_model(self._stage.task, directory, dtype=self._setup.dtype)
        graphdef, params = split_model(model)
        encoder = {**params["encoder"], **split_model(other)[1]["encoder"]}
        return merge_model(graphdef, {**params, "encoder": encoder})
