"""DistilBERT: Sanh et al. 2019. Read in transformers' modeling_distilbert.py (5.24).

Beside BERT: no token types, no pooler, no dropout after attention, and words of its own in files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx

from jaxbert.models import heads, model
from jaxbert.models.config import DropoutRates, EncoderConfig
from jaxbert.models.head_modules import DenseHead, LinearHead
from jaxbert.weights.rename import Family, Head, Rename, linear, norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilBertConfig(EncoderConfig):
    """The shape of a DistilBERT; see `EncoderConfig`. The defaults are distilbert-base-uncased.

    Attributes:
      qa_dropout: the rate in front of the head for question answering.

    Example:
      >>> DistilBertConfig(hidden_size=16, num_attention_heads=2).to_hf()["dim"]
      16
    """

    model_type: ClassVar[str] = "distilbert"
    has_pooler: ClassVar[bool] = False
    renamed: ClassVar[Mapping[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "classifier_dropout": "seq_classif_dropout",
    }
    # The sinusoids are what the table of positions is drawn from; a file has the table itself.
    harmless: ClassVar[frozenset[str]] = frozenset({"sinusoidal_pos_embds", "tie_weights_"})
    fixed: ClassVar[frozenset[str]] = frozenset({"type_vocab_size", "layer_norm_eps"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "distilbert-base-uncased": {},
        "distilbert-base-cased": dict(vocab_size=28996),
        "distilbert-base-multilingual-cased": dict(vocab_size=119547),
    }

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    classifier_dropout: float | None = 0.2
    qa_dropout: float = 0.1

    @property
    def dropout_rates(self) -> DropoutRates:
        """See `EncoderConfig.dropout_rates`."""
        return super().dropout_rates._replace(attention=0.0)


_LAYER, _OURS = "transformer.layer.{i}", "layers/{i}"
_TEXT = (*linear("pre_classifier", "dense"), *linear("classifier", "classifier"))

DISTILBERT = Family(
    prefix="distilbert",
    base="DistilBertModel",
    encoder=(
        Rename("embeddings.word_embeddings.weight", "embeddings/word_embeddings/embedding"),
        Rename("embeddings.position_embeddings.weight", "embeddings/position_embeddings/embedding"),
        *norm("embeddings.LayerNorm", "embeddings/layer_norm"),
        *linear(f"{_LAYER}.attention.q_lin", f"{_OURS}/attention/query"),
        *linear(f"{_LAYER}.attention.k_lin", f"{_OURS}/attention/key"),
        *linear(f"{_LAYER}.attention.v_lin", f"{_OURS}/attention/value"),
        *linear(f"{_LAYER}.attention.out_lin", f"{_OURS}/attention/output"),
        *norm(f"{_LAYER}.sa_layer_norm", f"{_OURS}/attention_norm"),
        *linear(f"{_LAYER}.ffn.lin1", f"{_OURS}/intermediate"),
        *linear(f"{_LAYER}.ffn.lin2", f"{_OURS}/output"),
        *norm(f"{_LAYER}.output_layer_norm", f"{_OURS}/output_norm"),
    ),
    heads={
        "DistilBertModel": Head(),
        "DistilBertForSequenceClassification": Head(_TEXT, labelled="classifier."),
        "DistilBertForTokenClassification": Head(
            linear("classifier", "classifier"), labelled="classifier."
        ),
        "DistilBertForMultipleChoice": Head(_TEXT),
        "DistilBertForQuestionAnswering": Head(linear("qa_outputs", "qa_outputs"), num_labels=2),
        "DistilBertForMaskedLM": Head(
            (
                *linear("vocab_transform", "predictions/transform"),
                *norm("vocab_layer_norm", "predictions/layer_norm"),
                Rename("vocab_projector.bias", "predictions/bias"),
            ),
            copies=(("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight"),),
        ),
    },
    ambiguous=("classifier.", "pre_classifier."),
    buffers=(r"\bembeddings\.position_ids$",),
)


class _DistilBert(model.Model):
    """What all classes of the family have."""

    family: ClassVar[Family] = DISTILBERT
    config_class: ClassVar[type[EncoderConfig]] = DistilBertConfig
    uses_pooler: ClassVar[bool] = False

    config: DistilBertConfig


class DistilBertModel(_DistilBert, model.EncoderModel):
    """See `model.EncoderModel`.

    Example:
      >>> DistilBertModel.config_class is DistilBertConfig
      True
    """


class DistilBertForSequenceClassification(_DistilBert, heads.ForSequenceClassification):
    """See `heads.ForSequenceClassification`."""

    def make_head(self, rngs: nnx.Rngs) -> DenseHead:
        """See `heads.TaskModel.make_head`."""
        return _text_head(self, self.config.num_labels, rngs)


class DistilBertForTokenClassification(_DistilBert, heads.ForTokenClassification):
    """See `heads.ForTokenClassification`."""

    def make_head(self, rngs: nnx.Rngs) -> LinearHead:
        """With the encoder's dropout: `classifier_dropout` is for texts only."""
        rate = self.config.hidden_dropout_prob
        return LinearHead(self, "classifier", self.config.num_labels, rngs, rate=rate)


class DistilBertForMultipleChoice(_DistilBert, heads.ForMultipleChoice):
    """See `heads.ForMultipleChoice`."""

    def make_head(self, rngs: nnx.Rngs) -> DenseHead:
        """See `heads.TaskModel.make_head`."""
        return _text_head(self, 1, rngs)


class DistilBertForQuestionAnswering(_DistilBert, heads.ForQuestionAnswering):
    """See `heads.ForQuestionAnswering`."""

    def make_head(self, rngs: nnx.Rngs) -> LinearHead:
        """See `heads.TaskModel.make_head`."""
        return LinearHead(self, "qa_outputs", 2, rngs, rate=self.config.qa_dropout)


class DistilBertForMaskedLM(_DistilBert, heads.ForMaskedLM):
    """See `heads.ForMaskedLM`."""


def _text_head(task: heads.TaskModel, outputs: int, rngs: nnx.Rngs) -> DenseHead:
    rates = (0.0, task.config.classifier_dropout_prob)
    return DenseHead(task, outputs, rngs, activation="relu", rates=rates)
