"""What a BERT is (`BertConfig`) and how it is computed (`Compute`): frozen, hashable, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh")
PROBLEM_TYPES = (None, "single_label_classification", "regression")

# Options of a Hugging Face config.json that change what the network computes, with the values under
# which it is the network implemented here. Any other value is refused by name.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "model_type": ("bert",),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "embedding_size": (None,),
}

_BASE = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
_LARGE = dict(
    hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
)


def _google_small(layers: int, hidden: int) -> dict[str, int]:
    """The small BERTs of Turc et al. 2019: heads of width 64, feed-forward four times as wide."""
    return dict(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
    )


PRESETS: dict[str, dict[str, Any]] = {
    "bert-base-uncased": _BASE,
    "bert-base-cased": _BASE | dict(vocab_size=28996),
    "bert-large-uncased": _LARGE,
    "bert-large-cased": _LARGE | dict(vocab_size=28996),
    "bert-base-multilingual-uncased": _BASE | dict(vocab_size=105879),
    "bert-base-multilingual-cased": _BASE | dict(vocab_size=119547),
    "bert-tiny": _google_small(2, 128),
    "bert-mini": _google_small(4, 256),
    "bert-small": _google_small(4, 512),
    "bert-medium": _google_small(8, 512),
    "minilm-l6-h384": dict(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The shape of a BERT, in Hugging Face's words; the defaults are bert-base-uncased.

    Args:
      hidden_act: feed-forward activation; "gelu" is the erf form, as in Hugging Face. (Google's
        original code computes the tanh form, which Hugging Face calls "gelu_new".)
      layer_norm_eps: 1e-12 in every published BERT.
      classifier_dropout: rate in front of a classifier; None means `hidden_dropout_prob`.
      id2label: class names in index order; None when they have no names.
      problem_type: "single_label_classification", "regression", or None when not fixed yet.

    Raises:
      ValueError: naming every field whose value cannot be computed.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    classifier_dropout: float | None = None
    tie_word_embeddings: bool = True
    num_labels: int = 2
    id2label: tuple[str, ...] | None = None
    problem_type: str | None = None

    def __post_init__(self) -> None:
        problems = [*_size_problems(self), *_choice_problems(self)]
        if problems:
            raise ValueError("BertConfig: " + "; ".join(problems))

    @property
    def head_width(self) -> int:
        """H = D / N."""
        return self.hidden_size // self.num_attention_heads

    @property
    def classifier_dropout_prob(self) -> float:
        """The rate in front of a classifier."""
        rate = self.classifier_dropout
        return self.hidden_dropout_prob if rate is None else rate

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> BertConfig:
        """The published configuration called `name` (a key of `PRESETS`)."""
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
        return cls(**(PRESETS[name] | overrides))

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> BertConfig:
        """Reads the contents of a Hugging Face config.json.

        Keys that do not change what the network computes are ignored.

        Raises:
          ValueError: naming every option that would be computed wrongly, with its value.
        """
        refused = [
            f"{key}={hf[key]!r} (supported: {allowed[0]!r})"
            for key, allowed in _REQUIRED.items()
            if key in hf and hf[key] not in allowed and not _same_width(key, hf)
        ]
        if refused:
            raise ValueError(
                "config.json asks for what jaxbert would compute wrongly: " + "; ".join(refused)
            )
        names = {field.name for field in dataclasses.fields(cls)} - {"id2label", "num_labels"}
        known = {key: hf[key] for key in names if key in hf}
        return cls(**known, **_labels_from_hf(hf))

    def to_hf(self) -> dict[str, Any]:
        """The same as the contents of a Hugging Face config.json."""
        hf = dataclasses.asdict(self) | {"model_type": "bert"}
        labels = self.id2label or tuple(f"LABEL_{i}" for i in range(self.num_labels))
        # transformers takes the number of labels from id2label, and refuses to be told twice.
        del hf["num_labels"]
        hf["id2label"] = {str(i): label for i, label in enumerate(labels)}
        hf["label2id"] = {label: i for i, label in enumerate(labels)}
        return {key: hf[key] for key in sorted(hf) if hf[key] is not None}


def _same_width(key: str, hf: Mapping[str, Any]) -> bool:
    return key == "embedding_size" and hf[key] == hf.get("hidden_size")


def _labels_from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """`num_labels` and `id2label`; names that Hugging Face made up (LABEL_0 ...) are no names."""
    id2label = hf.get("id2label")
    if not id2label:
        return {"num_labels": hf["num_labels"]} if "num_labels" in hf else {}
    by_index = {int(index): str(label) for index, label in id2label.items()}
    if sorted(by_index) != list(range(len(by_index))):
        raise ValueError(f"config.json: id2label must number its labels from 0, got {id2label!r}")
    labels = tuple(by_index[i] for i in range(len(by_index)))
    generic = labels == tuple(f"LABEL_{i}" for i in range(len(labels)))
    return {"num_labels": len(labels), "id2label": None if generic else labels}


_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "num_labels",
)


def _size_problems(config: BertConfig) -> list[str]:
    problems = [
        f"{name} must be a whole number of at least 1, got {value!r}"
        for name in _SIZES
        if not isinstance(value := getattr(config, name), int) or value < 1
    ]
    if not problems and config.hidden_size % config.num_attention_heads:
        problems.append(
            f"hidden_size={config.hidden_size} must be a multiple of "
            f"num_attention_heads={config.num_attention_heads}"
        )
    if config.id2label is not None and len(config.id2label) != config.num_labels:
        problems.append(f"id2label has {len(config.id2label)} names for {config.num_labels=}")
    return problems


def _choice_problems(config: BertConfig) -> list[str]:
    problems = [
        f"{name} must be in [0, 1), got {rate!r}"
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        if (rate := getattr(config, name)) is not None and not 0 <= rate < 1
    ]
    for name, allowed in (("hidden_act", ACTIVATIONS), ("problem_type", PROBLEM_TYPES)):
        if (value := getattr(config, name)) not in allowed:
            problems.append(f"{name}={value!r} is not one of {', '.join(map(str, allowed))}")
    if not config.layer_norm_eps > 0:
        problems.append(f"layer_norm_eps must be positive, got {config.layer_norm_eps!r}")
    return problems


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """How a model is computed, apart from what it computes.

    Args:
      dtype: of the operands of every matrix product. Products accumulate in float32 always, and
        softmax, LayerNorm and losses are float32 always.
      param_dtype: in which parameters are kept.
      gradient_checkpointing: keep only each layer's input for the backward pass and compute the
        rest again: less memory, about a third more time.
      platform: "cpu", "gpu" or "tpu", for which the program is written where that matters; None =
        JAX's default one. Only to compile for another than that.
    """

    dtype: str = "float32"
    param_dtype: str = "float32"
    gradient_checkpointing: bool = False
    platform: str | None = None

    def __post_init__(self) -> None:
        allowed = ("float32", "bfloat16", "float16")
        wrong = [
            f"{name}={getattr(self, name)!r}"
            for name in ("dtype", "param_dtype")
            if getattr(self, name) not in allowed
        ]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: choose one of {', '.join(allowed)}")

    @property
    def on(self) -> str:
        """The platform that the program is for."""
        return self.platform or jax.default_backend()

    @property
    def on_cpu(self) -> bool:
        """Whether that is a CPU."""
        return self.on == "cpu"

    @property
    def operand_dtype(self) -> jnp.dtype:
        """In which matrix products read their operands."""
        return jnp.dtype(self.dtype)

    @property
    def activation_dtype(self) -> jnp.dtype:
        """In which activations live between products.

        Accelerators keep them in `dtype`. CPUs keep float32: there a product that writes float32
        is 2 to 3 times as fast as one that rounds its result to bfloat16.
        """
        return jnp.dtype(jnp.float32) if self.on_cpu else self.operand_dtype
