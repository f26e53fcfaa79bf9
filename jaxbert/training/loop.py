"""The fit loop: batches through the step, evaluations, checkpoints, and every way it can end.

What it may be stopped by - Ctrl-C, a loss that is no number, early stopping - happens between two
steps: in the middle of one the old state's memory is already given away.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbert.data import Batches, Prefetch
from jaxbert.errors import DivergedError, Preempted
from jaxbert.optim import RatePlan
from jaxbert.optim.schedules import Schedule
from jaxbert.training import distributed
from jaxbert.training.checkpoint import Checkpoints
from jaxbert.training.config import TrainConfig
from jaxbert.training.engines import Compiled
from jaxbert.training.interruption import Interruption
from jaxbert.training.pace import Pace, Window
from jaxbert.training.record import Log
from jaxbert.training.step import Params, TrainState, global_norm

logger = logging.getLogger("jaxbert")

_GROWTH = 1000.0  # of the parameters' norm over a run: more is no training


@dataclasses.dataclass
class Progress:
    """Where a run is; saved with every checkpoint.

    Attributes:
      step: updates done.
      best: the best score so far, None before the first evaluation.
      best_step: when it was.
      waiting: evaluations since.
      history: every evaluation: {"step": step, score: value}.

    Example:
      >>> Progress(step=3, history=[{"step": 2, "accuracy": 0.5}]).evaluated
      2
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    waiting: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def evaluated(self) -> int:
        """The step of the last evaluation, 0 before the first."""
        return self.history[-1]["step"] if self.history else 0


class Evaluation(NamedTuple):
    """How the loop evaluates.

    Attributes:
      score: params -> {name: score}.
      metric: the name of the score by which the best parameters are chosen.
      higher_is_better: whether the best is the highest.
      keep: is given the best parameters so far, each time there are better ones.
    """

    score: Callable[[Params], dict[str, float]]
    metric: str
    higher_is_better: bool
    keep: Callable[[Params], None]


