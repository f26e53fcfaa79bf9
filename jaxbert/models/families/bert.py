"""BERT: Devlin et al. 2019. Read in transformers' modeling_bert.py (5.24)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxbert.models import heads, model
from jaxbert.models.config import EncoderConfig
from jaxbert.weights.rename import Family, Head, Rename, linear, norm

_BASE = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)


def _google_small(layers: int, hidden: int) -> dict[str, int]:
    """The small BERTs of Turc et al. 2019: heads of width 64, feed-forward four times as wide."""
    return dict(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
    )


_PRESETS: dict[str, dict[str, Any]] = {
    "bert-base-uncased": _BASE,
    "bert-base-cased": _BASE | dict(vocab_size=28996),
    "bert-large-uncased": LARGE,
    "bert-large-cased": LARGE | dict(vocab_size=28996),
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
class BertConfig(EncoderConfig):
    """The shape of a BERT; see `EncoderConfig`. The defaults are bert-base-uncased.

    layer_norm_eps is 1e-12 in every published BERT.

    Example:
      >>> BertConfig.preset("bert-tiny").num_hidden_layers
      2
    """

    model_type: ClassVar[str] = "bert"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = _PRESETS
    # What Google's multilingual models say of a pooler that nothing reads.
    harmless: ClassVar[frozenset[str]] = frozenset(
        {
            "directionality",
            "pooler_fc_size",
            "pooler_num_attention_heads",
            "pooler_num_fc_layers",
            "pooler_size_per_head",
            "pooler_type",
        }
    )

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2

    @classmethod
    def required(cls, hf: Mapping[str, Any]) -> Mapping[str, tuple[Any, ...]]:
        """See `EncoderConfig.required`."""
        return {
            "embedding_size": (hf.get("hidden_size", cls.hidden_size), None),
        }


def _table(name: str) -> Rename:
    return Rename(f"embeddings.{name}.weight", f"embeddings/{name}/embedding")


_LAYER, _OURS = "encoder.layer.{i}", "layers/{i}"

_ENCODER = (
    _table("word_embeddings"),
    _table("position_embeddings"),
    _table("token_type_embeddings"),
    *norm("embeddings.LayerNorm", "embeddings/layer_norm"),
    *linear(f"{_LAYER}.attention.self.query", f"{_OURS}/attention/query"),
    *linear(f"{_LAYER}.attention.self.key", f"{_OURS}/attention/key"),
    *linear(f"{_LAYER}.attention.self.value", f"{_OURS}/attention/value"),
    *linear(f"{_LAYER}.attention.output.dense", f"{_OURS}/attention/output"),
    *norm(f"{_LAYER}.attention.output.LayerNorm", f"{_OURS}/attention_norm"),
    *linear(f"{_LAYER}.intermediate.dense", f"{_OURS}/intermediate"),
    *linear(f"{_LAYER}.output.dense", f"{_OURS}/output"),
    *norm(f"{_LAYER}.output.LayerNorm", f"{_OURS}/output_norm"),
    *linear("pooler.dense", "pooler"),
)
_CLASSIFIER = linear("classifier", "classifier")
_PREDICTIONS = (
    *linear("cls.predictions.transform.dense", "predictions/transform"),
    *norm("cls.predictions.transform.LayerNorm", "predictions/layer_norm"),
    Rename("cls.predictions.bias", "predictions/bias"),
)
_NEXT_SENTENCE = linear("cls.seq_relationship", "seq_relationship")
# The decoder is the word embedding; old files hold it, and its bias, again under these names.
_TIED = (
    ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
)

BERT = Family(
    prefix="bert",
    base="BertModel",
    encoder=_ENCODER,
    heads={
        "BertModel": Head(),
        "BertForSequenceClassification": Head(_CLASSIFIER, labelled="classifier."),
        "BertForTokenClassification": Head(_CLASSIFIER, labelled="classifier."),
        "BertForMultipleChoice": Head(_CLASSIFIER),
        "BertForQuestionAnswering": Head(linear("qa_outputs", "qa_outputs"), num_labels=2),
        "BertForNextSentencePrediction": Head(_NEXT_SENTENCE),
        "BertForMaskedLM": Head(_PREDICTIONS, copies=_TIED),
        "BertForPreTraining": Head((*_PREDICTIONS, *_NEXT_SENTENCE), copies=_TIED),
    },
    optional=("pooler.",),
    ambiguous=("classifier.",),
    # Names of Google's TensorFlow checkpoints, and of files converted from them.
    spellings=(
        (r"\bLayerNorm\.gamma$", "LayerNorm.weight"),
        (r"\bLayerNorm\.beta$", "LayerNorm.bias"),
        (r"\bencoder\.layer_(\d+)\.", r"encoder.layer.\1."),
        (
            r"\bembeddings\.(word|position|token_type)_embeddings$",
            r"embeddings.\1_embeddings.weight",
        ),
        (r"^cls\.squad\.output_", "qa_outputs.output_"),
        (r"^output_", "classifier.output_"),
        (r"\boutput_weights$", "weight"),
        (r"\boutput_bias$", "bias"),
    ),
    buffers=(r"\bembeddings\.(position_ids|token_type_ids)$",),
)


class BertModel(model.EncoderModel):
    """See `model.EncoderModel`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> config = BertConfig.preset("bert-tiny")
      >>> def run(input_ids):
      ...     return BertModel(config, rngs=nnx.Rngs(0))(input_ids).last_hidden_state
      >>> jax.eval_shape(run, jnp.zeros((2, 8), int)).shape
      (2, 8, 128)
    """

    family, config_class = BERT, BertConfig


class BertForSequenceClassification(heads.ForSequenceClassification):
    """See `heads.ForSequenceClassification`."""

    family, config_class = BERT, BertConfig


class BertForTokenClassification(heads.ForTokenClassification):
    """See `heads.ForTokenClassification`."""

    family, config_class = BERT, BertConfig


class BertForMultipleChoice(heads.ForMultipleChoice):
    """See `heads.ForMultipleChoice`."""

    family, config_class = BERT, BertConfig


class BertForQuestionAnswering(heads.ForQuestionAnswering):
    """See `heads.ForQuestionAnswering`."""

    family, config_class = BERT, BertConfig


class BertForNextSentencePrediction(heads.ForNextSentencePrediction):
    """See `heads.ForNextSentencePrediction`."""

    family, config_class = BERT, BertConfig


class BertForMaskedLM(heads.ForMaskedLM):
    """See `heads.ForMaskedLM`."""

    family, config_class = BERT, BertConfig


class BertForPreTraining(heads.ForPreTraining):
    """See `heads.ForPreTraining`."""

    family, config_class = BERT, BertConfig
