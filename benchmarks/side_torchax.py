"""PyTorch's BERT of `transformers` 5 as a JAX program, by torchax: `jax.grad` and optax train it.

Runs in the environment of torchax.txt; reads the files that `workload` wrote, and no jaxbert. Where
products are bfloat16, a step casts the float32 weights once and computes in bfloat16, the loss in
float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import optax
import torch
from transformers import BertForSequenceClassification

from benchmarks.jax_side import PaddedJaxSide
from benchmarks.protocol import serve
from benchmarks.workload import TOTAL_STEPS, Workload

OVERLOAD = torch._ops.OpOverloadPacket.__getattr__


def overload_or_nothing(packet: Any, name: str) -> Any:
    """For overloads of named tensors an object that nobody calls: PyTorch 2.13 has none, torchax
    0.0.13 lists them when it is loaded (github.com/google/torchax/pull/102).
    """
    try:
        return OVERLOAD(packet, name)
    except AttributeError:
        if "dimname" in name.lower() or "names" in name:
            return object()
        raise


with mock.patch.object(torch._ops.OpOverloadPacket, "__getattr__", overload_or_nothing):
    import torchax

    ENVIRONMENT = torchax.default_env()  # it lists them when it is made


class State(NamedTuple):
    """What a step changes."""

    step: jax.Array
    params: dict[str, jax.Array]
    opt_state: Any


class TorchaxSide(PaddedJaxSide):
    """See `Side`."""

    def __init__(self, workload: Workload, directory: Path, device: str) -> None:
        super().__init__(workload, directory)
        # SDPA is, in torchax, the same operations; but this one takes a mask of every shape.
        model = BertForSequenceClassification.from_pretrained(
            directory / "model", dtype=torch.float32, attn_implementation="eager"
        )
        arrays, call = torchax.extract_jax(model)
        trained = {name for name, _ in model.named_parameters()}
        params = {name: array for name, array in arrays.items() if name in trained}
        buffers = {name: array for name, array in arrays.items() if name not in trained}
        dtype = jnp.dtype(workload.dtype)

        def logits(params: Any, batch: Any, key: Any = None) -> jax.Array:
            model.train(key is not None)
            inputs = prepared(batch, dtype) | {"return_dict": False}
            cast = {name: array.astype(dtype) for name, array in params.items()}
            with ENVIRONMENT.override_property(prng=key):
                return call(cast | buffers, (), inputs)[0].astype(jnp.float32)

        def update(state: State, batch: Any) -> tuple[State, jax.Array]:
            key = jax.random.fold_in(jax.random.key(workload.seed), state.step)

            def mean_loss(params: Any) -> jax.Array:
                found = logits(params, batch, key)
                losses = optax.softmax_cross_entropy_with_integer_labels(found, batch["labels"])
                return losses.mean()

            loss, gradient = jax.value_and_grad(mean_loss)(state.params)
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            return State(
                state.step + 1, optax.apply_updates(state.params, updates), opt_state
            ), loss

        self._state = params
        self._logits = jax.jit(logits)
        if workload.kind == "train":
            settings = json.loads((directory / "optimizer.json").read_text(encoding="utf-8"))
            optimizer = make_optimizer(settings)
            self._state = State(jnp.int32(0), params, optimizer.init(params))
            self._logits = jax.jit(lambda state, batch: logits(state.params, batch))
            self._update = jax.jit(update, donate_argnums=0)


def prepared(batch: Any, dtype: Any) -> dict[str, Any]:
    """A batch's inputs. The mask is [B, 1, 1, L], what attention adds to its scores: to make that
    itself the model asks for the values of the usual [B, L], which a traced program has not.
    """
    ids = batch["input_ids"]
    mask = batch.get("attention_mask", 0 * ids + 1)[:, None, None, :]
    added = jnp.where(mask > 0, 0.0, jnp.finfo(dtype).min).astype(dtype)
    return {"input_ids": ids, "token_type_ids": 0 * ids, "attention_mask": added}


def make_optimizer(settings: dict[str, Any]) -> optax.GradientTransformation:
    """AdamW after clipping, at one rate; linear warm-up and decay; vectors do not decay."""
    peak, warmup = settings["learning_rate"], round((settings["warmup"] or 0) * TOTAL_STEPS)
    rise = optax.linear_schedule(0.0, peak, warmup)
    fall = optax.linear_schedule(peak, 0.0, TOTAL_STEPS - warmup)
    adamw = optax.adamw(
        optax.join_schedules([rise, fall], [warmup]),
        b1=settings["beta1"],
        b2=0.999 if settings["beta2"] is None else settings["beta2"],
        eps=settings["epsilon"],
        weight_decay=settings["weight_decay"],
        mask=lambda params: jax.tree.map(lambda array: array.ndim > 1, params),
    )
    return optax.chain(optax.clip_by_global_norm(settings["clip_norm"]), adamw)


if __name__ == "__main__":
    serve(TorchaxSide)
