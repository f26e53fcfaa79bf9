"""ELECTRA: Clark et al. 2020, discriminator and generator.

Read in transformers' modeling_electra.py (5.24). Beside BERT: embeddings of a width of their own,
no pooler, and heads of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx

from jaxbert.models import heads, model
from jaxbert.models.config import EncoderConfig
from jaxbert.models.families.bert import BERT
from jaxbert.models.head_modules import DenseHead
from jaxbert.models.outputs import ClassifierOutput, EncoderOutput
from jaxbert.weights.rename import Family, Head, Rename, linear, norm

_BASE = dict(embedding_size=768, hidden_size=768, num_attention_heads=12, intermediate_size=3072)
_LARGE = dict(
    embedding_size=1024,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElectraConfig(EncoderConfig):
    """The shape of an ELECTRA; see `EncoderConfig`. The defaults are electra-small-discriminator.

    Attributes:
      embedding_size: E, the width of the embeddings; a projection leads to D where it is not D.
      summary_activation, summary_last_dropout: of the head for multiple choice; None = none.

    Example:
      >>> ElectraConfig.preset("electra-base-generator").embedding_width
      768
    """

    model_type: ClassVar[str] = "electra"
    has_pooler: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "electra-small-discriminator": {},
        "electra-base-discriminator": _BASE,
        "electra-large-discriminator": _LARGE,
        "electra-small-generator": {},
        "electra-base-generator": dict(embedding_size=768),
        "electra-large-generator": dict(embedding_size=1024, num_hidden_layers=24),
    }

    vocab_size: int = 30522
    embedding_size: int = 128
    hidden_size: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    summary_activation: str | None = "gelu"
    summary_last_dropout: float = 0.1

    @property
    def embedding_width(self) -> int:
        """See `EncoderConfig.embedding_width`."""
        return self.embedding_size

    @property
    def prediction_act(self) -> str:
        """Whatever `hidden_act` is."""
        return "gelu"

    @classmethod
    def required(cls, hf: Mapping[str, Any]) -> Mapping[str, tuple[Any, ...]]:
        """See `EncoderConfig.required`."""
        del hf
        return {
            "summary_type": ("first",),
            "summary_use_proj": (True,),
            "summary_proj_to_labels": (False, None),
            "summary_first_dropout": (0, None),
        }


_TEXT = (*linear("classifier.dense", "dense"), *linear("classifier.out_proj", "classifier"))
_CHOICE = (*linear("sequence_summary.summary", "dense"), *linear("classifier", "classifier"))
_REPLACED = (
    *linear("discriminator_predictions.dense", "dense"),
    *linear("discriminator_predictions.dense_prediction", "classifier"),
)
_PREDICTIONS = (
    *linear("generator_predictions.dense", "predictions/transform"),
    *norm("generator_predictions.LayerNorm", "predictions/layer_norm"),
    Rename("generator_lm_head.bias", "predictions/bias"),
)

ELECTRA = Family(
    prefix="electra",
    base="ElectraModel",
    encoder=(
        *(row for row in BERT.encoder if not row.ours.startswith("pooler/")),
        *linear("embeddings_project", "embeddings/projection"),
    ),
    heads={
        "ElectraModel": Head(),
        "ElectraForSequenceClassification": Head(_TEXT, labelled="classifier.out_proj."),
        "ElectraForTokenClassification": Head(
            linear("classifier", "classifier"), labelled="classifier."
        ),
        "ElectraForMultipleChoice": Head(_CHOICE),
        "ElectraForQuestionAnswering": Head(linear("qa_outputs", "qa_outputs"), num_labels=2),
        "ElectraForMaskedLM": Head(
            _PREDICTIONS,
            copies=(("generator_lm_head.weight", "electra.embeddings.word_embeddings.weight"),),
        ),
        "ElectraForPreTraining": Head(_REPLACED),
    },
    ambiguous=("classifier.",),
    buffers=BERT.buffers,
)


class _Electra(model.Model):
    """What all classes of the family have."""

    family: ClassVar[Family] = ELECTRA
    config_class: ClassVar[type[EncoderConfig]] = ElectraConfig
    uses_pooler: ClassVar[bool] = False

    config: ElectraConfig


class ElectraModel(_Electra, model.EncoderModel):
    """See `model.EncoderModel`.

    Example:
      >>> ElectraModel.config_class is ElectraConfig
      True
    """


class ElectraForSequenceClassification(_Electra, heads.ForSequenceClassification):
    """See `heads.ForSequenceClassification`."""

    dense_activation = "gelu"


class ElectraForTokenClassification(_Electra, heads.ForTokenClassification):
    """See `heads.ForTokenClassification`."""


class ElectraForMultipleChoice(_Electra, heads.ForMultipleChoice):
    """See `heads.ForMultipleChoice`."""

    def make_head(self, rngs: nnx.Rngs) -> DenseHead:
        """See `heads.TaskModel.make_head`."""
        config = self.config
        rates = (0.0, config.summary_last_dropout)
        return DenseHead(self, 1, rngs, activation=config.summary_activation, rates=rates)


class ElectraForQuestionAnswering(_Electra, heads.ForQuestionAnswering):
    """See `heads.ForQuestionAnswering`."""


class ElectraForMaskedLM(_Electra, heads.ForMaskedLM):
    """See `heads.ForMaskedLM`. The generator's head."""


class ElectraForPreTraining(_Electra, heads.TaskModel):
    """Which tokens were replaced: logits [B, L], above 0 where one was. The discriminator's head.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> config = ElectraConfig.preset("electra-small-discriminator")
      >>> def run(input_ids):
      ...     return ElectraForPreTraining(config, rngs=nnx.Rngs(0))(input_ids).logits
      >>> jax.eval_shape(run, jnp.zeros((2, 8), int)).shape
      (2, 8)
    """

    uses_tokens = True

    def make_head(self, rngs: nnx.Rngs) -> DenseHead:
        """See `heads.TaskModel.make_head`."""
        activation = self.config.hidden_act
        return DenseHead(self, 1, rngs, activation=activation, rates=(0.0, 0.0))

    def read(self, encoded: EncoderOutput, reading: heads.Reading) -> ClassifierOutput:
        """See `heads.TaskModel.read`."""
        del reading
        return ClassifierOutput(self.head(encoded.last_hidden_state)[..., 0])
