"""ModernBERT: Warner et al. 2024. Read in transformers' modeling_modernbert.py (5.24).

Beside BERT: pre-norm, a gated feed-forward, no biases, rotated queries and keys, windows in two
layers of three, and a pre-trained head that classifiers go on with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxbert.errors import InputError
from jaxbert.models import heads, model
from jaxbert.models.config import DropoutRates, EncoderConfig, Spread
from jaxbert.models.config_checks import COUNT
from jaxbert.models.encoder import segment_means
from jaxbert.models.head_modules import DenseHead
from jaxbert.models.outputs import ClassifierOutput, EncoderOutput
from jaxbert.weights.rename import Family, Head, Rename

FULL, LOCAL = "full_attention", "sliding_attention"
POOLINGS = ("cls", "mean")
_MOST_LAYERS = 10_000  # a config.json can ask for any number
# {kind of layer: (our field, its key in early files)}
_THETAS = {FULL: "global_rope_theta", LOCAL: "local_rope_theta"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModernBertConfig(EncoderConfig):
    """The shape of a ModernBERT; see `EncoderConfig`. The defaults are ModernBERT-base.

    Attributes:
      hidden_dropout_prob: within the feed-forward only. attention_probs_dropout_prob: of the
        attention's output too.
      embedding_dropout: of the embeddings.
      layer_types: "full_attention" or "sliding_attention" of each layer; None = every third is
        full, from the first on.
      local_attention: how many tokens a sliding layer spans, both sides together.
      global_rope_theta, local_rope_theta: the bases of the rotations in full and sliding layers.
      classifier_pooling: what a classifier reads of a text: "cls" its first token, "mean" all.
      classifier_activation: of the pre-trained head.
      initializer_cutoff_factor: initial values beyond so many standard deviations are drawn anew.

    Example:
      >>> config = ModernBertConfig.preset("modernbert-base")
      >>> [config.window(layer) for layer in range(4)]
      [None, 64, 64, None]
    """

    model_type: ClassVar[str] = "modernbert"
    norm: ClassVar[str] = "pre"
    feed_forward: ClassVar[str] = "gated"
    bias: ClassVar[bool] = False
    fused_projections: ClassVar[bool] = True
    first_norm: ClassVar[bool] = False
    has_pooler: ClassVar[bool] = False
    renamed: ClassVar[Mapping[str, str]] = {
        "hidden_act": "hidden_activation",
        "layer_norm_eps": "norm_eps",
        "hidden_dropout_prob": "mlp_dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    }
    harmless: ClassVar[frozenset[str]] = frozenset(
        """
        deterministic_flash_attn global_attn_every_n_layers layer_norm_eps reference_compile
        repad_logits_with_grad rope_parameters sparse_pred_ignore_index sparse_prediction
        """.split()  # noqa: SIM905 (as the other lists of keys)
    )
    fixed: ClassVar[frozenset[str]] = frozenset({"type_vocab_size"})
    computed_with: ClassVar[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
        "layer_types": (lambda value: isinstance(value, list | None), "a list"),
        "global_attn_every_n_layers": COUNT,
        "rope_parameters": (lambda value: isinstance(value, dict | None), "an object"),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "modernbert-base": dict(classifier_pooling="mean"),
        "modernbert-large": dict(
            hidden_size=1024,
            num_hidden_layers=28,
            num_attention_heads=16,
            intermediate_size=2624,
            classifier_pooling="mean",
        ),
    }

    vocab_size: int = 50368
    hidden_size: int = 768
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    intermediate_size: int = 1152
    max_position_embeddings: int = 8192
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 50283
    classifier_dropout: float | None = 0.0
    embedding_dropout: float = 0.0
    layer_types: tuple[str, ...] | None = None
    local_attention: int = 128
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    classifier_pooling: str = "cls"
    classifier_activation: str = "gelu"
    initializer_cutoff_factor: float | None = 2.0

    def __post_init__(self) -> None:
        problems, kinds = [], self.layer_types
        told = kinds is None or all(kind in (FULL, LOCAL) for kind in kinds)
        if not told or len(kinds or ()) not in (0, self.num_hidden_layers):
            problems.append(
                f"layer_types must say {FULL} or {LOCAL} of each of {self.num_hidden_layers} "
                f"layers, got {kinds!r}"
            )
        if self.classifier_pooling not in POOLINGS:
            problems.append(f"{self.classifier_pooling=} is not one of {', '.join(POOLINGS)}")
        if problems:
            raise InputError(f"{type(self).__name__}: " + "; ".join(problems))
        super().__post_init__()

    @property
    def dropout_rates(self) -> DropoutRates:
        """See `EncoderConfig.dropout_rates`."""
        attention = self.attention_probs_dropout_prob
        inner = self.hidden_dropout_prob
        return DropoutRates(self.embedding_dropout, attention, attention, inner, 0.0)

    @property
    def spread(self) -> Spread:
        """See `EncoderConfig.spread`."""
        cutoff = self.initializer_cutoff_factor
        return Spread(self.initializer_range, 3.0 if cutoff is None else cutoff)

    @property
    def output_spread(self) -> Spread:
        """See `EncoderConfig.output_spread`; smaller where more layers add up."""
        narrower = (2 * self.num_hidden_layers) ** -0.5
        return self.spread._replace(std=self.initializer_range * narrower)

    @property
    def position_rows(self) -> int:
        """None: rotations say where a token stands."""
        return 0

    @property
    def reads_first_token(self) -> bool:
        """See `EncoderConfig.reads_first_token`."""
        return self.classifier_pooling == "cls"

    @property
    def prediction_act(self) -> str:
        """See `EncoderConfig.prediction_act`."""
        return self.classifier_activation

    def layer_type(self, layer: int) -> str:
        """`FULL` or `LOCAL`."""
        if self.layer_types is not None:
            return self.layer_types[layer]
        return LOCAL if layer % 3 else FULL

    def window(self, layer: int) -> int | None:
        """See `EncoderConfig.window`."""
        return self.local_attention // 2 if self.layer_type(layer) == LOCAL else None

    def rotary_theta(self, layer: int) -> float:
        """See `EncoderConfig.rotary_theta`."""
        return getattr(self, _THETAS[self.layer_type(layer)])

    @classmethod
    def modernized(cls, hf: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `EncoderConfig.modernized`."""
        said = dict(hf)
        if said.get("layer_types") is not None:
            said["layer_types"] = tuple(said["layer_types"])
        elif (every := said.get("global_attn_every_n_layers", 3)) != 3:
            count = min(said.get("num_hidden_layers", cls.num_hidden_layers), _MOST_LAYERS)
            said["layer_types"] = tuple(LOCAL if i % every else FULL for i in range(count))
        for kind, field in _THETAS.items():
            rope = (said.get("rope_parameters") or {}).get(kind) or {}
            if not isinstance(rope, dict):
                place = f"config.json: rope_parameters[{kind!r}]={rope!r}"
                raise InputError(f"{place} (want an object)")
            if rope.get("rope_type", "default") != "default":
                raise InputError(
                    f"config.json: rope_parameters[{kind!r}] asks for rope_type="
                    f"{rope['rope_type']!r}; only 'default' is computed here"
                )
            if "rope_theta" in rope:
                said[field] = rope["rope_theta"]
            if said.get(field) is None:
                said.pop(field, None)
        return said

    @classmethod
    def required(cls, hf: Mapping[str, Any]) -> Mapping[str, tuple[Any, ...]]:
        """See `EncoderConfig.required`."""
        del hf
        no_bias = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
        return {
            **{key: (False, None) for key in no_bias},
            "decoder_bias": (True, None),
            "position_embedding_type": ("sans_pos", "absolute", None),
            "rope_scaling": (None,),
        }

    def to_hf(self) -> dict[str, Any]:
        """See `EncoderConfig.to_hf`; in today's spelling."""
        hf = super().to_hf()
        rope = {
            kind: {"rope_type": "default", "rope_theta": hf.pop(field)}
            for kind, field in _THETAS.items()
        }
        kinds = [self.layer_type(layer) for layer in range(self.num_hidden_layers)]
        return hf | {"layer_types": kinds, "rope_parameters": rope}


