"""How `compare` and a side talk: a JSON line each way, over a pipe, the side in its own process.

A request is {"do": NAME, ...}, its answer {"answer": VALUE} or {"error": TEXT}:

  load     workload, directory, device, the side's own options -> what it runs on
  loss     -> the mean loss of the first batch, dropout off
  warm_up  -> seconds that the first step of every batch shape took longer than the second
  round    -> seconds per step of one pass over the examples, to the end of the last step
  memory   -> the most bytes held so far: of the process, or on its accelerator

and, of sides on JAX, what `peers` asks: first_moment and export, see `jax_side`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.workload import Workload

ERROR_LINES = 5  # of a dead process's last words
PATIENCE_SECONDS = 10  # with a side that is told to end


class Side(ABC):
    """One framework doing one workload, with all its own best settings."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Device, threads and whatever else its numbers depend on."""

    @abstractmethod
    def loss(self) -> float:
        """The mean loss of the first batch of examples, dropout off, before any update."""

    @abstractmethod
    def batches(self) -> Iterable[Mapping[str, Any]]:
        """One pass over the examples: the same batches each time."""

    @abstractmethod
    def step(self, batch: Mapping[str, Any]) -> None:
        """Starts what is timed; it may still run when this returns."""

    @abstractmethod
    def wait(self) -> None:
        """Returns when every step is done."""

    @abstractmethod
    def memory(self) -> int:
        """The most bytes held so far."""

    def warm_up(self) -> float:
        """Runs every shape of batch twice; seconds that the first time took longer: compilation."""
        batches = {tuple(batch["input_ids"].shape): batch for batch in self.batches()}.values()
        first, second = self._timed(batches), self._timed(batches)
        return max(0.0, first - second)

    def round(self) -> float:
        """Seconds per step of one pass, batching included."""
        steps = 0

        def counted() -> Iterable[Mapping[str, Any]]:
            nonlocal steps
            for batch in self.batches():
                steps += 1
                yield batch

        return self._timed(counted()) / steps

    def _timed(self, batches: Iterable[Mapping[str, Any]]) -> float:
        start = time.perf_counter()
        for batch in batches:
            self.step(batch)
        self.wait()
        return time.perf_counter() - start


def serve(make: Callable[..., Side]) -> None:
    """Answers requests on stdin until it closes.

    Args:
      make: (workload, directory, device=, **options) -> the side.
    """
    # What libraries print goes to the log: the pipe carries answers alone.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    side: Side | None = None
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        try:
            if do == "load":
                workload = Workload.from_dict(request.pop("workload"))
                side = make(workload, Path(request.pop("directory")), **request)
                answer = side.about()
            else:
                answer = getattr(side, do)(**request)
            reply = {"answer": answer}
        except Exception as error:  # of any library: it is reported, and the others go on
            reply = {"error": f"{type(error).__name__}: {error}"}
        pipe.write(json.dumps(reply) + "\n")
        pipe.flush()


class SideError(Exception):
    """A side could not do what it was asked."""


class SideProcess:
    """A side as seen from outside; use it in a `with` statement.

    Args:
      command: that starts it.
      env: its environment.
      log: where its stderr goes.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                text=True, encoding="utf-8",
            )  # fmt: skip

    def __enter__(self) -> SideProcess:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:  # in the middle of a step; it keeps nothing
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ask(self, do: str, **fields: Any) -> Any:
        """The answer to one request. SideError: the side's own error, or its death."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            words = self._log.read_text(encoding="utf-8").strip().splitlines()[-ERROR_LINES:]
            status = self._process.wait()
            raise SideError(f"{do}: ended with status {status}: {' / '.join(words)}")
        reply = json.loads(line)
        if "error" in reply:
            raise SideError(f"{do}: {reply['error']}")
        return reply["answer"]
