"""Running a model over examples without training it: logits, predictions, sentence embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxbert.data import Batches, Examples, Prefetch, restore_order, tokenize
from jaxbert.models import split_model
from jaxbert.training import parallel
from jaxbert.training.parallel import Compiled, make_engine
from jaxbert.training.step import (
    Batch,
    OverRows,
    Params,
    model_inputs,
    on_one_device,
    part_by_part,
)

POOLINGS = ("mean", "first", "pooler")


def run_batches(step: Compiled, params: Params, batches: Batches) -> dict[str, np.ndarray | float]:
    """Every batch of a data set through an evaluation step, results in the data set's order.

    Returns:
      "logits" [N, C] (or whatever the step gives per example), and with labels "loss", the mean.
    """
    ids, logits, loss_sum, count = [], [], 0.0, 0.0
    for batch, out in _pipelined(step, params, batches):
        ids.append(batch["example_ids"])
        logits.append(np.asarray(out["logits"]))
        if "loss_sum" in out:
            loss_sum += float(out["loss_sum"])
            count += float(out["count"])
    found: dict[str, Any] = {"logits": restore_order(ids, logits, batches.examples)}
    return found | ({"loss": loss_sum / count} if count else {})


def _pipelined(step: Compiled, params: Params, batches: Batches) -> Iterator[tuple[Any, Any]]:
    """(batch, result) pairs, one step behind: the device works while the host reads a result."""
    waiting = None
    for batch in Prefetch(batches.epoch(0)):
        result = (batch, step(params, parallel.put(batch, step.engine)))
        if waiting is not None:
            yield waiting
        waiting = result
    if waiting is not None:
        yield waiting


def make_embed_step(
    graphdef: Any,
    *,
    pooling: str = "mean",
    normalise: bool = False,
    across: Callable[[OverRows], OverRows] = on_one_device,
) -> Callable[[Params, Batch], dict[str, jax.Array]]:
    """(params, batch) -> {"logits": [B, S, D]}: a vector for each example, from a `BertModel`.

    Args:
      pooling: "mean" of the example's tokens, the "first" token's vector, or the "pooler".
      normalise: divide by the Euclidean norm.
      across: of the engine that runs it, see `parallel.Jit`.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"{pooling=} must be one of {', '.join(POOLINGS)}")

    def embed_rows(model: nnx.Module, batch: Batch) -> tuple[jax.Array, tuple[()]]:
        out = model(**model_inputs(batch))
        vectors = out.pooler_output
        if pooling == "first":
            starts = batch["segment_starts"][..., None]
            vectors = jnp.take_along_axis(out.last_hidden_state, starts, axis=1)
        elif pooling == "mean":
            vectors = _segment_means(out.last_hidden_state, batch)
        if normalise:
            norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
            vectors = vectors / jnp.maximum(norm, 1e-12)
        return vectors.astype(jnp.float32), ()

    over_rows = across(part_by_part(graphdef, embed_rows))
    return lambda params, batch: {"logits": over_rows(params, batch)[0]}


def _segment_means(hidden: jax.Array, batch: Batch) -> jax.Array:
    """[B, L, D] -> [B, S, D]: the mean over each segment's tokens."""
    segments = 1 + jnp.arange(batch["segment_starts"].shape[1])
    member = (batch["segment_ids"][:, None, :] == segments[None, :, None]).astype(jnp.float32)
    totals = jnp.einsum(
        "bsl,bld->bsd", member, hidden.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    return totals / jnp.maximum(member.sum(-1), 1)[..., None]


def as_examples(texts: Sequence[str] | Examples) -> Examples:
    """Texts as examples without labels. ValueError for a single string, a sequence of letters."""
    if isinstance(texts, str):
        raise ValueError(f"texts={texts[:40]!r} is one text; want a list of texts, as [text]")
    return dataclasses.replace(
        texts if isinstance(texts, Examples) else Examples(tuple(texts)), labels=None
    )


def predictions(problem_type: str, logits: np.ndarray) -> np.ndarray:
    """[N, C] logits -> [N]: class indices, or the values of a regression."""
    return logits[:, 0] if problem_type == "regression" else logits.argmax(axis=-1)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def embed(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str] | Examples,
    *,
    pooling: str = "mean",
    normalise: bool = False,
    batch_size: int = 32,
    max_length: int = 128,
    parallel: str = "jit",
    mesh: str | None = None,
) -> np.ndarray:
    """[N, D] float32: a vector for each text, from a `BertModel`; see `make_embed_step`."""
    engine = make_engine(parallel, mesh)
    examples = as_examples(texts)
    graphdef, params = split_model(model)
    tokenized = tokenize(examples, tokenizer, max_length)
    step = make_embed_step(graphdef, pooling=pooling, normalise=normalise, across=engine.across)
    batches = Batches(tokenized, batch_size, max_length=max_length, row_multiple=engine.parts)
    return run_batches(Compiled(step, engine), engine.place(params), batches)["logits"]