class Loop:
    """One fit.

    Args:
      config: how to train.
      batches: the training examples.
      compiled: the step, see `make_train_step`, which donates its state.
      state: where to begin, as the engine has put it; its memory is given to each next state.
      plan: the learning rates, and what is evaluated and saved.
      evaluation: None = never.
      checkpoints: None = none.
      show: the progress as a "bar", in "lines" of the log every few seconds, or "nothing".

    Attributes:
      state: after the last step.
      progress: where the run is.
      steps_per_epoch: of the batches.
      total_steps: of the whole run.
      seconds_waited: how long it stood still for batches.
    """

    def __init__(
        self,
        config: TrainConfig,
        batches: Batches,
        compiled: Compiled,
        state: TrainState,
        plan: RatePlan,
        *,
        evaluation: Evaluation | None = None,
        checkpoints: Checkpoints | None = None,
        show: str = "nothing",
    ) -> None:
        self.config, self.state, self.progress = config, state, Progress()
        self.steps_per_epoch = batches.steps_per_epoch
        self.total_steps = config.epochs * self.steps_per_epoch
        self.seconds_waited = 0.0
        self.compiled, self._batches = compiled, batches
        self._rates = _table(plan.schedules, self.total_steps)
        self._evaluated = _evaluated(plan, state)
        self._evaluation, self._checkpoints, self._show = evaluation, checkpoints, show
        self._interruption = Interruption()
        self._unchecked: tuple[int, dict[str, Any]] | None = None
        self._to_begin: list[Callable[[], None]] = []
        self._first_size = global_norm(state.params)

    @property
    def params(self) -> Params:
        """What is evaluated and saved: the parameters that train, or an average of them."""
        return self._evaluated(self.state)

    def restore(self) -> None:
        """Goes where the newest checkpoint is; stays at the beginning where there is none."""
        if self._checkpoints is not None and self._checkpoints.latest is not None:
            self.state, notes = self._checkpoints.restore(self.state)
            self.progress = Progress(**notes["progress"])
            logger.info("resumes after step %d of %d", self.progress.step, self.total_steps)
        else:
            logger.info("no checkpoint has been written yet: the run begins at its first step")

    def run(self, record: Log, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Trains until all epochs are done or patience is over.

        Args:
          record: where the losses, rates and scores go.
          meanwhile: begins what can be done while the first step is at work; not called where there
            is none to do.

        Raises:
          DivergedError: something is no longer finite; no checkpoint is written from there on.
          KeyboardInterrupt: as `Interrupted` on Ctrl-C, after the present step, with a checkpoint
            written; as `Preempted` on SIGTERM.
        """
        from tqdm.contrib.logging import logging_redirect_tqdm

        self._record, self._pace = record, Pace(self.progress.step)
        self._to_begin = [] if self._is_over() else [self._prepare, meanwhile]
        if self.compiled.engine.platform != "cpu":
            self._begin()
        with self._interruption, logging_redirect_tqdm(), self._bar() as bar:
            # A run that was stopped between a step and its evaluation makes up for it.
            if self._is_due(self.progress.step) and self.progress.evaluated < self.progress.step:
                self._evaluate()
            while not self._is_over():
                self._epoch(bar)
            self._check_params()

    def _begin(self) -> None:
        """What is to go on beside the steps.

        On accelerators before the first, since a compiler for them leaves most cores idle; on CPUs
        after it, or the program that is waited for would have half of the cores.
        """
        while self._to_begin:
            self._to_begin.pop(0)()

    def _prepare(self) -> None:
        """Has the programs of all shapes compiled while the first of them is at work."""
        rates = self._rates_of(self.progress.step)
        for batch in self._batches.examples_of_shapes():
            self.compiled.prepare(self.state, self.compiled.engine.put_batch(batch), rates)

    def losses(self, rates: Iterable[Mapping[str, np.float32]]) -> list[float]:
        """The loss of each step under these learning rates, ending with one that is not finite.

        Nothing is evaluated, saved or recorded.

        Args:
          rates: for each step {group: learning rate}.
        """
        found: list[float] = []
        epochs = (self._batches.epoch(epoch) for epoch in itertools.count())
        for batch, step_rates in zip(itertools.chain.from_iterable(epochs), rates, strict=False):
            values = self._update(batch, step_rates)
            found.append(float(values["loss"]))
            if not math.isfinite(found[-1]):
                break
        return found

    def _is_over(self) -> bool:
        patience = self.config.patience
        waited = patience is not None and self.progress.waiting >= patience
        return waited or self.progress.step >= self.total_steps

    def _epoch(self, bar: Any) -> None:
        """The epoch, or what is left of it."""
        stream = Prefetch(self._batches.epoch(*divmod(self.progress.step, self.steps_per_epoch)))
        window = Window(stream)
        with contextlib.closing(iter(stream)) as batches:
            for batch in batches:
                self._one_step(batch)
                window.add(batch)
                bar.update()
                if self._logs(self.progress.step):
                    loss = self._log(window)
                    bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
                    if self._show == "lines":
                        self._pace.tell(self.progress.step, self.total_steps, loss)
                    window = Window(stream)
                with window.paused():
                    self._between_steps()
                if self._is_over():
                    break
        self.seconds_waited += stream.seconds_waited

    def _one_step(self, batch: Mapping[str, np.ndarray]) -> None:
        before = self._unchecked
        rates = self._rates_of(self.progress.step)
        # By this name profilers know a training step.
        with jax.profiler.StepTraceAnnotation("train", step_num=self.progress.step):
            values = self._update(batch, rates)
        self._begin()
        self.progress.step += 1
        self._unchecked = (self.progress.step, values)
        if before is not None:
            # One step late, so that the host never waits for the device.
            self._check_finite(*before)

    def _update(
        self, batch: Mapping[str, np.ndarray], rates: Mapping[str, np.float32]
    ) -> dict[str, Any]:
        """The next state; returns what the step says of itself."""
        arrays = self.compiled.engine.put_batch(batch)
        self.state, values = self.compiled(self.state, arrays, rates)
        return values

    def _rates_of(self, step: int) -> dict[str, np.float32]:
        """Of the update after so many."""
        return {group: rate[step] for group, rate in self._rates.items()}

    def _between_steps(self) -> None:
        step = self.progress.step
        if distributed.is_preempted(step):
            self._interruption.asked = Preempted
        if self._is_due(step) and not self._interruption.asked:
            self._evaluate()
        if self._interruption.asked or self._wants_checkpoint(step):
            self._save()
        if self._interruption.asked:
            raise self._interruption.asked

    def _logs(self, step: int) -> bool:
        return step % self.config.log_every == 0 or step % self.steps_per_epoch == 0

    def _is_due(self, step: int) -> bool:
        every = self.config.eval_every or self.steps_per_epoch
        return self._evaluation is not None and self._falls_on(step, every)

    def _wants_checkpoint(self, step: int) -> bool:
        config = self.config
        every = config.checkpoint_every or config.eval_every or self.steps_per_epoch
        return self._falls_on(step, every) or self._is_over()

    def _falls_on(self, step: int, every: int) -> bool:
        return step > 0 and (step % every == 0 or step == self.total_steps)

    def _log(self, window: Window) -> float:
        """Writes the line of the present step; its loss."""
        assert self._unchecked is not None, "a line of the log is of a step"
        step, values = self._unchecked
        self._check_finite(step, values)
        line: dict[str, Any] = {
            "epoch": round(step / self.steps_per_epoch, 6),
            "loss": float(values["loss"]),
            "grad_norm": float(values["grad_norm"]),
            "grad_norms": {label: float(norm) for label, norm in values["grad_norms"].items()},
            "learning_rate": {group: float(rate[step - 1]) for group, rate in self._rates.items()},
        }
        self._record.write("train", step, line | window.speed())
        return line["loss"]

    def _evaluate(self) -> None:
        evaluation, progress = self._evaluation, self.progress
        assert evaluation is not None, "nothing is due without"
        scores = self._scores(evaluation)
        self._record.write("eval", progress.step, scores)
        told = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        logger.info("step %d of %d: %s", progress.step, self.total_steps, told)
        progress.history.append({"step": progress.step, **scores})
        score, best = scores[evaluation.metric], progress.best
        better = best is None or (score > best if evaluation.higher_is_better else score < best)
        progress.waiting = 0 if better else progress.waiting + 1
        if better:
            progress.best, progress.best_step = score, progress.step
            evaluation.keep(self.params)

    def _scores(self, evaluation: Evaluation) -> dict[str, float]:
        if self._unchecked is not None:
            self._check_finite(*self._unchecked)
        try:
            with self._interruption.at_once():
                scores = evaluation.score(self.params)
        except KeyboardInterrupt:
            self._save()
            raise
        bad = [f"{name} {value}" for name, value in scores.items() if not math.isfinite(value)]
        if bad:
            raise self._diverged(f"evaluation after step {self.progress.step}: {', '.join(bad)}")
        return scores

    def _check_finite(self, step: int, values: Mapping[str, Any]) -> None:
        loss, norm = float(values["loss"]), float(values["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(f"step {step}: loss {loss}, gradient norm {norm}")

    def _check_params(self) -> None:
        """Of the present parameters: the loss of a step is of those before it.

        A rate far too high can leave numbers that are finite and no model; no training that does
        anything makes the parameters a thousand times as large.
        """
        size = global_norm(self.state.params)
        if not math.isfinite(size):
            raise self._diverged(f"step {self.progress.step}: parameters are not finite")
        if size > _GROWTH * self._first_size:
            raise self._diverged(
                f"step {self.progress.step}: the parameters are {size / self._first_size:.1e} "
                "times as large as before the first step"
            )

    def _diverged(self, what: str) -> DivergedError:
        latest = None if self._checkpoints is None else self._checkpoints.latest
        kept = "" if latest is None else f"; the checkpoint of step {latest} is kept"
        return DivergedError(
            f"{what}; the learning rate is too high for this model and data: try a lower one or a "
            f"longer warm-up{kept}"
        )

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        if self._unchecked is not None:
            self._check_finite(*self._unchecked)
        self._check_params()
        notes = {
            "progress": dataclasses.asdict(self.progress),
            "config": dataclasses.asdict(self.config),
        }
        self._checkpoints.save(self.state, notes, best=self.progress.best_step or None)
        self._record.write("checkpoint", self.progress.step, {})

    def _bar(self) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=self.total_steps,
            initial=self.progress.step,
            disable=self._show != "bar",
            unit="step",
            desc="fine-tuning",
        )


def _evaluated(plan: RatePlan, state: TrainState) -> Callable[[TrainState], Params]:
    """A state -> its parameters to evaluate, where and as those that train are."""
    if not plan.averages:
        return lambda state: state.params
    where = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    return jax.jit(lambda state: plan.evaluated(state.opt_state, state.params), out_shardings=where)


def _table(rates: Mapping[str, Schedule], total_steps: int) -> dict[str, np.ndarray]:
    """{group: [T] float32}: every rate of the run, so that no step computes one."""
    steps = np.arange(total_steps)
    # In one program: the operations of schedules compile one by one otherwise.
    rows = jax.jit(lambda: {group: rate(steps) for group, rate in rates.items()})()
    return {group: np.asarray(row, np.float32) for group, row in rows.items()}
