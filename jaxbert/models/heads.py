"""The models for tasks: the encoder, and a head for each.

A family's classes derive from these and are called as Hugging Face calls them. References:
`transformers`' modeling files, class by class; each is compared with it in tests/parity. Axes: B
rows, L length, S segments in a packed row, D width, V vocabulary, C classes.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from jaxbert.models.compute import Compute
from jaxbert.models.config import EncoderConfig
from jaxbert.models.dropout import Dropout
from jaxbert.models.head_modules import DenseHead, LinearHead, WordHead, float32
from jaxbert.models.model import EncoderModel, Model
from jaxbert.models.outputs import (
    ClassifierOutput,
    EncoderOutput,
    MaskedLMOutput,
    PreTrainingOutput,
    QuestionAnsweringOutput,
)
from jaxbert.models.visibility import take_columns


class Reading(NamedTuple):
    """What a head needs to know of the rows beside what the encoder made of them."""

    dropout: Dropout | None
    segment_starts: Array | None
    segment_ids: Array | None
    attention_mask: Array | None

    def of_first_tokens(self) -> Dropout | None:
        """The dropout of [B, D] or [B, S, D]: each vector is its first token's."""
        state = self.dropout
        if state is None:
            return None
        if self.segment_starts is not None:
            return state.select(self.segment_starts)
        first = state.select(jnp.zeros((state.token_index.shape[0], 1), jnp.int32))
        return first._replace(token_index=first.token_index[:, 0])


class TaskModel(Model):
    """An encoder called `encoder`, and what a task adds, called `head`."""

    base_class: ClassVar[type[EncoderModel]] = EncoderModel
    uses_pooler: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, compute: Compute | None = None):
        super().__init__(config, rngs=rngs, compute=compute)
        self.encoder = self.base_class(
            config, rngs=rngs, compute=self.compute, add_pooling_layer=self.uses_pooler
        )
        self.head = self.make_head(rngs)

    def make_head(self, rngs: nnx.Rngs) -> Any:
        """The head, newly drawn. A family with a head of its own replaces it."""
        raise NotImplementedError

    def read(self, encoded: EncoderOutput, reading: Reading) -> Any:
        """The outputs, from what the encoder made of the rows."""
        raise NotImplementedError

    def __call__(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        *,
        segment_ids: ArrayLike | None = None,
        segment_starts: ArrayLike | None = None,
        columns: Int[Array, "B K"] | None = None,
        dropout: Dropout | None = None,
    ) -> Any:
        """The arguments of `EncoderModel.__call__`; the outputs by their names, in float32.

        columns: which tokens of each row a head for tokens reads; its outputs are of those.
        """
        encoded = self.encoder(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            segment_ids=segment_ids,
            segment_starts=segment_starts,
            dropout=dropout,
            pooled_only=not self.uses_tokens,
        )
        with jax.named_scope("head"):
            if columns is not None:
                tokens = take_columns(encoded.last_hidden_state, columns)
                encoded = encoded._replace(last_hidden_state=tokens)
                dropout = None if dropout is None else dropout.select(columns)
            rows = (
                None if x is None else jnp.asarray(x)
                for x in (segment_starts, segment_ids, attention_mask)
            )
            return self.read(encoded, Reading(dropout, *rows))


class _OfTexts(TaskModel):
    """One reading for each text: of the pooler's vector or, without a pooler, the first token's."""

    def read(self, encoded: EncoderOutput, reading: Reading) -> ClassifierOutput:
        pooled = encoded.pooler_output if self.uses_pooler else encoded.last_hidden_state
        return ClassifierOutput(self.head(pooled, reading.of_first_tokens()))


class ForSequenceClassification(_OfTexts):
    """A class, or a number, for each text or pair of texts.

    Example:
      >>> from jaxbert.models import BertConfig, BertForSequenceClassification
      >>> config = BertConfig.preset("bert-tiny")
      >>> def run(input_ids):
      ...     return BertForSequenceClassification(config, rngs=nnx.Rngs(0))(input_ids).logits
      >>> jax.eval_shape(run, jnp.zeros((2, 8), int)).shape
      (2, 2)
    """

    dense_activation: ClassVar[str | None] = None  # of a first product, in a family that has two

    def make_head(self, rngs: nnx.Rngs) -> Any:
        rate, labels = self.config.classifier_dropout_prob, self.config.num_labels
        if self.dense_activation is None:
            return LinearHead(self, "classifier", labels, rngs, rate=rate)
        return DenseHead(self, labels, rngs, activation=self.dense_activation, rates=(rate, rate))


class ForMultipleChoice(_OfTexts):
    """Which of several continuations: logits [B, choices] for inputs [B, choices, L].

    Packed, a segment a choice, the inputs are [B, L] and the logits [B, S].

    Example:
      >>> from jaxbert.models import BertConfig, BertForMultipleChoice
      >>> config = BertConfig.preset("bert-tiny")
      >>> def run(input_ids):
      ...     return BertForMultipleChoice(config, rngs=nnx.Rngs(0))(input_ids).logits
      >>> jax.eval_shape(run, jnp.zeros((2, 4, 8), int)).shape
      (2, 4)
    """

    def make_head(self, rngs: nnx.Rngs) -> Any:
        return LinearHead(self, "classifier", 1, rngs, rate=self.config.classifier_dropout_prob)

    def __call__(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        *,
        dropout: Dropout | None = None,
        **packed: Any,
    ) -> ClassifierOutput:
        """The arguments of `EncoderModel.__call__`, each [B, choices, L] or, packed, [B, L]."""
        ids, further = jnp.asarray(input_ids), (attention_mask, token_type_ids, position_ids)
        if packed:
            logits = super().__call__(ids, *further, dropout=dropout, **packed).logits
            return ClassifierOutput(logits[..., 0])
        batch, choices, length = ids.shape
        flat = [None if x is None else jnp.asarray(x).reshape(-1, length) for x in further]
        if dropout is not None:
            dropout = dropout._replace(token_index=dropout.token_index.reshape(-1, length))
        logits = super().__call__(ids.reshape(-1, length), *flat, dropout=dropout).logits
        return ClassifierOutput(logits.reshape(batch, choices))


