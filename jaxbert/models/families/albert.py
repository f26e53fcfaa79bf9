"""ALBERT: Lan et al. 2020. Read in transformers' modeling_albert.py (5.24).

Beside BERT: layers share their parameters, embeddings have a width of their own, and there is no
dropout after the feed-forward. A learning rate for every layer is one for every group of layers:
published models have one group, so layer-wise decay tells embeddings, the group and head apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxbert.models import heads, model
from jaxbert.models.config import DropoutRates, EncoderConfig
from jaxbert.weights.rename import Family, Head, Rename, linear, norm


def _shape(layers: int, hidden: int, attention_heads: int) -> dict[str, Any]:
    """The models of version 2, which drop nothing."""
    return dict(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=attention_heads,
        intermediate_size=4 * hidden,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlbertConfig(EncoderConfig):
    """The shape of an ALBERT; see `EncoderConfig`. The defaults are albert-base-v2.

    Attributes:
      embedding_size: E, the width of the embeddings.
      num_hidden_groups: so many layers have parameters of their own, each run several times in
        succession.

    Example:
      >>> AlbertConfig.preset("albert-base-v2").num_layer_groups
      1
    """

    model_type: ClassVar[str] = "albert"
    renamed: ClassVar[Mapping[str, str]] = {"classifier_dropout": "classifier_dropout_prob"}
    harmless: ClassVar[frozenset[str]] = frozenset(
        {"down_scale_factor", "gap_size", "layers_to_keep", "net_structure_type"}
        | {"num_memory_blocks"}
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "albert-base-v2": _shape(12, 768, 12),
        "albert-large-v2": _shape(24, 1024, 16),
        "albert-xlarge-v2": _shape(24, 2048, 16),
        "albert-xxlarge-v2": _shape(12, 4096, 64),
    }

    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_hidden_groups: int = 1
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout: float | None = 0.1

    @property
    def embedding_width(self) -> int:
        """See `EncoderConfig.embedding_width`."""
        return self.embedding_size

    @property
    def projects_embeddings(self) -> bool:
        """Always, also from D to D."""
        return True

    @property
    def dropout_rates(self) -> DropoutRates:
        """See `EncoderConfig.dropout_rates`."""
        return super().dropout_rates._replace(output=0.0)

    @property
    def num_layer_groups(self) -> int:
        """See `EncoderConfig.num_layer_groups`."""
        return self.num_hidden_groups

    def layer_group(self, layer: int) -> int:
        """See `EncoderConfig.layer_group`."""
        return int(layer / (self.num_hidden_layers / self.num_hidden_groups))

    @classmethod
    def required(cls, hf: Mapping[str, Any]) -> Mapping[str, tuple[Any, ...]]:
        """See `EncoderConfig.required`."""
        del hf
        return {"inner_group_num": (1, None)}


_LAYER, _OURS = "encoder.albert_layer_groups.{i}.albert_layers.0", "layers/{i}"
_CLASSIFIER = linear("classifier", "classifier")
_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")

ALBERT = Family(
    prefix="albert",
    base="AlbertModel",
    encoder=(
        *(Rename(f"embeddings.{name}.weight", f"embeddings/{name}/embedding") for name in _TABLES),
        *norm("embeddings.LayerNorm", "embeddings/layer_norm"),
        *linear("encoder.embedding_hidden_mapping_in", "embeddings/projection"),
        *linear(f"{_LAYER}.attention.query", f"{_OURS}/attention/query"),
        *linear(f"{_LAYER}.attention.key", f"{_OURS}/attention/key"),
        *linear(f"{_LAYER}.attention.value", f"{_OURS}/attention/value"),
        *linear(f"{_LAYER}.attention.dense", f"{_OURS}/attention/output"),
        *norm(f"{_LAYER}.attention.LayerNorm", f"{_OURS}/attention_norm"),
        *linear(f"{_LAYER}.ffn", f"{_OURS}/intermediate"),
        *linear(f"{_LAYER}.ffn_output", f"{_OURS}/output"),
        *norm(f"{_LAYER}.full_layer_layer_norm", f"{_OURS}/output_norm"),
        *linear("pooler", "pooler"),
    ),
    heads={
        "AlbertModel": Head(),
        "AlbertForSequenceClassification": Head(_CLASSIFIER, labelled="classifier."),
        "AlbertForTokenClassification": Head(_CLASSIFIER, labelled="classifier."),
        "AlbertForMultipleChoice": Head(_CLASSIFIER),
        "AlbertForQuestionAnswering": Head(linear("qa_outputs", "qa_outputs"), num_labels=2),
        "AlbertForMaskedLM": Head(
            (
                *linear("predictions.dense", "predictions/transform"),
                *norm("predictions.LayerNorm", "predictions/layer_norm"),
                Rename("predictions.bias", "predictions/bias"),
            ),
            copies=(
                ("predictions.decoder.weight", "albert.embeddings.word_embeddings.weight"),
                ("predictions.decoder.bias", "predictions.bias"),
            ),
        ),
    },
    optional=("pooler.",),
    ambiguous=("classifier.",),
    buffers=(r"\bembeddings\.(position_ids|token_type_ids)$",),
)


class _Albert(model.Model):
    """What all classes of the family have."""

    family: ClassVar[Family] = ALBERT
    config_class: ClassVar[type[EncoderConfig]] = AlbertConfig

    config: AlbertConfig


class AlbertModel(_Albert, model.EncoderModel):
    """See `model.EncoderModel`.

    Example:
      >>> AlbertModel.config_class is AlbertConfig
      True
    """


class AlbertForSequenceClassification(_Albert, heads.ForSequenceClassification):
    """See `heads.ForSequenceClassification`."""


class AlbertForTokenClassification(_Albert, heads.ForTokenClassification):
    """See `heads.ForTokenClassification`."""


class AlbertForMultipleChoice(_Albert, heads.ForMultipleChoice):
    """See `heads.ForMultipleChoice`."""


class AlbertForQuestionAnswering(_Albert, heads.ForQuestionAnswering):
    """See `heads.ForQuestionAnswering`."""


class AlbertForMaskedLM(_Albert, heads.ForMaskedLM):
    """See `heads.ForMaskedLM`."""
