"""How far fine-tuning moved a model: its weights, and what its layers say about neutral text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbert.data import Batches
from jaxbert.errors import InputError
from jaxbert.models import merge_model
from jaxbert.optim.layers import leaf_labels
from jaxbert.training.engines import Compiled, Engine
from jaxbert.training.step import Params, model_inputs

NEIGHBOURS = 10
# Of all tokens so many, evenly spread: enough for similarities of some hundred features, and few
# enough that they cost less than the forward pass. RSA compares every token with every other.
_CKA_TOKENS, _RSA_TOKENS = 4096, 1024


def weight_drift(params: Params, start: Params) -> dict[str, float]:
    """{label: ||w - w0|| / ||w0||} over all parameters of a label; without the head.

    A head has no pre-trained w0: it is drawn at random.
    """
    moved: dict[str, float] = {}
    size: dict[str, float] = {}
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(start), strict=True)
    for label, (now, before) in zip(leaf_labels(params).values(), leaves, strict=True):
        now, before = (np.asarray(leaf, np.float32) for leaf in (now, before))
        moved[label] = moved.get(label, 0.0) + _squares(now - before)
        size[label] = size.get(label, 0.0) + _squares(before)
    return {label: (moved[label] / size[label]) ** 0.5 for label in size if label != "head"}


def _squares(values: np.ndarray) -> float:
    return float(np.square(values).sum(dtype=np.float64))


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """||Y'X||^2 / (||X'X|| ||Y'Y||) of centred x [T, D] and y [T, E], in [0, 1].

    1 where y is x turned, scaled and shifted; blind to nothing else. With no more rows than columns
    it comes out near 1 whatever x and y are. Reference: Kornblith et al. 2019, eq. 3 with linear
    kernels.
    """
    x, y = (values - values.mean(axis=0) for values in (x, y))
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norms) if norms else 0.0


def rsa(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation of the pairwise cosine similarities of x [T, D] with y's [T, E].

    Reference: Merchant et al. 2020, section 4.2 (cosine kernel, upper triangle, Pearson).
    """
    pairs = np.triu_indices(len(x), k=1)
    a, b = (_cosines(values)[pairs] for values in (x, y))
    if not (np.ptp(a) and np.ptp(b)):
        return 0.0  # all alike: nothing to correlate
    return float(np.corrcoef(a, b)[0, 1])


def neighbour_overlap(x: np.ndarray, y: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Share in [0, 1] of each row's k nearest rows (cosine) in x [N, D] that y keeps; the mean."""
    if not 0 < k < len(x):
        raise InputError(f"{k=} neighbours among {len(x)} rows: want 1 to {len(x) - 1}")
    near_x, near_y = (_nearest(values, k) for values in (x, y))
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(near_x, near_y, strict=True)]))


def _nearest(x: np.ndarray, k: int) -> np.ndarray:
    similarity = _cosines(x)
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def _cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T


class Representations(NamedTuple):
    """What a model makes of a fixed set of texts.

    layers: {"embeddings", "layer_0", ...: [T, D]} of the same tokens for every model.
    sentences: [N, D], the mean over each text's last hidden states.
    """

    layers: Mapping[str, np.ndarray]
    sentences: np.ndarray


class Probe:
    """Compares a model's representations of some texts with those before fine-tuning.

    Args:
      graphdef: of a task model, from `split_model`.
      params: of the pre-trained model.
      batches: the texts, in a fixed order.
      engine: where it runs.
    """

    def __init__(self, graphdef: Any, params: Params, batches: Batches, engine: Engine) -> None:
        self._step = Compiled(_make_step(graphdef), engine)
        self._batches = batches
        self._before = self._represent(params)

    def compare(self, params: Params) -> dict[str, Any]:
        """{"similarity": {"cka": {layer: value}, "rsa": ...}, "neighbour_overlap": value}."""
        before, now = self._before, self._represent(params)
        pairs = {name: (x, now.layers[name]) for name, x in before.layers.items()}
        return {
            "similarity": {
                "cka": {name: linear_cka(x, y) for name, (x, y) in pairs.items()},
                "rsa": {
                    name: rsa(*(_spread(values, _RSA_TOKENS) for values in pair))
                    for name, pair in pairs.items()
                },
            },
            "neighbour_overlap": neighbour_overlap(before.sentences, now.sentences),
        }

    def _represent(self, params: Params) -> Representations:
        tokens, sentences = [], []
        for batch in self._batches.epoch(0):
            hidden = np.asarray(self._step(params, self._step.engine.put_batch(batch)))
            tokens.append(hidden[:, batch["segment_ids"] > 0])
            sentences += _means(hidden[-1], batch)
        layers = [_spread(values, _CKA_TOKENS) for values in np.concatenate(tokens, axis=1)]
        names = ["embeddings", *(f"layer_{i}" for i in range(len(layers) - 1))]
        return Representations(dict(zip(names, layers, strict=True)), np.stack(sentences))


def _make_step(graphdef: Any) -> Any:
    def step(params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
        """[n + 1, B, L, D] float32: the embeddings' output and every layer's."""
        states = merge_model(graphdef, params).encoder(**model_inputs(batch)).hidden_states
        return jax.numpy.stack(states).astype(jax.numpy.float32)

    return step


def _means(hidden: np.ndarray, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The mean over the tokens of each example of a batch, in the order of rows and segments."""
    found = []
    for row, segments in zip(hidden, batch["segment_ids"], strict=True):
        found += [row[segments == s].mean(axis=0) for s in range(1, segments.max() + 1)]
    return found


def _spread(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows, evenly spread."""
    return values[np.linspace(0, len(values) - 1, min(most, len(values))).astype(int)]
