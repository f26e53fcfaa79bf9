"""One run in a directory at a time: a file that says which process has it, on which machine.

A lock of a process that has died on this machine is taken over; one of another machine cannot be
judged from here, and is not. Within a process a directory may be held several times, for a command
holds it around the `Trainer` that does. Imports no jax.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from jaxbert.atomic import naming
from jaxbert.errors import InputError
from jaxbert.training.run_directory import LOCK, refuse_file

_ATTEMPTS = 20  # others may come and go in between


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that writes a run.

    Attributes:
      pid: its number, which another process may get when it has ended.
      host: the machine's name.
      boot: which of the machine's starts it lives in; "" where the system does not say.
      started: when the process started, in the system's own words; "" where it does not say.
      since: when it took the directory, for people.

    Example:
      >>> Holder.me().is_alive()
      True
    """

    pid: int
    host: str
    boot: str
    started: str
    since: str

    @classmethod
    def me(cls) -> Self:
        """This process."""
        pid = os.getpid()
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(pid, platform.node(), _boot(), _started(pid), now)

    def is_alive(self) -> bool | None:
        """None where it cannot be said from here: it is on another machine."""
        if self.host != platform.node():
            return None
        if self.boot != _boot() or not _exists(self.pid):
            return False
        return not self.started or self.started == _started(self.pid)


@contextlib.contextmanager
def held(output: Path) -> Iterator[None]:
    """Holds a directory against other processes while the block runs.

    Args:
      output: made when missing, and removed again where nothing was put into it.

    Raises:
      InputError: another process has it: which, and what to do.
      FileExistsError: it is a file.
    """
    lock = RunLock(output)
    try:
        yield
    finally:
        lock.release()


class RunLock:
    """A hold on a directory, from its making to `release`; see `held`."""

    def __init__(self, output: Path) -> None:
        refuse_file(output)
        self._output, self._directory = output, output.resolve()
        self._key = (os.getpid(), self._directory)  # what a fork copies is its parent's
        self._released, self._made = False, not self._directory.exists()
        with _mutex:
            self._refuse_busy()
            if not _holds.get(self._key):
                self._directory.mkdir(parents=True, exist_ok=True)
                _take(self._directory / LOCK, output)
            _holds[self._key] = _holds.get(self._key, 0) + 1

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Inside, no other hold is given, in this process neither."""
        with _mutex:
            self._refuse_busy()
            _busy.add(self._key)
        try:
            yield
        finally:
            _busy.discard(self._key)

    def release(self) -> None:
        """Gives the directory back, once, where no other hold of this process is left."""
        with _mutex:
            if self._released or self._key[0] != os.getpid():
                return
            self._released = True
            _holds[self._key] -= 1
            if _holds[self._key]:
                return
            del _holds[self._key]
            holder = _read(self._directory / LOCK)
            if holder is not None and (holder.pid, holder.host) == (os.getpid(), platform.node()):
                (self._directory / LOCK).unlink(missing_ok=True)
            if self._made:
                with contextlib.suppress(OSError):  # not empty, as it should be
                    self._directory.rmdir()

    def _refuse_busy(self) -> None:
        if self._key in _busy:
            raise InputError(
                f"output {self._output} is held by a fit() of this very process: wait for it, or "
                "name another directory"
            )


_mutex = threading.RLock()
_holds: dict[tuple[int, Path], int] = {}  # {(process, directory): how many}
_busy: set[tuple[int, Path]] = set()


def _take(path: Path, output: Path) -> None:
    """Makes the lock ours.

    Raises:
      InputError: it is another's.
    """
    for _ in range(_ATTEMPTS):
        if _create(path):
            return
        holder = _read(path)
        if holder is None and not path.exists():
            continue
        if holder is None:
            raise InputError(
                f"output {output} is locked, and {path} does not say by whom: delete that file if "
                "no run is going on there"
            )
        alive = holder.is_alive()
        if alive is None:
            raise InputError(
                f"output {output} is held by process {holder.pid} on {holder.host}, since "
                f"{holder.since}: wait for it, or delete {path} if it has ended"
            )
        if alive:
            raise InputError(
                f"output {output} is held by process {holder.pid} on this machine, since "
                f"{holder.since}: wait for it, stop it, or name another directory"
            )
        _remove_stale(path, holder)
    raise InputError(f"output {output}: other processes keep taking {path}; try again")


def _create(path: Path) -> bool:
    """Whether the lock is now ours: it comes into being with its contents, or not at all."""
    text = json.dumps(dataclasses.asdict(Holder.me())) + "\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with naming(path):
            temporary.write_text(text, encoding="utf-8")
        return _link(temporary, path, text)
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path, text: str) -> bool:
    try:
        os.link(temporary, path)  # fails where there is one, on network file systems too
        return True
    except FileExistsError:
        return False
    except OSError:  # a file system without links: then at least its name is made only once
        return _create_exclusively(path, text)


def _create_exclusively(path: Path, text: str) -> bool:
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    try:
        with naming(path), file:
            file.write(text)
    except OSError:  # a lock that does not say whose it is would stay in everybody's way
        path.unlink(missing_ok=True)
        raise
    return True


def _read(path: Path) -> Holder | None:
    """Who holds it; None where there is none, or nobody can tell."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return Holder(**content) if isinstance(content["pid"], int) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _remove_stale(path: Path, holder: Holder) -> None:
    """Deletes that holder's lock, and no newer one that another process has put in its place."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)  # only one of several succeeds
        if _read(aside) != holder:
            with contextlib.suppress(OSError):
                os.link(aside, path)  # it was not stale: another was faster, and has it
        aside.unlink(missing_ok=True)


def _exists(pid: int) -> bool:
    if os.name != "posix":
        return True  # elsewhere to ask is to kill
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # it is another user's
    return True


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When the process started; "" where nobody says, or it has ended."""
    try:
        # After the command's name, which may hold anything, in parentheses: state, ..., start.
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    try:
        words = ["ps", "-o", "lstart=", "-p", str(pid)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