def _kernel(theirs: str, ours: str) -> Rename:
    return Rename(f"{theirs}.weight", f"{ours}/kernel", transpose=True)


def _scale(theirs: str, ours: str) -> Rename:
    return Rename(f"{theirs}.weight", f"{ours}/scale")


_LAYER = "layers.{i}"
_OURS = "layers/{i}"
_CLASSIFIER = (
    _kernel("head.dense", "dense"),
    _scale("head.norm", "layer_norm"),
    _kernel("classifier", "classifier"),
    Rename("classifier.bias", "classifier/bias"),
)

MODERNBERT = Family(
    prefix="model",
    base="ModernBertModel",
    encoder=(
        Rename("embeddings.tok_embeddings.weight", "embeddings/word_embeddings/embedding"),
        _scale("embeddings.norm", "embeddings/layer_norm"),
        _scale(f"{_LAYER}.attn_norm", f"{_OURS}/attention_norm"),
        _kernel(f"{_LAYER}.attn.Wqkv", f"{_OURS}/attention/query_key_value"),
        _kernel(f"{_LAYER}.attn.Wo", f"{_OURS}/attention/output"),
        _scale(f"{_LAYER}.mlp_norm", f"{_OURS}/output_norm"),
        _kernel(f"{_LAYER}.mlp.Wi", f"{_OURS}/intermediate"),
        _kernel(f"{_LAYER}.mlp.Wo", f"{_OURS}/output"),
        _scale("final_norm", "final_norm"),
    ),
    heads={
        "ModernBertModel": Head(),
        "ModernBertForSequenceClassification": Head(_CLASSIFIER, labelled="classifier."),
        "ModernBertForTokenClassification": Head(_CLASSIFIER, labelled="classifier."),
        "ModernBertForMultipleChoice": Head(_CLASSIFIER),
        "ModernBertForQuestionAnswering": Head(_CLASSIFIER, num_labels=2),
        "ModernBertForMaskedLM": Head(
            (
                _kernel("head.dense", "predictions/transform"),
                _scale("head.norm", "predictions/layer_norm"),
                Rename("decoder.bias", "predictions/bias"),
            ),
            copies=(("decoder.weight", "model.embeddings.tok_embeddings.weight"),),
        ),
    },
    ambiguous=("classifier.",),
)


