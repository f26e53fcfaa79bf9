"""How fast a training goes: for its log, and for those who wait for it."""

from __future__ import annotations

import contextlib
import datetime
import logging
import time
from collections.abc import Iterator, Mapping

import numpy as np

from jaxbert.data import Prefetch

logger = logging.getLogger("jaxbert")

SECONDS_BETWEEN_LINES = 15.0


class Pace:
    """Tells where a run is, where no bar can: now and then, in a line.

    Args:
      step: of the run, now.
    """

    def __init__(self, step: int) -> None:
        self._first, self._start = step, time.perf_counter()
        self._told = self._start

    def tell(self, step: int, total: int, loss: float) -> None:
        """A line, if the last one is long enough ago."""
        now = time.perf_counter()
        if now - self._told < SECONDS_BETWEEN_LINES:
            return
        self._told = now
        # Of the whole run so far: evaluations and checkpoints take their share of what is left too.
        rate = (step - self._first) / (now - self._start)
        left = datetime.timedelta(seconds=round((total - step) / rate))
        logger.info(
            "step %d of %d: loss %.4f, %.2f steps/s, %s left", step, total, loss, rate, left
        )


class Window:
    """How fast it went since the last line of the log, evaluations and checkpoints left out.

    Args:
      stream: where the batches come from.
    """

    def __init__(self, stream: Prefetch) -> None:
        self._stream, self._waited_before = stream, stream.seconds_waited
        self._start = time.perf_counter()
        self._examples = self._tokens = 0

    def add(self, batch: Mapping[str, np.ndarray]) -> None:
        """Counts what a step has taken."""
        self._examples += int((batch["example_ids"] >= 0).sum())
        processes = len(batch["example_ids"]) // len(batch["segment_ids"])  # each has some rows
        self._tokens += int((batch["segment_ids"] > 0).sum()) * processes

    def speed(self) -> dict[str, float]:
        """Of all that was counted."""
        seconds = time.perf_counter() - self._start
        return {
            "examples_per_second": self._examples / seconds,
            "tokens_per_second": self._tokens / seconds,
            "waiting_share": (self._stream.seconds_waited - self._waited_before) / seconds,
        }

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While this lasts no time passes."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start