class ForTokenClassification(TaskModel):
    """A class for each token.

    Example:
      >>> from jaxbert.models import BertConfig, BertForTokenClassification
      >>> config = BertConfig.preset("bert-tiny")
      >>> def run(input_ids):
      ...     return BertForTokenClassification(config, rngs=nnx.Rngs(0))(input_ids).logits
      >>> jax.eval_shape(run, jnp.zeros((2, 8), int)).shape
      (2, 8, 2)
    """

    uses_pooler = False
    uses_tokens = True

    def make_head(self, rngs: nnx.Rngs) -> Any:
        rate = self.config.classifier_dropout_prob
        return LinearHead(self, "classifier", self.config.num_labels, rngs, rate=rate)

    def read(self, encoded: EncoderOutput, reading: Reading) -> ClassifierOutput:
        return ClassifierOutput(self.head(encoded.last_hidden_state, reading.dropout))


class ForQuestionAnswering(TaskModel):
    """Where in the row the answer starts and ends.

    Example:
      >>> from jaxbert.models import BertConfig, BertForQuestionAnswering
      >>> config = BertConfig.preset("bert-tiny")
      >>> def run(input_ids):
      ...     return BertForQuestionAnswering(config, rngs=nnx.Rngs(0))(input_ids).start_logits
      >>> jax.eval_shape(run, jnp.zeros((2, 8), int)).shape
      (2, 8)
    """

    uses_pooler = False
    uses_tokens = True

    def make_head(self, rngs: nnx.Rngs) -> Any:
        return LinearHead(self, "qa_outputs", 2, rngs)

    def read(self, encoded: EncoderOutput, reading: Reading) -> QuestionAnsweringOutput:
        logits = self.head(encoded.last_hidden_state, reading.dropout)
        return QuestionAnsweringOutput(logits[..., 0], logits[..., 1])


class ForNextSentencePrediction(TaskModel):
    """Whether the second text follows the first (class 0) or not: logits [B, 2] or [B, S, 2].

    Example:
      >>> from jaxbert.models import BertConfig, BertForNextSentencePrediction
      >>> config = BertConfig.preset("bert-tiny")
      >>> def run(input_ids):
      ...     return BertForNextSentencePrediction(config, rngs=nnx.Rngs(0))(input_ids).logits
      >>> jax.eval_shape(run, jnp.zeros((2, 8), int)).shape
      (2, 2)
    """

    def make_head(self, rngs: nnx.Rngs) -> LinearHead:
        return LinearHead(self, "seq_relationship", 2, rngs)

    def read(self, encoded: EncoderOutput, reading: Reading) -> ClassifierOutput:
        return ClassifierOutput(self.head(encoded.pooler_output))


class ForMaskedLM(TaskModel):
    """Which word stands at each position. The decoder is the word embedding.

    Example:
      >>> from jaxbert.models import BertConfig, BertForMaskedLM
      >>> config = BertConfig.preset("bert-tiny")
      >>> def run(input_ids):
      ...     return BertForMaskedLM(config, rngs=nnx.Rngs(0))(input_ids).logits
      >>> jax.eval_shape(run, jnp.zeros((2, 8), int)).shape
      (2, 8, 30522)
    """

    uses_pooler = False
    uses_tokens = True

    def make_head(self, rngs: nnx.Rngs) -> WordHead:
        return WordHead(self, rngs, next_sentence=False)

    def read(self, encoded: EncoderOutput, reading: Reading) -> MaskedLMOutput:
        table = self.encoder.embeddings.word_embeddings.table()
        return MaskedLMOutput(self.head.predictions(encoded.last_hidden_state, table))


class ForPreTraining(TaskModel):
    """Both pre-training tasks: words, and whether the second text follows the first.

    Example:
      >>> from jaxbert.models import BertConfig, BertForPreTraining
      >>> config = BertConfig.preset("bert-tiny")
      >>> def run(input_ids):
      ...     return BertForPreTraining(config, rngs=nnx.Rngs(0))(input_ids).prediction_logits
      >>> jax.eval_shape(run, jnp.zeros((2, 8), int)).shape
      (2, 8, 30522)
    """

    uses_tokens = True

    def make_head(self, rngs: nnx.Rngs) -> WordHead:
        return WordHead(self, rngs, next_sentence=True)

    def read(self, encoded: EncoderOutput, reading: Reading) -> PreTrainingOutput:
        table = self.encoder.embeddings.word_embeddings.table()
        return PreTrainingOutput(
            self.head.predictions(encoded.last_hidden_state, table),
            float32(self.head.seq_relationship(encoded.pooler_output)),
        )