class _ModernBert(model.Model):
    """What all classes of the family have."""

    family: ClassVar[Family] = MODERNBERT
    config_class: ClassVar[type[EncoderConfig]] = ModernBertConfig
    uses_pooler: ClassVar[bool] = False

    config: ModernBertConfig


class ModernBertModel(_ModernBert, model.EncoderModel):
    """See `model.EncoderModel`.

    Example:
      >>> ModernBertModel.config_class is ModernBertConfig
      True
    """


def _head(task: Any, outputs: int, rngs: nnx.Rngs) -> DenseHead:
    config: ModernBertConfig = task.config
    return DenseHead(
        task,
        outputs,
        rngs,
        activation=config.classifier_activation,
        rates=(0.0, config.classifier_dropout_prob),
        norm=True,
        bias=False,
        scale=config.spread._replace(std=config.hidden_size**-0.5),
    )


class _OfTexts(_ModernBert, heads.TaskModel):
    """Reads a text's first token, or the mean of all."""

    @property
    def uses_tokens(self) -> bool:  # type: ignore[override]  # of a class elsewhere
        """Whether the head reads them all."""
        return not self.config.reads_first_token

    def read(self, encoded: EncoderOutput, reading: heads.Reading) -> ClassifierOutput:
        """See `heads.TaskModel.read`."""
        pooled = encoded.last_hidden_state
        if self.uses_tokens:
            pooled = _mean_of_texts(pooled, reading).astype(pooled.dtype)
        return ClassifierOutput(self.head(pooled, reading.of_first_tokens()))


def _mean_of_texts(hidden: Float[Array, "B L D"], reading: heads.Reading) -> Array:
    """[B, D], or [B, S, D] of packed rows."""
    if reading.segment_starts is not None and reading.segment_ids is not None:
        return segment_means(hidden, reading.segment_ids, reading.segment_starts.shape[1])
    mask = reading.attention_mask
    tokens = jnp.ones(hidden.shape[:2], jnp.int32) if mask is None else mask.astype(jnp.int32)
    return segment_means(hidden, tokens, 1)[:, 0]


class ModernBertForSequenceClassification(_OfTexts, heads.ForSequenceClassification):
    """See `heads.ForSequenceClassification`."""

    def make_head(self, rngs: nnx.Rngs) -> DenseHead:
        """See `heads.TaskModel.make_head`."""
        return _head(self, self.config.num_labels, rngs)


class ModernBertForTokenClassification(_ModernBert, heads.ForTokenClassification):
    """See `heads.ForTokenClassification`."""

    def make_head(self, rngs: nnx.Rngs) -> DenseHead:
        """See `heads.TaskModel.make_head`."""
        return _head(self, self.config.num_labels, rngs)


class ModernBertForMultipleChoice(_OfTexts, heads.ForMultipleChoice):
    """See `heads.ForMultipleChoice`."""

    def make_head(self, rngs: nnx.Rngs) -> DenseHead:
        """See `heads.TaskModel.make_head`."""
        return _head(self, 1, rngs)


class ModernBertForQuestionAnswering(_ModernBert, heads.ForQuestionAnswering):
    """See `heads.ForQuestionAnswering`."""

    def make_head(self, rngs: nnx.Rngs) -> DenseHead:
        """See `heads.TaskModel.make_head`."""
        return _head(self, 2, rngs)


class ModernBertForMaskedLM(_ModernBert, heads.ForMaskedLM):
    """See `heads.ForMaskedLM`."""
