"""`transformers` 4.57 on Flax, its last release with Flax models, as its own scripts train.

Runs in the environment of hf_flax.txt; reads the files that `workload` wrote, and no jaxbert.
One jitted step with donated state; optax: clipping, then AdamW for every group of layers.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from flax.traverse_util import path_aware_map
from transformers import FlaxBertForSequenceClassification

from benchmarks.jax_side import PaddedJaxSide
from benchmarks.protocol import serve
from benchmarks.workload import TOTAL_STEPS, Workload


class FlaxSide(PaddedJaxSide):
    """See `Side`.

    Args:
      dtype: of the products, if not the workload's: its float32 may be faster than its bfloat16.
    """

    def __init__(
        self, workload: Workload, directory: Path, device: str, dtype: str | None = None
    ) -> None:
        super().__init__(workload, directory)
        model = FlaxBertForSequenceClassification.from_pretrained(
            directory / "model", dtype=jnp.dtype(dtype or workload.dtype)
        )
        params = model.params
        if workload.kind == "infer":
            self._state = params
            self._logits = jax.jit(lambda params, batch: model(**batch, params=params).logits)
            return
        settings = json.loads((directory / "optimizer.json").read_text(encoding="utf-8"))
        optimizer = make_optimizer(settings, params, model.config.num_hidden_layers)
        self._state = TrainState.create(apply_fn=model.__call__, params=params, tx=optimizer)
        self._logits = jax.jit(lambda state, batch: model(**batch, params=state.params).logits)
        self._update = jax.jit(partial(update, seed=workload.seed), donate_argnums=0)


def update(state: TrainState, batch: dict[str, Any], *, seed: int) -> tuple[TrainState, jax.Array]:
    """One training step, and its loss."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def mean_loss(params: Any) -> jax.Array:
        logits = state.apply_fn(**inputs, params=params, dropout_rng=key, train=True).logits
        logits = logits.astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

    loss, gradient = jax.value_and_grad(mean_loss)(state.params)
    return state.apply_gradients(grads=gradient), loss


def make_optimizer(
    settings: dict[str, Any], params: Any, layers: int
) -> optax.GradientTransformation:
    """AdamW with a rate for every layer, linear warm-up and decay, after clipping."""

    def multiplier(path: tuple[str, ...], _: Any) -> float:
        if path[0] == "classifier":
            return settings["head_multiplier"]
        depth = layers + 1 if "embeddings" in path else 0
        if "layer" in path:
            depth = layers - int(path[path.index("layer") + 1])
        return settings["layer_decay"] ** depth

    def decayed(params: Any) -> Any:
        return path_aware_map(lambda path, _: path[-1] in ("kernel", "embedding"), params)

    warmup = round((settings["warmup"] or 0) * TOTAL_STEPS)

    def adamw(multiplier: float) -> optax.GradientTransformation:
        peak = multiplier * settings["learning_rate"]
        rise = optax.linear_schedule(0.0, peak, warmup)
        fall = optax.linear_schedule(peak, 0.0, TOTAL_STEPS - warmup)
        return optax.adamw(
            optax.join_schedules([rise, fall], [warmup]),
            b1=settings["beta1"],
            b2=0.999 if settings["beta2"] is None else settings["beta2"],
            eps=settings["epsilon"],
            weight_decay=settings["weight_decay"],
            mask=decayed,
        )

    multipliers = path_aware_map(multiplier, params)
    groups = {value: adamw(value) for value in set(jax.tree.leaves(multipliers))}
    return optax.chain(
        optax.clip_by_global_norm(settings["clip_norm"]),
        optax.multi_transform(groups, multipliers),
    )


if __name__ == "__main__":
    serve(FlaxSide)
