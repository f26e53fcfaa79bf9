"""Whether one accelerator computes what it should: engines alike, attention as in float32.

    python -m benchmarks.device_checks --results DIR      # on whatever JAX finds
    python -m benchmarks.device_checks --small            # toy sizes: to try it out on a CPU

Training under `jit`, `pmap` and `mesh` on one device gives the same losses, dropout included; every
way of computing attention is as far from float32's plain products as its dtype allows, outputs and
gradients, on rows of several segments and padding; and so is what stands around a block of a layer:
bias, dropout, residual sum and LayerNorm. Prints, adds a line a check to checks.jsonl, and ends
with status 1 where one is too far off. How long it takes, there and back, stands beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.results import RESULTS, append_result, environment
from jaxbert.data import Batches, Tokenized
from jaxbert.models import (
    BertConfig,
    BertForSequenceClassification,
    Compute,
    Dropout,
    Visibility,
    dropout_key,
)
from jaxbert.models.attention import attention
from jaxbert.models.kernels.attention import cudnn_takes, tpu_attention
from jaxbert.models.primitives import LayerNorm
from jaxbert.models.residual import Branch, add_and_norm
from jaxbert.optim import OptimizerConfig
from jaxbert.tasks import TEXT_CLASSIFICATION
from jaxbert.training.assemble import assemble
from jaxbert.training.config import TrainConfig
from jaxbert.training.engines import make_engine

# Of the largest number. bfloat16: operands of six products, there and back, rounded to 8 bits.
ALLOWED = {"float32": 1e-4, "bfloat16": 0.03}
SHAPES = [(64, 128, 12, 64), (16, 512, 12, 64)]  # [B, L, N, H]: BERT-base
SMALL_SHAPES = [(2, 32, 4, 64)]
RATE, TIMES, STEPS = 0.1, 10, 4
Row = dict[str, Any]


def engines() -> Iterator[Row]:
    """Losses of a few updates with dropout, each engine's against those of `jit`."""
    settings = {"jit": {}, "pmap": {}, "mesh": {"mesh": "data=1"}}
    found = {name: _losses(name, **more) for name, more in settings.items()}
    for name in ("pmap", "mesh"):
        apart = np.abs(found[name] - found["jit"]).max() / np.abs(found["jit"]).max()
        yield {"check": f"{name} = jit", "apart": float(apart), "allowed": ALLOWED["float32"]}


def _losses(parallel: str, **settings: str) -> np.ndarray:
    config = BertConfig(
        vocab_size=100, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=256, max_position_embeddings=64, hidden_dropout_prob=RATE,
        attention_probs_dropout_prob=RATE, num_labels=2,
    )  # fmt: skip
    optimizer = OptimizerConfig(learning_rate=1e-3, schedule="constant")
    training = TrainConfig(
        batch_size=16, max_length=64, parallel=parallel, optimizer=optimizer, **settings
    )
    model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
    engine = make_engine(parallel, settings.get("mesh"), jax.devices()[:1])
    ready = assemble(model, TEXT_CLASSIFICATION, training, engine, STEPS)
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(2, 65, 16))])
    ids = rng.integers(1, 100, offsets[-1]).astype(np.int32)
    data = Tokenized(ids, np.zeros_like(ids), offsets, rng.integers(0, 2, 16).astype(np.int32))
    (batch,) = Batches(data, 16, max_length=64, layout="padded").epoch(0)
    losses, state = [], ready.state
    for _ in range(STEPS):
        state, values = ready.step(state, engine.put_batch(batch))
        losses.append(float(values["loss"]))
    return np.array(losses)


Attend = Callable[..., jax.Array]


def ways(shape: tuple[int, ...]) -> dict[str, tuple[str, bool, Attend]]:
    """{name: (dtype, whether it drops out, attention)} of what there is for this device."""
    platform = make_engine("jit").platform
    nothing = _nothing(shape)

    def attend(dtype: str, drops: bool, **more: Any) -> tuple[str, bool, Attend]:
        compute = Compute(dtype=dtype, platform=platform)

        def run(query: Any, key: Any, value: Any, seen: Visibility, state: Dropout) -> jax.Array:
            rate, dropout = (RATE, state) if drops else (0.0, None)
            return attention(
                query, key, value, seen, rate=rate, dropout=dropout, compute=compute, **more
            )

        return dtype, drops, run

    found = {
        "plain": attend("bfloat16", False, bias=nothing),
        "plain, dropout": attend("bfloat16", True, bias=nothing),
        "what a step takes, dropout": attend("bfloat16", True),
    }
    if cudnn_takes(shape, Compute(dtype="bfloat16", platform=platform)):
        found["cuDNN"] = attend("bfloat16", False)
    return found


def interpreted(query: Any, key: Any, value: Any, seen: Visibility, state: Dropout) -> jax.Array:
    """The Pallas kernel for TPUs, computed by plain operations of this device."""
    from jaxbert.models.dropout import attention_token_bits

    bits = attention_token_bits(RATE, 0, state, None)
    compute = Compute(platform="tpu")
    scaled = query * query.shape[-1] ** -0.5
    segments = seen.segments(*key.shape[:2])
    return tpu_attention(
        scaled, key, value, segments, bits, rate=RATE, compute=compute, interpret=True
    )


def attentions(shapes: list[tuple[int, ...]]) -> Iterator[Row]:
    """Every way of every shape against plain products in float32."""
    for shape in shapes:
        yield from _compared(shape, ways(shape))
    yield from _compared(SMALL_SHAPES[0], {"Pallas, interpreted": ("float32", True, interpreted)})


