"""Directories of sentence-transformers: what they say of how a text becomes a vector.

modules.json lists what comes one after the other: a transformer, a pooling, and perhaps products
and a normalization. The network is ours; the rest is read here, and nothing in it is executed.
Reference: sentence-transformers 6.2, `base/modules` and `sentence_transformer/modules/pooling.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxbert.errors import InputError
from jaxbert.weights.directory import PROMPTS, SENTENCE_MODULES
from jaxbert.weights.json_files import read_json, read_list
from jaxbert.weights.readers import open_checkpoint

# Theirs -> ours, in the order in which theirs puts several side by side.
_POOLINGS = {
    "cls": "first",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean-sqrt-length",
    "weightedmean": "weighted-mean",
    "lasttoken": "last",
}
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "torch.nn.modules.linear.Identity": lambda x: x,
    "torch.nn.modules.activation.Tanh": np.tanh,
    "torch.nn.modules.activation.ReLU": lambda x: np.maximum(x, 0),
    "torch.nn.modules.activation.Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@dataclasses.dataclass(frozen=True)
class Dense:
    """A product that follows the pooling.

    kernel: [D, E] float32. bias: [E] float32 or None. activation: the name of its class.
    """

    kernel: np.ndarray
    bias: np.ndarray | None
    activation: str

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[N, D] -> [N, E]."""
        x = x @ self.kernel if self.bias is None else x @ self.kernel + self.bias
        return _ACTIVATIONS[self.activation](x)


@dataclasses.dataclass(frozen=True)
class SentenceForm:
    """How a model makes a vector of a text.

    Attributes:
      transformer: the directory of the network and its tokenizer.
      poolings: what of a text's tokens its vector is, several side by side; see `embed`.
      includes_prompt: whether the tokens of a prompt count among them.
      after: what follows, from [N, D] to [N, E] each.
      prompts: {name: what is written before a text}.
      default_prompt: the name of the one to use where none is asked for.

    Example:
      >>> SentenceForm(Path("model")).poolings
      ('mean',)
    """

    transformer: Path
    poolings: tuple[str, ...] = ("mean",)
    includes_prompt: bool = True
    after: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default_prompt: str | None = None

    def finish(self, vectors: np.ndarray) -> np.ndarray:
        """[N, D] as pooled -> [N, E] float32."""
        for module in self.after:
            vectors = module(vectors)
        return vectors.astype(np.float32)

    def prompt(self, name: str | None) -> str:
        """What is written before a text; InputError where there is no prompt of that name."""
        name = name or self.default_prompt
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(self.prompts) or "none"
            raise InputError(f"prompt {name!r} is not one of the model's: {known}")
        return self.prompts[name]


def normalized(vectors: np.ndarray) -> np.ndarray:
    """[N, D] divided by their Euclidean norms.

    Example:
      >>> normalized(np.array([[3.0, 4.0]])).tolist()
      [[0.6, 0.8]]
    """
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def read_form(directory: Path) -> SentenceForm:
    """What a directory says; the mean of the tokens where it says nothing.

    Raises:
      InputError: damaged files; a module that is not known here.

    Example:
      >>> import tempfile
      >>> read_form(Path(tempfile.mkdtemp())).after
      ()
    """
    path = directory / SENTENCE_MODULES
    if not path.is_file():
        return SentenceForm(directory)
    modules = [_module(path, row) for row in read_list(path)]
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or {*kinds[2:]} - {"Dense", "Normalize"}:
        raise InputError(
            f"{path} lists {', '.join(kinds) or 'nothing'}: want Transformer, Pooling, and after "
            "them Dense and Normalize at most"
        )
    pooling = _config(modules[1][1])
    return SentenceForm(
        transformer=modules[0][1],
        poolings=_poolings(modules[1][1], pooling),
        includes_prompt=pooling.get("include_prompt", True) is not False,
        after=tuple(_after(kind, place) for kind, place in modules[2:]),
        **_prompts(directory / PROMPTS),
    )


def _after(kind: str, place: Path) -> Callable[[np.ndarray], np.ndarray]:
    return normalized if kind == "Normalize" else _dense(place)


def _module(path: Path, row: Any) -> tuple[str, Path]:
    """(the last word of the class's name, where its files are)."""
    found = [row.get(name) for name in ("type", "path")] if isinstance(row, Mapping) else []
    if not found or not all(isinstance(value, str) and value.isprintable() for value in found):
        raise InputError(f"{path}: {row!r} must have type and path, as texts")
    place = (path.parent / row["path"]).resolve()
    if not place.is_relative_to(path.parent.resolve()):
        raise InputError(f"{path}: path {row['path']!r} leads out of the directory")
    return row["type"].rpartition(".")[2], place


def _config(place: Path) -> dict[str, Any]:
    path = place / "config.json"
    return read_json(path) if path.is_file() else {}


def _poolings(place: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    modes = config.get("pooling_mode")
    if modes is None:
        old = [mode for name, mode in _OLD_POOLINGS.items() if config.get(name) is True]
        modes = old or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    listed = modes if isinstance(modes, list | tuple) else []
    if not listed or not all(isinstance(mode, str) and mode in _POOLINGS for mode in listed):
        raise InputError(f"{place}: pooling_mode={modes!r} must be of {', '.join(_POOLINGS)}")
    return tuple(_POOLINGS[mode] for mode in modes)


def _dense(place: Path) -> Dense:
    config = _config(place)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    names = ("module_input_name", "module_output_name")
    other = {config.get(name) or "sentence_embedding" for name in names} - {"sentence_embedding"}
    if activation not in _ACTIVATIONS or config.get("use_residual") or other:
        raise InputError(
            f"{place}: a product with activation_function={activation!r}, "
            f"use_residual={config.get('use_residual', False)!r}, of {other or 'the vector'} is "
            f"not known here; known are {', '.join(_ACTIVATIONS)}, without residual, of the vector"
        )
    tensors = open_checkpoint(place)
    if "linear.weight" not in tensors or {*tensors} - {"linear.weight", "linear.bias"}:
        raise InputError(f"{place} holds {', '.join(tensors)}: want linear.weight and linear.bias")
    read = {name: np.asarray(t.read(), np.float32) for name, t in tensors.items()}
    return Dense(read["linear.weight"].T, read.get("linear.bias"), activation)


def _prompts(path: Path) -> dict[str, Any]:
    config = read_json(path) if path.is_file() else {}
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    texts = isinstance(prompts, Mapping) and all(
        isinstance(p, str | None) for p in prompts.values()
    )
    if not texts or not isinstance(default, str | None):
        raise InputError(f"{path}: prompts must be texts by name, default_prompt_name a name")
    return {
        "prompts": {name: text for name, text in prompts.items() if text is not None},
        "default_prompt": default,
    }
