"""`Prefetch`: what comes next is made while the reader is busy."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterable
from typing import Any

from jaxbert.errors import InputError


class Prefetch:
    """Iterates over `batches` on a thread of its own, up to `depth` items ahead of the reader.

    Errors of the thread are raised where the items are read; leaving the loop early stops it.
    `seconds_waited` adds up how long the reader stood still.

    Example:
      >>> list(Prefetch(range(3)))
      [0, 1, 2]
    """

    def __init__(self, batches: Iterable[Any], depth: int = 2) -> None:
        if depth < 1:
            raise InputError(f"{depth=}: want at least 1")
        self._batches = batches
        self._depth = depth
        self.seconds_waited = 0.0

    def __iter__(self) -> Generator[Any, None, None]:
        items: queue.Queue[tuple[bool, Any]] = queue.Queue(self._depth)
        stop = threading.Event()
        thread = threading.Thread(
            target=_produce, args=(self._batches, items, stop), name="prefetch", daemon=True
        )
        thread.start()
        try:
            while True:
                start = time.perf_counter()
                more, item = items.get()
                self.seconds_waited += time.perf_counter() - start
                if not more:
                    break
                yield item
        finally:
            stop.set()
            # The thread puts at most one item after `stop`; make room, or it would wait for ever.
            while not items.empty():
                items.get_nowait()
            thread.join()
        if item is not None:
            raise item


def _produce(batches: Iterable[Any], items: queue.Queue, stop: threading.Event) -> None:
    """Puts (True, item) for each, then (False, the error that ended it or None)."""
    error = None
    try:
        iterator = iter(batches)
        for item in iterator:
            items.put((True, item))
            if stop.is_set():
                break
        if hasattr(iterator, "close"):
            iterator.close()
    except BaseException as raised:
        error = raised
    if not stop.is_set():
        items.put((False, error))
