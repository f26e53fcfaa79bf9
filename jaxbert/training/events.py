"""TensorBoard's files of events: the scalars of a run.

Written here and not by tensorboardX, which imports PyTorch where that is installed, two seconds of
every run, and has a thread write, which a full disk ends; then the next to write waits for ever.

Reference: tensorflow/core/util/event.proto, core/framework/summary.proto and
core/lib/io/record_writer.cc.
"""

from __future__ import annotations

import platform
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxbert.atomic import naming
from jaxbert.weights.readers.crc32c import crc32c, masked
from jaxbert.weights.readers.wire import Value, message

_FLUSH_SECONDS = 30  # between what TensorBoard gets to see

# Numbers of fields: of an Event, of its Summary, of that one's Value, of its SessionLog.
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 1, 2, 3, 5, 7
_VALUE = 1
_TAG, _SIMPLE_VALUE = 1, 2
_STATUS, _START = 1, 1


class Events:
    """A file of TensorBoard's events, written by whoever calls.

    Args:
      folder: of all of a run's files; made where it is missing.
      step: of the first event; those of an earlier file from there on are out of date.

    Raises:
      OSError: the disk is full, or the folder cannot be written; names the file. So do all methods.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(exist_ok=True)
        names = (path.name.split(".") for path in folder.iterdir())
        stamps = [int(name[3]) for name in names if len(name) > 3 and name[3].isdecimal()]
        # TensorBoard reads them by name: this one is the last, wherever the clock stands.
        stamp = max([int(time.time()), *(stamp + 1 for stamp in stamps)])
        self._path = folder / f"events.out.tfevents.{stamp:010}.{platform.node()}"
        with naming(self._path):
            self._file = self._path.open("wb")
            self._put((_FILE_VERSION, b"brain.Event:2"))
            self._put((_STEP, step), (_SESSION_LOG, message((_STATUS, _START))))
            self._file.flush()
        self._flushed = time.monotonic()

    def write(self, values: Mapping[str, float], step: int) -> None:
        """A scalar for each, on the disk some seconds later."""
        with naming(self._path):
            for name, value in values.items():
                scalar = message((_TAG, name.encode()), (_SIMPLE_VALUE, np.float32(value)))
                self._put((_STEP, step), (_SUMMARY, message((_VALUE, scalar))))
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._file.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes out what is buffered."""
        with naming(self._path):
            self._file.close()

    def _put(self, *fields: tuple[int, Value]) -> None:
        self._file.write(record(message((_WALL_TIME, time.time()), *fields)))


def record(content: bytes) -> bytes:
    """The content between its length and its checksum, as TensorFlow's files of records have it."""
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", masked(crc32c(content)))
