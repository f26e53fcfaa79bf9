"""Files that are whole or absent, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

# File systems that cannot sync a directory say so with one of these.
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary file beside `path`, which takes its place once it is written completely.

    A reader, also one that comes after a crash or a power cut, finds the old file or the new one.
    The temporary file is empty and of a name that no other thread, process or machine uses; it is
    deleted if the block raises. The new file's permissions are those of any new file (`umask`),
    also where the writer has set others.

    Args:
      path: what to replace, or make. Its directory must exist. A symbolic link is replaced itself.

    Example:
      >>> import pathlib, tempfile
      >>> directory = pathlib.Path(tempfile.mkdtemp())
      >>> with replacing(directory / "run.json") as temporary:
      ...     _ = temporary.write_text("{}")
      >>> [path.name for path in directory.iterdir()]
      ['run.json']
    """
    path = Path(path)
    # Not the process's number: machines that share a directory have the same ones.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.touch(exist_ok=False)
    try:
        mode = temporary.stat().st_mode
        with naming(path):
            yield temporary
            temporary.chmod(mode)
            _sync(temporary, os.O_RDWR)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    with naming(path.parent):
        _sync_directory(path.parent)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Gives an OSError of the block the file's name, where it has none: what is full, or broken.

    Example:
      >>> with naming("run.json"):
      ...     raise OSError(errno.ENOSPC, "No space left on device")
      Traceback (most recent call last):
      OSError: [Errno 28] No space left on device: 'run.json'
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    r"""Replaces a file's text, in UTF-8, as `replacing` does.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "notes.txt"
      >>> write_text(path, "one\n")
      >>> path.read_text()
      'one\n'
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _sync(path: Path, flags: int) -> None:
    """Returns when what has been written is on the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    """The new name as well: without it a power cut can bring the old file back."""
    if os.name != "posix":
        return  # others have no way to open a directory
    try:
        _sync(directory, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
