"""What is there for CPUs only; importable without jax.

glibc's allocator: it gives large blocks back to the system after each use and faults them in again
at the next, a third of a training step. With `ALLOCATOR`, read once, when a process starts, the
hole that a block leaves keeps its pages for the next. XLA allocates what a call needs for itself as
one block, and frees it at the end. But once something small has been put into the hole, the next
block no longer fits and goes elsewhere, and the hole keeps its pages all the same: at a step that
nobody can foresee, a process holds the block twice. `TemporaryBlock` is against that.

XLA's compiler for CPUs: which products it has in bfloat16, what it computes together, and what
stays in the cache; at the end of the file.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax import Array

# The last, one arena: what one thread gave back, another can use without new pages.
ALLOCATOR = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:"
    "glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=1073741824:"
    "glibc.malloc.arena_max=1"
)
_VARIABLE = "GLIBC_TUNABLES"

# As jax itself looks for GPUs: on a Linux machine, in a container, in WSL; and AMD's.
_GPU_DEVICES = ("nvidia0", "nvidiactl", "dxg", "kfd")
# A TPU's chips: up to v4, and later ones. A vfio group may be any device handed to a virtual
# machine, so what counts is that libtpu is there too.
_TPU_DEVICES = ("accel[0-9]*", "accel/accel[0-9]*", "vfio/[0-9]*")
_TPU_VARIABLES = ("TPU_NAME", "TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE")

# Of so many tokens what a layer computes stays in the last-level cache until it is read.
CACHED_TOKENS = 2048

# For matrix products, the widest first, as Linux names them.
_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")

_SLACK = 4096  # glibc asks itself for a little more than an aligned block needs
_SECONDS_TO_FREE = 0.002  # a call's results are ready shortly before its memory is free


def cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name and, on Linux, the widest instructions it has for products.

    `platform` knows no name there; and where a cloud hides it, those still tell machines apart.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            lines = info.read_text(encoding="utf-8").splitlines()
            halves = (line.partition(":") for line in lines)
            known = {name.strip(): value.strip() for name, _, value in halves}
            flags = known.get("flags", "").split()
            widest = [name for name in _INSTRUCTIONS if name in flags][:1]
            return ", ".join([known.get("model name", platform.machine()), *widest])
    return platform.processor()


def has_accelerator(devices: Path = Path("/dev")) -> bool:
    """Whether jax will compute on a GPU or a TPU here, told without importing it.

    JAX_PLATFORMS decides where it is set, its first word as in jax; else what the machine has.

    Args:
      devices: where the system has its devices.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0].strip() != "cpu"
    if any((devices / name).exists() for name in _GPU_DEVICES):
        return True
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        return False  # jax would not find a TPU if there were one
    return any(name in os.environ for name in _TPU_VARIABLES) or any(
        next(devices.glob(pattern), None) is not None for pattern in _TPU_DEVICES
    )


def restart_with_allocator(module: str, argv: Sequence[str]) -> None:
    """Starts the program again with `ALLOCATOR`, on Linux without an accelerator; else returns.

    It also returns where GLIBC_TUNABLES is set already: by the user, or by this function.

    Args:
      module: what to run, as in `python -m module`.
      argv: its arguments, without the program's name.
    """
    if sys.platform != "linux" or _VARIABLE in os.environ or has_accelerator():
        return
    os.environ[_VARIABLE] = ALLOCATOR
    os.execv(sys.executable, [sys.executable, "-m", module, *argv])


class TemporaryBlock:
    """A program's temporary memory, kept in one place of glibc's heap call after call.

    Without the settings, and elsewhere than on Linux, it does nothing.

    Args:
      size: of the block, in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._address: int | None = None

    def reuse(self) -> None:
        """Before a call: if the block would go to a new place, gives the pages of holes back."""
        glibc = _glibc()
        if glibc is None:
            return
        address = self._next_address(glibc)
        if self._address not in (None, address):
            time.sleep(_SECONDS_TO_FREE)
            address = self._next_address(glibc)
        if address != self._address:
            glibc.malloc_trim(0)
            self._address = address

    def _next_address(self, glibc: ctypes.CDLL) -> int | None:
        block = glibc.malloc(self._size + _SLACK)  # writes a header, and so claims no pages
        glibc.free(block)
        return block


def give_back_memory() -> None:
    """Gives what is free of glibc's memory back to the system; elsewhere it does nothing.

    A compilation takes hundreds of MiB on several threads, and what each of them frees stays with
    it: a process that trains again and again would hold more and more that nobody uses.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, where the settings are in force."""
    settings = os.environ.get(_VARIABLE, "")
    if sys.platform != "linux" or "malloc.trim_threshold" not in settings:
        return None
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = library.malloc_trim.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    return library


def tiled_transpose(x: Array) -> Array:
    """x.T of a matrix, written so that XLA does not fold it into the product that follows.

    XLA on CPUs has a bfloat16 product for operands that are not transposed only, and turns the
    others into float32 first: the gradient of every kernel, x.T @ g, at half the speed.
    """
    rows, columns = x.shape
    tile = [min(size & -size, 64) for size in x.shape]  # the largest power of 2 that divides it
    tiles = x.reshape(rows // tile[0], tile[0], columns // tile[1], tile[1])
    return tiles.transpose(2, 3, 0, 1).reshape(columns, rows)


def by_heads(a: Array, b: Array, multiply: Callable[[Array, Array], Array]) -> Array:
    """[B, N, M, K] @ [B, N, K, P], by a product of [G, M, K] and [G, K, P].

    XLA would make a transposition of an operand part of the product, and find no bfloat16 product
    for what comes out; past a reshape it does not.
    """
    flat_a, flat_b = (x.reshape(-1, *x.shape[2:]) for x in (a, b))
    return multiply(flat_a, flat_b).reshape(*a.shape[:3], b.shape[3])


def apart(*values: Array) -> tuple[Array, ...]:
    """The same values, on which nothing before and after is computed together.

    XLA would make arrays as large as the activations of a GELU's constants, for all layers to read,
    and compute the function inside of products, where it is slower than on its own.
    """
    from jax import lax

    return tuple(lax.optimization_barrier(values))


def cached_microbatches(rows: int, length: int) -> int:
    """In how many equal parts so many rows have at most, and at least half of, `CACHED_TOKENS`."""
    fewest = -(-rows * length // CACHED_TOKENS)
    return next((parts for parts in range(fewest, 2 * fewest) if rows % parts == 0), 1)
