"""Are the masks of the counter hash as good as a generator's: what training sees of them.

    python -m benchmarks.masks    # some ten minutes; --draws for fewer

The demo model learns from a few batches of film sentences without dropout. Then, at that point and
on one batch, its loss and gradient are drawn many times, a mask each: with the hash as it is, with
Threefry (`jax.random`), and with a hash of a single multiplication, to show that a bad one is seen.
Compared are the loss; how far a gradient lies from the one without dropout; and how much of that a
run has again at its next step, which a hash of the run's seed and the step might get wrong.

Writes a line for each kind of mask to benchmarks/results/masks.jsonl.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.results import append_result, environment
from jaxbert import BertForSequenceClassification
from jaxbert.data import load_demo, load_tokenizer
from jaxbert.models import Dropout, attention, dropout, dropout_key, merge_model, split_model

NAME = "masks"
ROWS, LENGTH, WARM_STEPS, STEPS = 16, 32, 16, 4  # STEPS: of one seed, one after the other
RATE = 1e-4
Array = jax.Array
Draws = dict[str, list[float]]


def _threefry(rows: Array, columns: Array) -> Array:
    shape = jnp.broadcast_shapes(rows.shape, columns.shape)
    return jax.random.bits(jax.random.key(rows.ravel()[0]), shape, jnp.uint32)


# kind of mask: bits of rows and of columns, which broadcast -> uniform integers, one an element.
KINDS: dict[str, Callable[[Array, Array], Array]] = {
    "hash": lambda rows, columns: dropout.mix(rows ^ columns),
    "threefry": _threefry,
    "one multiplication": lambda rows, columns: (rows ^ columns) * jnp.uint32(0x21F0AAAD),
}


@contextmanager
def drawn(kind: str) -> Iterator[None]:
    """Has the model draw its masks in another way, while a program is traced."""

    def masked(x: Array, bits: Any, rate: float) -> Array:
        if bits is None:
            return x
        keep = KINDS[kind](*bits) < jnp.uint32(round((1 - rate) * 2**32))
        return jnp.where(keep, x / (1 - rate), 0)

    with (
        mock.patch.object(dropout, "masked", masked),
        mock.patch.object(attention, "masked", masked),
    ):
        yield


def batches(directory: Any, path: Any) -> list[dict[str, Array]]:
    """The first sentences of the file, padded or cut to LENGTH."""
    tokenizer = load_tokenizer(directory)
    with path.open(encoding="utf-8", newline="") as file:
        read = list(islice(csv.DictReader(file), ROWS * (WARM_STEPS + 1)))
    labels = sorted({row["label"] for row in read})
    found = tokenizer(
        [row["text"] for row in read], padding="max_length", truncation=True, max_length=LENGTH
    )
    columns = {
        "input_ids": np.array(found["input_ids"]),
        "attention_mask": np.array(found["attention_mask"]),
        "labels": np.array([labels.index(row["label"]) for row in read]),
    }
    return [
        {name: jnp.asarray(column[start : start + ROWS]) for name, column in columns.items()}
        for start in range(0, len(read), ROWS)
    ]


def loss_of(graphdef: Any, params: Any, batch: dict[str, Array], key: Array | None) -> Array:
    """Mean cross-entropy of the batch. key: of the masks; None for no dropout."""
    index = jnp.arange(ROWS * LENGTH, dtype=jnp.uint32).reshape(ROWS, LENGTH)
    outputs = merge_model(graphdef, params)(
        batch["input_ids"],
        attention_mask=batch["attention_mask"],
        dropout=None if key is None else Dropout(key, index),
    )
    return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, batch["labels"]).mean()


def warmed(graphdef: Any, params: Any, found: list[dict[str, Array]]) -> Any:
    """The parameters after a step on each batch, without dropout."""
    optimizer = optax.adamw(RATE)
    gradient = jax.jit(jax.grad(lambda params, batch: loss_of(graphdef, params, batch, None)))
    state = optimizer.init(params)
    for batch in found:
        updates, state = optimizer.update(gradient(params, batch), state, params)
        params = optax.apply_updates(params, updates)
    return params


def draws(kind: str, graphdef: Any, params: Any, batch: dict[str, Array], seeds: int) -> Draws:
    """Per draw: loss, and noise = |g - g0|^2; per two steps on end: carried = (g - g0) . (g' - g0).

    g0: the gradient without dropout. All are over |g0|^2.
    """

    def flat(key: Array | None) -> tuple[Array, Array]:
        found = jax.value_and_grad(lambda p: loss_of(graphdef, p, batch, key))(params)
        return found[0], jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(found[1])])

    plain = jax.jit(lambda: flat(None)[1])()
    size = float(plain @ plain)

    @jax.jit
    def draw(seed: Array, step: Array, before: Array) -> tuple[Array, Array, Array, Array]:
        loss, gradient = flat(dropout_key(seed, step))
        noise = gradient - plain
        return loss, noise @ noise, noise @ before, noise

    found: Draws = {"loss": [], "noise": [], "carried": []}
    with drawn(kind):
        for seed in range(seeds):
            before = jnp.zeros_like(plain)
            for step in range(STEPS):
                loss, noise, carried, before = draw(jnp.uint32(seed), jnp.int32(step), before)
                found["loss"].append(float(loss))
                found["noise"].append(float(noise) / size)
                if step:
                    found["carried"].append(float(carried) / size)
    return found


def summary(values: list[float]) -> dict[str, float]:
    """Mean, its standard error, and the deviation of one."""
    deviation = float(np.std(values, ddof=1))
    return {
        "mean": float(np.mean(values)), "error": deviation / len(values) ** 0.5,
        "deviation": deviation,
    }  # fmt: skip


def main() -> None:
    """Draws and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=400, help="masks of each kind")
    seeds = parser.parse_args().draws // STEPS
    demo = load_demo()
    found = batches(demo.model, demo.train)
    graphdef, params = split_model(
        BertForSequenceClassification.from_pretrained(demo.model, num_labels=2)
    )
    params = warmed(graphdef, params, found[:-1])
    for kind in KINDS:
        values = draws(kind, graphdef, params, found[-1], seeds)
        row = {name: summary(each) for name, each in values.items()}
        print(kind, row, flush=True)
        append_result(NAME, {"masks": kind, "draws": seeds * STEPS, **row, **environment()})


if __name__ == "__main__":
    main()
