"""One case: a target's file with a part of it changed, read, and judged."""

import dataclasses
import faulthandler
import resource
import shutil
import signal
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxbert.errors import JaxbertError
from tests.fuzz.mutation import mutated

SECONDS = 10  # more is a hang
MEMORY = 64 * 2**20  # more is far beyond the size of these files, which is some kilobytes


@dataclasses.dataclass(frozen=True)
class Target:
    """Something that reads files.

    Args:
      write: makes good ones in an empty directory.
      read: reads the one at a path, or all beside it.
      mutate: what is done to one of them.
      files: a pattern of those that are changed.
      share: of the cases; less for what is slow.
      writes: it is its business to change the directory as well.
    """

    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    mutate: Callable[[bytes, np.random.Generator], bytes] = mutated
    files: str = "**/*"
    share: int = 10
    writes: bool = False


class HangError(BaseException):
    """A case takes too long; nothing that is read may catch it."""


class Bench:
    """A target's directory, in which one case after the other is tried.

    `biggest`, `slowest`: in bytes and seconds, of all cases so far.
    """

    def __init__(self, name: str, target: Target, directory: Path) -> None:
        self.name, self.target, self.directory = name, target, directory
        self.biggest, self.slowest = 0, 0.0
        directory.mkdir()
        target.write(directory)
        self._originals = snapshot(directory)
        found = (path for path in directory.glob(target.files) if path.is_file())
        self._paths = sorted(str(path.relative_to(directory)) for path in found)
        for path in self._paths:  # what is imported and compiled once is none of a case's
            target.read(directory / path)
            self._restore()

    def case(self, seed: int, number: int) -> str:
        """What became of it: "refused", "read", or a finding in words."""
        path = self.change(seed, number)
        before = snapshot(self.directory)
        try:
            found = self._read(path)
            if not self.target.writes and snapshot(self.directory) != before:
                found = "it changed the directory"
        finally:
            self._restore()
        return found

    def change(self, seed: int, number: int) -> Path:
        """The file that is changed, and so every time."""
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode()), number])
        path = self.directory / self._paths[rng.integers(len(self._paths))]
        content = self._originals[str(path)]
        assert content is not None
        path.write_bytes(self.target.mutate(content, rng))
        return path

    def _read(self, path: Path) -> str:
        started, memory = time.perf_counter(), _resident()
        tracemalloc.start()
        try:
            with limited(SECONDS):
                self.target.read(path)
            found = "read"
        except (JaxbertError, OSError) as error:
            found = _judged(error)
        except HangError:
            found = f"it took over {SECONDS} s"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            found = _told(error)
        finally:
            peak = max(tracemalloc.get_traced_memory()[1], _resident() - memory)
            tracemalloc.stop()
        self.biggest = max(self.biggest, peak)
        self.slowest = max(self.slowest, time.perf_counter() - started)
        return f"it took {peak / 2**20:.0f} MiB" if peak > MEMORY else found

    def _restore(self) -> None:
        """The good files, and no others."""
        if self.target.writes:
            shutil.rmtree(self.directory, ignore_errors=True)
        for name, content in self._originals.items():
            path = Path(name)
            if content is None:
                path.mkdir(exist_ok=True, parents=True)
            elif not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)


def snapshot(directory: Path) -> dict[str, bytes | None]:
    """{path: what is in it}, None for a folder."""
    paths = [directory, *sorted(directory.rglob("*"))]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


class limited:
    """Raises `HangError` in the block after so many seconds, and ends a process that hears none."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, self._stop)
        signal.alarm(self._seconds)
        faulthandler.dump_traceback_later(6 * self._seconds, exit=True, file=sys.__stderr__)

    def __exit__(self, *_: Any) -> None:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, self._before)

    @staticmethod
    def _stop(*_: Any) -> None:
        raise HangError


def _judged(error: BaseException) -> str:
    """An expected error is one line; more only where it is a list."""
    first, *more = str(error).split("\n")
    if not first.strip() or not all(line.startswith("  ") for line in more):
        return f"no single line: {str(error)[:200]!r}"
    return "refused"


def _told(error: BaseException) -> str:
    """The error, and the last place of ours on the way to it."""
    place, step = "", error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if "/jaxbert/" in file:
            place = f"{file.rpartition('/jaxbert/')[2]}:{step.tb_lineno}"
        step = step.tb_next
    return f"{type(error).__name__} at {place}: {str(error)[:200]}"


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
