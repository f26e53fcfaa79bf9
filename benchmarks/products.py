"""Times the matrix products that a training step is made of, in JAX and in PyTorch.

    python -m benchmarks.products

For the rows and widths of the demo model at 32 x 128 tokens: the product of a forward pass and that
of a kernel's gradient (which contracts over the rows), in float32, in bfloat16 rounded to bfloat16,
and in bfloat16 kept in float32; the gradient also by way of the transpose in tiles that
`models.primitives` uses. Prints GFLOP/s, medians and range of interleaved rounds, and appends a
line for each to benchmarks/results/products.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.results import append_result, environment, restart_with_allocator

ROWS = 32 * 128
KERNELS = ((384, 384), (384, 1536), (1536, 384))
ROUNDS, CALLS = 7, 5


def jax_products(inputs: int, outputs: int) -> dict[str, Callable[[], Any]]:
    """{what: a call that computes it and waits}."""
    import jax
    import jax.numpy as jnp

    from jaxbert.cpu import tiled_transpose

    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, g = (
        jax.random.normal(key, shape)
        for key, shape in zip(
            keys, ((ROWS, inputs), (inputs, outputs), (ROWS, outputs)), strict=True
        )
    )
    low = {name: value.astype(jnp.bfloat16) for name, value in (("x", x), ("k", kernel), ("g", g))}
    wide = {"preferred_element_type": jnp.float32}

    def call(function: Any, *arrays: Any) -> Callable[[], Any]:
        compiled = jax.jit(function).lower(*arrays).compile()
        return lambda: compiled(*arrays).block_until_ready()

    return {
        "forward, float32": call(jnp.matmul, x, kernel),
        "forward, bfloat16": call(jnp.matmul, low["x"], low["k"]),
        "forward, bfloat16 to float32": call(
            lambda a, b: jnp.matmul(a, b, **wide), low["x"], low["k"]
        ),
        "gradient, float32": call(lambda a, b: a.T @ b, x, g),
        "gradient, bfloat16 to float32": call(
            lambda a, b: jnp.matmul(a.T, b, **wide), low["x"], low["g"]
        ),
        "gradient, bfloat16 to float32, in tiles": call(
            lambda a, b: jnp.matmul(tiled_transpose(a), b, **wide), low["x"], low["g"]
        ),
    }


def torch_products(inputs: int, outputs: int) -> dict[str, Callable[[], Any]]:
    """The same in PyTorch."""
    import torch

    torch.manual_seed(0)
    x, kernel, g = (
        torch.randn(shape) for shape in ((ROWS, inputs), (inputs, outputs), (ROWS, outputs))
    )
    a, b, c = (value.bfloat16() for value in (x, kernel, g))
    return {
        "forward, float32": lambda: x @ kernel,
        "forward, bfloat16": lambda: a @ b,
        "gradient, float32": lambda: x.T @ g,
        "gradient, bfloat16": lambda: a.T @ c,
    }


def measure(products: dict[str, Callable[[], Any]], operations: float) -> dict[str, list[float]]:
    """{what: GFLOP/s of every round}, the rounds of all of them in turn."""
    found: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(ROUNDS + 1):
        for name, product in products.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                product()
            seconds = (time.perf_counter() - start) / CALLS
            found[name].append(operations / seconds / 1e9)
    return {name: rates[1:] for name, rates in found.items()}  # the first warms up


def main() -> None:
    """Measures, prints, keeps."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter
                            ).parse_args()  # fmt: skip
    restart_with_allocator("products")
    about = environment()
    for inputs, outputs in KERNELS:
        for package, make in (("jax", jax_products), ("torch", torch_products)):
            found = measure(make(inputs, outputs), 2 * ROWS * inputs * outputs)
            for name, rates in found.items():
                middle = statistics.median(rates)
                print(
                    f"{package:<6} {inputs:>4} x {outputs:<4}  {name:<40} {middle:6.0f} GFLOP/s "
                    f"({min(rates):.0f} - {max(rates):.0f})",
                    flush=True,
                )
                row = {"package": package, "inputs": inputs, "outputs": outputs, "rows": ROWS}
                append_result("products", row | {"product": name, "gflops": rates, **about})


if __name__ == "__main__":
    main()
