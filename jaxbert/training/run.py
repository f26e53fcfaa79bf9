"""`Run`: the output directory of a training, from the lock to the finished model."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxbert.atomic import write_text
from jaxbert.data import save_tokenizer
from jaxbert.models.model import Model
from jaxbert.training import card, distributed, run_directory
from jaxbert.training.checkpoint import Checkpoints
from jaxbert.training.lock import RunLock
from jaxbert.training.record import Record


class Run:
    """Where a training is written, if anywhere; of several processes the first one writes.

    Args:
      output: None = nowhere.
      resume: the run that is there goes on.
      overwrite: the run that is there is replaced, once this one is finished.

    Raises:
      InputError: another process has it. FileExistsError: it holds something.
    """

    def __init__(
        self, output: Path | None, identity: Mapping[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        self.output, self._lock = output, None
        if output is None:
            return
        if resume:
            run_directory.read_run(run_directory.place_of(output))  # or there is no directory
        if distributed.is_first():
            self._lock = RunLock(output)
            weakref.finalize(self, self._lock.release)  # also if it never fits
        if resume:
            if distributed.is_first():
                run_directory.settle(output)
            run_directory.check_same(output, identity)
        elif distributed.is_first():
            directory = run_directory.prepare(output, overwrite=overwrite)
            # From here on there is a run to resume, even if it stops before its first step.
            run_directory.write_run(directory, {"status": run_directory.PREPARED, **identity})
        distributed.wait_for_all("the output directory is ready")  # and all mean the same place

    @property
    def directory(self) -> Path | None:
        """Where it is written: `output`, or beside a run that it is to replace there."""
        return None if self.output is None else run_directory.place_of(self.output)

    @property
    def _written(self) -> Path | None:
        return self.directory if distributed.is_first() else None

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """While it is being trained; then others may have the directory."""
        if self._lock is None:
            yield
            return
        try:
            with self._lock.busy():
                yield
        finally:
            self._lock.release()

    def checkpoints(self, keep: int) -> Checkpoints | None:
        """Those in it."""
        directory = self.directory
        if directory is None:
            return None
        return Checkpoints(directory / run_directory.CHECKPOINTS, keep)

    def record(self, step: int, evaluated: int) -> Record:
        """What losses and scores are written to; see `Record`."""
        return Record(self._written, step, evaluated)

    def describe(self, run: dict[str, Any]) -> None:
        """Writes run.json."""
        if (directory := self._written) is not None:
            run_directory.write_run(directory, run)

    def write_model(self, model: Model, tokenizer: Any) -> None:
        """Writes the model, and the tokenizer beside it."""
        if (directory := self._written) is not None:
            model.save_pretrained(directory)
            save_tokenizer(tokenizer, directory)

    def write_config(self, model: Model) -> None:
        """Writes anew what config.json says of a model whose weights are there."""
        if (directory := self._written) is not None:
            model.save_config(directory)

    def finish(self, run: Mapping[str, Any]) -> None:
        """Writes the model card, and puts the run in the place of another that it replaces."""
        if self.output is None or (directory := self._written) is None:
            return
        write_text(directory / run_directory.CARD, card.model_card(run))
        run_directory.finish(self.output)
