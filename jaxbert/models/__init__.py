"""What the network computes."""

from jaxbert.models.config import PRESETS, BertConfig, Compute
from jaxbert.models.dropout import Dropout, dropout_key
from jaxbert.models.heads import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    EncoderOutput,
    merge_model,
    split_model,
)

__all__ = [
    "PRESETS",
    "BertConfig",
    "BertForMaskedLM",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "Compute",
    "Dropout",
    "EncoderOutput",
    "dropout_key",
    "merge_model",
    "split_model",
]