def _compared(shape: tuple[int, ...], found: dict[str, tuple[str, bool, Attend]]) -> Iterator[Row]:
    rows, length = shape[:2]
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(4, *shape)).astype(np.float32)
    # Two segments, then padding, of which nobody reads anything.
    ends = rng.integers(length // 2, length + 1, (rows, 1))
    segments = np.where(np.arange(length) < ends // 2, 1, 2) * (np.arange(length) < ends)
    drawn[3] *= (segments > 0)[..., None, None]
    arrays = [jnp.asarray(x, jnp.bfloat16).astype(jnp.float32) for x in drawn]
    seen = Visibility.of(segment_ids=jnp.asarray(segments, jnp.int32))
    index = jnp.arange(rows * length, dtype=jnp.uint32).reshape(rows, length)
    state = Dropout(dropout_key(0, 1), index)

    def total(attend: Attend) -> Callable[..., Any]:
        def weighted(query: Any, key: Any, value: Any) -> Any:
            out = attend(query, key, value, seen, state).astype(jnp.float32) * arrays[3]
            return out.sum(), out

        return weighted

    truths: dict[bool, list[np.ndarray]] = {}
    for name, (dtype, drops, attend) in found.items():
        if drops not in truths:
            truths[drops] = _there_and_back(total(_exact(shape, drops)), arrays[:3])[0]
        results, seconds = _there_and_back(total(attend), arrays[:3])
        what = f"attention {rows} x {length}, {name}"
        apart = _apart(results, truths[drops])
        yield {"check": what, "apart": apart, "allowed": ALLOWED[dtype], "seconds": seconds}


def norms(shapes: list[tuple[int, ...]]) -> Iterator[Row]:
    """LayerNorm(x + dropout(branch + bias)) as a step takes it against plain float32."""
    platform = make_engine("jit").platform
    for rows, length, heads, of_head in shapes:
        width = heads * of_head
        rng = np.random.default_rng(0)
        drawn = rng.normal(size=(3, rows, length, width)).astype(np.float32)
        *arrays, weight = [jnp.asarray(x, jnp.bfloat16).astype(jnp.float32) for x in drawn]
        vectors = [jnp.asarray(x, jnp.float32) for x in rng.normal(size=(3, width))]
        index = jnp.arange(rows * length, dtype=jnp.uint32).reshape(rows, length)
        state = Dropout(dropout_key(0, 1), index)

        def total(compute: Compute, state: Dropout = state, weight: Any = weight) -> Any:
            def weighted(x: Any, branch: Any, bias: Any, scale: Any, shift: Any) -> Any:
                norm = LayerNorm(len(bias), epsilon=1e-12, compute=compute)
                norm.scale, norm.bias = nnx.Param(scale), nnx.Param(shift)
                x, branch = (a.astype(compute.activation_dtype) for a in (x, branch))
                added = Branch(branch, nnx.Param(bias), RATE, 0, state)
                out = add_and_norm(x, added, norm).astype(jnp.float32) * weight
                return out.sum(), out

            return weighted

        truth, _ = _there_and_back(total(Compute(platform="cpu")), [*arrays, *vectors])
        low = Compute(dtype="bfloat16", platform=platform)
        results, seconds = _there_and_back(total(low), [*arrays, *vectors])
        what, apart = f"norm {rows} x {length}, what a step takes", _apart(results, truth)
        yield {"check": what, "apart": apart, "allowed": ALLOWED["bfloat16"], "seconds": seconds}


def _there_and_back(total: Callable[..., Any], arrays: list[Any]) -> tuple[list[np.ndarray], float]:
    """(the gradients of all arrays and the output, seconds that they take).

    total: arrays -> (sum, output).
    """
    run = jax.jit(jax.grad(total, argnums=tuple(range(len(arrays))), has_aux=True))
    results = [np.asarray(x, np.float32) for x in jax.tree.leaves(run(*arrays))]
    times = []
    for _ in range(TIMES):
        start = time.perf_counter()
        jax.block_until_ready(run(*arrays))
        times.append(time.perf_counter() - start)
    return results, statistics.median(times)


def _apart(results: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """The largest difference, of the largest number of its array."""
    return max(
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(results, truth, strict=True)
    )


def _exact(shape: tuple[int, ...], drops: bool) -> Attend:
    """Plain products in float32."""
    bias, compute = _nothing(shape), Compute()

    def run(query: Any, key: Any, value: Any, seen: Visibility, state: Dropout) -> jax.Array:
        rate, dropout = (RATE, state) if drops else (0.0, None)
        return attention(
            query, key, value, seen, bias=bias, rate=rate, dropout=dropout, compute=compute
        )

    return run


def _nothing(shape: tuple[int, ...]) -> jax.Array:
    """A bias of nothing: with one no kernel is taken."""
    _, length, heads, _ = shape
    return jnp.zeros((1, heads, length, length))


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="toy sizes")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    return parser


def main() -> int:
    """Checks, prints, keeps; status 1 where something is too far off."""
    args = parser().parse_args()
    device, fine = jax.devices()[0], True
    about = {"platform": device.platform, "device": device.device_kind, **environment()}
    shapes = SMALL_SHAPES if args.small else SHAPES
    checks = (engines(), attentions(shapes), norms(shapes))
    for row in (row for rows in checks for row in rows):
        # Said so that NaN does not pass.
        row["fine"] = row["apart"] <= row["allowed"]
        fine &= row["fine"]
        took = f", {1e3 * row['seconds']:.2f} ms" if "seconds" in row else ""
        verdict = "fine" if row["fine"] else "TOO FAR OFF"
        print(f"{row['check']}: {row['apart']:.1e} of {row['allowed']:.0e}, {verdict}{took}",
              flush=True)  # fmt: skip
        append_result("checks", row | about, args.results)
    return int(not fine)


if __name__ == "__main__":
    raise SystemExit(main())
