"""RoBERTa (Liu et al. 2019) and XLM-R (Conneau et al. 2020).

Read in transformers' modeling_roberta.py and modeling_xlm_roberta.py (5.24), which differ in names
alone. Beside BERT: positions are counted from the ids, and a classifier has two products.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxbert.models import heads, model
from jaxbert.models.config import EncoderConfig
from jaxbert.models.families.bert import BERT, LARGE
from jaxbert.weights.rename import Family, Head, Rename, linear, norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobertaConfig(EncoderConfig):
    """The shape of a RoBERTa; see `EncoderConfig`. The defaults are roberta-base.

    Example:
      >>> RobertaConfig.preset("roberta-base").max_tokens
      512
    """

    model_type: ClassVar[str] = "roberta"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "roberta-base": {},
        "roberta-large": LARGE,
        "distilroberta-base": dict(num_hidden_layers=6),
    }

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1

    @property
    def position_padding(self) -> int:
        """See `EncoderConfig.position_padding`."""
        return self.pad_token_id

    @property
    def prediction_act(self) -> str:
        """Whatever `hidden_act` is."""
        return "gelu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class XLMRobertaConfig(RobertaConfig):
    """The shape of an XLM-R; see `EncoderConfig`. The defaults are xlm-roberta-base.

    Example:
      >>> XLMRobertaConfig.preset("xlm-roberta-large").hidden_size
      1024
    """

    model_type: ClassVar[str] = "xlm-roberta"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "xlm-roberta-base": {},
        "xlm-roberta-large": LARGE,
    }

    vocab_size: int = 250002


# The head of a text: its two products; of which the second has one output a label.
_TEXT = (*linear("classifier.dense", "dense"), *linear("classifier.out_proj", "classifier"))
_PREDICTIONS = (
    *linear("lm_head.dense", "predictions/transform"),
    *norm("lm_head.layer_norm", "predictions/layer_norm"),
    Rename("lm_head.bias", "predictions/bias"),
)
_TIED = (
    ("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
    ("lm_head.decoder.bias", "lm_head.bias"),
)


def _family(prefix: str) -> Family:
    """With class names that begin with that."""
    classifier = linear("classifier", "classifier")
    return Family(
        prefix="roberta",
        base=f"{prefix}Model",
        encoder=BERT.encoder,
        heads={
            f"{prefix}Model": Head(),
            f"{prefix}ForSequenceClassification": Head(_TEXT, labelled="classifier.out_proj."),
            f"{prefix}ForTokenClassification": Head(classifier, labelled="classifier."),
            f"{prefix}ForMultipleChoice": Head(classifier),
            f"{prefix}ForQuestionAnswering": Head(linear("qa_outputs", "qa_outputs"), num_labels=2),
            f"{prefix}ForMaskedLM": Head(_PREDICTIONS, copies=_TIED),
        },
        optional=BERT.optional,
        ambiguous=("classifier.",),
        buffers=BERT.buffers,
    )


ROBERTA, XLM_ROBERTA = _family("Roberta"), _family("XLMRoberta")


class RobertaModel(model.EncoderModel):
    """See `model.EncoderModel`.

    Example:
      >>> RobertaModel.config_class is RobertaConfig
      True
    """

    family, config_class = ROBERTA, RobertaConfig


class RobertaForSequenceClassification(heads.ForSequenceClassification):
    """See `heads.ForSequenceClassification`."""

    family, config_class = ROBERTA, RobertaConfig
    uses_pooler = False
    dense_activation = "tanh"


class RobertaForTokenClassification(heads.ForTokenClassification):
    """See `heads.ForTokenClassification`."""

    family, config_class = ROBERTA, RobertaConfig


class RobertaForMultipleChoice(heads.ForMultipleChoice):
    """See `heads.ForMultipleChoice`."""

    family, config_class = ROBERTA, RobertaConfig


class RobertaForQuestionAnswering(heads.ForQuestionAnswering):
    """See `heads.ForQuestionAnswering`."""

    family, config_class = ROBERTA, RobertaConfig


class RobertaForMaskedLM(heads.ForMaskedLM):
    """See `heads.ForMaskedLM`."""

    family, config_class = ROBERTA, RobertaConfig


class XLMRobertaModel(RobertaModel):
    """See `model.EncoderModel`.

    Example:
      >>> XLMRobertaModel.config_class is XLMRobertaConfig
      True
    """

    family, config_class = XLM_ROBERTA, XLMRobertaConfig


class XLMRobertaForSequenceClassification(RobertaForSequenceClassification):
    """See `heads.ForSequenceClassification`."""

    family, config_class = XLM_ROBERTA, XLMRobertaConfig


class XLMRobertaForTokenClassification(RobertaForTokenClassification):
    """See `heads.ForTokenClassification`."""

    family, config_class = XLM_ROBERTA, XLMRobertaConfig


class XLMRobertaForMultipleChoice(RobertaForMultipleChoice):
    """See `heads.ForMultipleChoice`."""

    family, config_class = XLM_ROBERTA, XLMRobertaConfig


class XLMRobertaForQuestionAnswering(RobertaForQuestionAnswering):
    """See `heads.ForQuestionAnswering`."""

    family, config_class = XLM_ROBERTA, XLMRobertaConfig


class XLMRobertaForMaskedLM(RobertaForMaskedLM):
    """See `heads.ForMaskedLM`."""

    family, config_class = XLM_ROBERTA, XLMRobertaConfig
