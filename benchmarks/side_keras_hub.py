"""KerasHub's side of a comparison: its BERT on the JAX backend, with Keras's own steps, jitted.

It reads the files that `workload` wrote, in the environment of keras_hub.txt. Keras has one
learning rate for all weights where the others have one for every layer: less work.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"  # read when keras is imported

import jax
import keras
import keras_hub
import numpy as np
from safetensors.numpy import load_file

from benchmarks.jax_side import PaddedJaxSide
from benchmarks.protocol import serve
from benchmarks.workload import TOTAL_STEPS, Workload

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


class Linear(keras.optimizers.schedules.LearningRateSchedule):
    """Up from 0 to the peak, then down to 0 at the last step."""

    def __init__(self, peak: float, warmup: int) -> None:
        self._peak, self._warmup = peak, warmup

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        up = step / max(1, self._warmup)
        down = (TOTAL_STEPS - step) / (TOTAL_STEPS - self._warmup)
        return self._peak * keras.ops.clip(keras.ops.minimum(up, down), 0.0, 1.0)


class KerasHubSide(PaddedJaxSide):
    """See `Side`."""

    def __init__(self, workload: Workload, directory: Path, device: str) -> None:
        super().__init__(workload, directory)
        keras.utils.set_random_seed(workload.seed)
        model = load_model(directory / "model", workload)
        settings = json.loads((directory / "optimizer.json").read_text(encoding="utf-8"))
        model.compile(
            make_optimizer(settings),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        predict, train = jax.jit(model.predict_step), jax.jit(model.train_step, donate_argnums=0)
        # Copies, as the state is given away at every step.
        self._state = values(model.trainable_variables, model.non_trainable_variables)
        if workload.kind == "train":
            model.optimizer.build(model.trainable_variables)
            self._state += values(model.optimizer.variables, model.metrics_variables)
            kept = [id(variable) for variable in model.optimizer.variables]
            self._moment_places = [kept.index(id(moment)) for moment in model.optimizer._momentums]
        self._logits = lambda state, batch: predict(state[:2], (named(batch),))[0]
        self._update = lambda state, batch: swapped(train(state, (named(batch), batch["labels"])))

    def _weights(self) -> list[Any]:
        return self._state[0]

    def _moments(self) -> list[Any]:
        return [self._state[2][place] for place in self._moment_places]


def values(*groups: list[Any]) -> tuple[list[jax.Array], ...]:
    """Copies of the variables of each group."""
    return tuple([jax.numpy.array(variable.value) for variable in group] for group in groups)


def named(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch's inputs as KerasHub calls them."""
    ids = batch["input_ids"]  # of numpy or, in a step that is written to a file, of a trace
    mask = batch.get("attention_mask", 0 * ids + 1)
    return {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": mask}


def swapped(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """(b, a) of (a, b): Keras gives the logs first."""
    return pair[1], pair[0]


def load_model(directory: Path, workload: Workload) -> keras_hub.models.BertTextClassifier:
    """The prepared model: encoder by KerasHub's own converter, and the head.

    GELU is the exact one, as in the checkpoint; KerasHub has its approximation by tanh.
    """
    rate, policy = workload.dropout, POLICIES[workload.dtype]
    backbone = keras_hub.models.BertBackbone.from_preset(str(directory), dropout=rate, dtype=policy)
    for i in range(backbone.num_layers):
        layer = backbone.get_layer(f"transformer_layer_{i}")
        layer._feedforward_intermediate_dense.activation = keras.activations.gelu
    head = load_file(directory / "model.safetensors")
    model = keras_hub.models.BertTextClassifier(
        backbone, num_classes=len(head["classifier.bias"]), dropout=rate
    )
    model.output_dense.kernel.assign(head["classifier.weight"].T)
    model.output_dense.bias.assign(head["classifier.bias"])
    return model


def make_optimizer(settings: Mapping[str, Any]) -> keras.optimizers.Optimizer:
    """AdamW with the settings of optimizer.json, at one rate."""
    warmup = round((settings["warmup"] or 0) * TOTAL_STEPS)
    optimizer = keras.optimizers.AdamW(
        Linear(settings["learning_rate"], warmup),
        weight_decay=settings["weight_decay"],
        beta_1=settings["beta1"],
        beta_2=0.999 if settings["beta2"] is None else settings["beta2"],
        epsilon=settings["epsilon"],
        global_clipnorm=settings["clip_norm"],
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


if __name__ == "__main__":
    serve(KerasHubSide)
