"""What a training tells those who listen: loggers of one's own beside the run's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxbert.training.record import Log


class Callback:
    """Is told what a training does, between its steps; a subclass overrides what it wants to hear.

    What a method raises ends the training. Where several processes train, the first one's are told.

    Example:
      >>> class Losses(Callback):
      ...     def __init__(self):
      ...         self.found = []
      ...     def on_log(self, step, values):
      ...         self.found.append((step, values["loss"]))
      >>> losses = Losses()
      >>> losses.on_log(10, {"loss": 0.7})
      >>> losses.found
      [(10, 0.7)]
    """

    def on_log(self, step: int, values: Mapping[str, Any]) -> None:
        """Every `log_every` steps: "loss", "learning_rate" of each group, "grad_norm", speeds."""

    def on_evaluate(self, step: int, scores: Mapping[str, float]) -> None:
        """After an evaluation."""

    def on_checkpoint(self, step: int, directory: Path | None) -> None:
        """When a checkpoint is on its way to `checkpoints/STEP` in the run's directory."""


class Told:
    """A log that callbacks are told of as well.

    Args:
      log: where it is written.
      callbacks: in their order.
      directory: of the run.
    """

    def __init__(self, log: Log, callbacks: Sequence[Callback], directory: Path | None) -> None:
        self._log, self._callbacks, self._directory = log, callbacks, directory

    def write(self, event: str, step: int, values: dict[str, Any]) -> None:
        """One event: "train", "eval" or "checkpoint", of which the last is not written."""
        if event == "checkpoint":
            for callback in self._callbacks:
                callback.on_checkpoint(step, self._directory)
            return
        self._log.write(event, step, values)
        for callback in self._callbacks:
            (callback.on_log if event == "train" else callback.on_evaluate)(step, values)
