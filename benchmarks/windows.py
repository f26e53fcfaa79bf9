"""Time and memory of one attention layer of ModernBERT-base against length: windowed, and full.

    python -m benchmarks.windows     # prints, and adds a line a length to results/windows.jsonl

Forward and backward of `attention` on one row, float32, 12 heads of 64, a window of 64 each way:
the median of three, and what `memory_analysis` says the program needs beside its arguments. Both
are first proved to give the same numbers where the full form sees the window only. The full one is
compiled at every length, and run up to 4,096: beyond that its scores are gigabytes.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import append_result, environment
from jaxbert.models.attention import attention
from jaxbert.models.positions import rotate

LENGTHS = (1024, 2048, 4096, 8192)
HEADS, WIDTH, WINDOW, THETA = 12, 64, 64, 10_000.0
LONGEST_FULL, TIMES = 4096, 3


def operands(length: int) -> tuple[jax.Array, ...]:
    """Query, key and value [1, L, N, H], turned as the model turns them."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(3, 1, length, HEADS, WIDTH)).astype(np.float32)
    query, key, value = map(jnp.asarray, drawn)
    places = jnp.arange(length)[None]
    return rotate(query, places, THETA), rotate(key, places, THETA), value


def distance(length: int) -> float:
    """The largest difference between the windowed form and the full one that sees the window."""
    arrays = operands(length)
    blocks = attention(*arrays, window=WINDOW)
    # A bias of nothing: with one the whole row is computed, and masked.
    whole = attention(*arrays, window=WINDOW, bias=jnp.zeros((1, 1, 1, 1)))
    return float(jnp.abs(blocks - whole).max())


def measure(length: int, window: int | None) -> dict[str, Any]:
    """One row: milliseconds (None where it is not run) and MiB."""

    def loss(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.square(attention(query, key, value, window=window)).sum()

    arrays = operands(length)
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arrays).compile()
    seconds = []
    if window is not None or length <= LONGEST_FULL:
        jax.block_until_ready(compiled(*arrays))
        for _ in range(TIMES):
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arrays))
            seconds.append(time.perf_counter() - start)
    return {
        "length": length,
        "window": window,
        "milliseconds": 1e3 * statistics.median(seconds) if seconds else None,
        "temporary_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
    }


def main() -> None:
    """Proves, measures, prints and keeps every row."""
    apart = distance(LENGTHS[0])
    if apart > 1e-5:
        raise SystemExit(f"the two forms differ by {apart}")
    shared = {"command": "python -m benchmarks.windows", "difference": apart, **environment()}
    for length in LENGTHS:
        for window in (WINDOW, None):
            row = measure(length, window)
            took = "not run" if row["milliseconds"] is None else f"{row['milliseconds']:.0f} ms"
            kind = "window" if window else "full"
            print(f"{length:5} {kind:6} {took:>8} {row['temporary_mib']:8.0f} MiB", flush=True)
            append_result("windows", row | shared)


if __name__ == "__main__":
    main()
