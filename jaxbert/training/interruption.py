"""Ctrl-C and SIGTERM as a request, which a loop grants where nothing is lost by it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Self

import jax

from jaxbert.errors import Interrupted, Preempted

# JAX's, which Python calls when it collects garbage: what is raised in it is printed, and lost.
_DEAF = "_xla_gc_callback"


class Interruption:
    """Turns Ctrl-C and SIGTERM into a request that the loop grants between two steps.

    A second one is final. `asked` is what the loop then raises, None before.
    """

    _MEANING: Mapping[signal.Signals, type[KeyboardInterrupt]] = MappingProxyType(
        {signal.SIGINT: Interrupted, signal.SIGTERM: Preempted}
    )

    def __init__(self) -> None:
        self.asked: type[KeyboardInterrupt] | None = None
        self._at_once = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Several processes must agree on the step: `distributed` listens for SIGTERM, and Ctrl-C
        # ends a process at once, and with it the others.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._previous = {sign: signal.signal(sign, self._ask) for sign in self._MEANING}
        return self

    def __exit__(self, *_: Any) -> None:
        for sign, handler in self._previous.items():
            signal.signal(sign, handler)

    def _ask(self, sign: int, frame: Any = None) -> None:
        while frame is not None:
            if frame.f_code.co_name == _DEAF:
                threading.Timer(0.01, os.kill, (os.getpid(), sign)).start()
                return
            frame = frame.f_back
        final = self._at_once or self.asked is not None
        self.asked = self._MEANING[signal.Signals(sign)]
        if final:
            raise self.asked

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, nothing would be lost: the first signal is final."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
