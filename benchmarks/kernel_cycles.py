"""How many cycles the Pallas kernels for TPUs take, counted in the code compiled for one.

python -m benchmarks.kernel_cycles             # seconds a kernel
python -m benchmarks.kernel_cycles --only v6e  # those of a chip

The compiler's estimates leave them out. It does write their code: instructions in bundles, each
issued in a cycle, in loops that say how often they go round. Their number is what a kernel takes
where it never waits for memory, whose own time stands beside it: the longer of both is a model, and
neither was run. Code that one round of a loop alone runs, as to clear sums, is counted in all.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.results import append_result, environment, read_results
from jaxbert import BertConfig

FILE, RATE, DEVICES = "kernel_cycles", 0.1, 8
# Chip, [B, L, D] of one of eight devices, and heads: of the plans, and of the packed film rows.
CASES = [
    ("v5e", 32, 128, 768, 12), ("v5e", 8, 512, 768, 12), ("v5e", 128, 128, 768, 12),
    ("v5e", 32, 128, 1024, 16), ("v5e", 8, 512, 1024, 16), ("v5e", 14, 64, 768, 12),
    ("v6e", 32, 128, 768, 12), ("v6e", 8, 512, 768, 12), ("v6e", 32, 128, 1024, 16),
    ("v6e", 8, 512, 1024, 16), ("v6e", 14, 64, 768, 12),
]  # fmt: skip
_BUNDLE = re.compile(r"\s*0x[0-9a-f]+\s+\w*\s*: (>*)")
_ROUNDS = re.compile(r"scmp\.\w+\.s32\.totalorder [^,]+, (\d+) /\* loop exit test \*/")


def cycles(code: str) -> int:
    """Of a kernel's bundles: those of each depth of loops, as often as these go round.

    Raises:
      ValueError: a loop does not say how often.
    """
    bundles, rounds = Counter[int](), {0: 1}
    for line in code.splitlines():
        if found := _BUNDLE.match(line):
            depth = len(found.group(1))
            bundles[depth] += 1
            if test := _ROUNDS.search(line):
                rounds[depth] = int(test.group(1))
    if unknown := bundles.keys() - rounds.keys():
        raise ValueError(f"loops of depth {sorted(unknown)} do not say how often they go round")
    total, times = 0, 1
    for depth in sorted(bundles):
        times *= rounds[depth]
        total += times * bundles[depth]
    return total


def compile_kernels(chip: str, rows: int, length: int, width: int, heads: int) -> None:
    """Attention, and what stands around it, there and back, in a process that dumps their code."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxbert.models import Compute, Dropout, Visibility
    from jaxbert.models.attention import attention
    from jaxbert.models.primitives import LayerNorm
    from jaxbert.models.residual import Branch, add_and_norm
    from jaxbert.plan.hardware import open_topology

    device = open_topology(f"{chip}:2x4").devices[0]
    compute = Compute(dtype="bfloat16", platform="tpu")

    def of(shape: tuple[int, ...], dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        place = jax.sharding.SingleDeviceSharding(device)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    def both(x: Any, projected: Any, vectors: Any, segments: Any, index: Any, g: Any) -> Any:
        state = Dropout(jnp.uint32(0), index)

        def forward(x: Any, projected: Any, vectors: Any) -> Any:
            norm = LayerNorm(width, epsilon=1e-12, compute=compute)
            norm.scale, norm.bias = nnx.Param(vectors[0]), nnx.Param(vectors[1])
            out = attention(
                *projected, Visibility.of(segment_ids=segments), biases=tuple(vectors[2:5]),
                rate=RATE, dropout=state, compute=compute,
            )  # fmt: skip
            branch = Branch(out.reshape(x.shape), nnx.Param(vectors[5]), RATE, 1, state)
            return add_and_norm(x, branch, norm)

        out, back = jax.vjp(forward, x, projected, vectors)
        return out, back(g)

    x, tokens = of((rows, length, width)), (rows, length)
    projected = (of((rows, length, heads, width // heads)),) * 3
    vectors = [of((width,), jnp.float32)] * 6
    indices = of(tokens, jnp.int32), of(tokens, jnp.uint32)
    jax.jit(both).lower(x, projected, vectors, *indices, x).compile()


NAMES = {"forward_kernel": "attention", "backward_kernel": "attention, back",
         "forward_norm": "norm", "backward_norm": "norm, back"}  # fmt: skip
# Arrays [B, L, D] of bfloat16 that a kernel reads and writes.
MOVED = {"attention": 4, "attention, back": 7, "norm": 4, "norm, back": 4}
# How often a layer calls it. The last layer computes single tokens, and takes none.
CALLS = {"attention": 1, "attention, back": 1, "norm": 2, "norm, back": 2}


def read_kernels() -> dict[tuple[Any, ...], dict[str, Any]]:
    """{(chip, kernel, B, L, D): the newest count}."""
    return {(row["chip"], row["kernel"], *row["shape"]): row for row in read_results(FILE)}


def with_kernels(row: dict[str, Any], at_peaks: float) -> float | None:
    """Modelled seconds of a plan's step, with its kernels' code in place of published peaks.

    at_peaks: seconds of what the compiler has no estimate of.

    Returns:
      None where a kernel of that chip and shape is not counted.
    """
    config = BertConfig.preset(row["model"])
    chip, rows = row["topology"].partition(":")[0], row["batch_size"] // DEVICES
    found, seconds = read_kernels(), row["modelled_seconds"] - at_peaks
    for kernel, calls in CALLS.items():
        counted = found.get((chip, kernel, rows, row["max_length"], config.hidden_size))
        if counted is None:
            return None
        once = max(counted["seconds"], counted["memory_seconds"])
        seconds += calls * (config.num_hidden_layers - 1) * once
    return seconds


def measure(case: tuple[str | int, ...]) -> dict[str, int]:
    """{kernel: cycles}."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        environment = os.environ | {"LIBTPU_INIT_ARGS": flags, "JAX_PLATFORMS": "cpu"}
        words = [sys.executable, "-m", "benchmarks.kernel_cycles", "--compile", *map(str, case)]
        subprocess.run(words, check=True, env=environment)
        files = list(Path(folder).glob("*final_bundles.txt"))
        return {
            name: cycles(file.read_text(encoding="utf-8"))
            for part, name in NAMES.items()
            for file in files
            if part in file.name and "analysis" not in file.name
        }


def main() -> int:
    """Each case in a process of its own, for a flag is read when the compiler is loaded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="chips whose name contains it")
    parser.add_argument("--compile", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compile:
        compile_kernels(args.compile[0], *map(int, args.compile[1:]))
        return 0
    from jaxbert.plan.hardware import CHIPS

    for case in CASES:
        name, rows, length, width, heads = case
        if args.only not in name:
            continue
        chip, size = CHIPS[name], 2 * rows * length * width
        for kernel, count in measure(case).items():
            row = {
                "kernel": kernel, "chip": name, "shape": [rows, length, width], "heads": heads,
                "cycles": count, "seconds": count / (chip.clock or 1),
                "memory_seconds": MOVED[kernel] * size / chip.bandwidth,
            }  # fmt: skip
            code, memory = (1e6 * row[field] for field in ("seconds", "memory_seconds"))
            print(f"{name} {kernel} {rows} x {length} x {width}: {code:.0f} us, memory "
                  f"{memory:.0f} us", flush=True)  # fmt: skip
            append_result(FILE, row | environment())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
