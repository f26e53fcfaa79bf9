"""Where the temporary memory of a program lies in glibc's heap: in one place, call after call.

XLA allocates what a call needs for itself as one block, and frees it at the end. With the settings
that the commands start with on Linux CPUs (`cli.ALLOCATOR`) the hole keeps its pages for the next
call. But once something small has been put into the hole, the next block no longer fits and goes
elsewhere, and the hole keeps its pages all the same: at a step that nobody can foresee, a process
holds the block twice.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import time

_SLACK = 4096  # glibc asks itself for a little more than an aligned block needs
_SECONDS_TO_FREE = 0.002  # a call's results are ready shortly before its memory is free


class OnePlace:
    """The block of a program. Without the settings, and elsewhere than on Linux, it does nothing.

    size: of the block, in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._place: int | None = None

    def keep(self) -> None:
        """Before a call: if the block would go to a new place, gives the pages of holes back."""
        glibc = _glibc()
        if glibc is None:
            return
        place = self._next_place(glibc)
        if self._place not in (None, place):
            time.sleep(_SECONDS_TO_FREE)
            place = self._next_place(glibc)
        if place != self._place:
            glibc.malloc_trim(0)
            self._place = place

    def _next_place(self, glibc: ctypes.CDLL) -> int | None:
        block = glibc.malloc(self._size + _SLACK)  # writes a header, and so claims no pages
        glibc.free(block)
        return block


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, where the settings are in force."""
    settings = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or "malloc.trim_threshold" not in settings:
        return None
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = library.malloc_trim.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    return library
