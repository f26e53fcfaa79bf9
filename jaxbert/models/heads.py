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
from jaxtyping import Array, Float

from jaxbert.errors import InputError
from jaxbert.models.config import Compute, EncoderConfig
from jaxbert.models.dropout import Dropout, dropout
from jaxbert.models.encoder import EncoderOutput
from jaxbert.models.model import EncoderModel, Model
from jaxbert.models.primitives import LayerNorm, Linear, activation_function, product

CLASSIFIER_SITE = 1 << 16  # beyond the sites of any encoder


class ClassifierOutput(NamedTuple):
    """logits: [B, C] or [B, S, C] of texts, [B, L, C] of tokens, [B, choices] of choices."""

    logits: Array


class QuestionAnsweringOutput(NamedTuple):
    """start_logits, end_logits: [B, L], of the answer's first and last token."""

    start_logits: Array
    end_logits: Array


class MaskedLMOutput(NamedTuple):
    """logits: [B, L, V], of the word at each position."""

    logits: Array


class PreTrainingOutput(NamedTuple):
    """prediction_logits: [B, L, V]. seq_relationship_logits: [B, 2] or [B, S, 2]."""

    prediction_logits: Array
    seq_relationship_logits: Array


class Reading(NamedTuple):
    """What a head needs to know of the rows beside what the encoder made of them."""

    dropout: Dropout | None
    segment_starts: Array | None

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
        dropout: Dropout | None = None,
    ) -> Any:
        """The arguments of `EncoderModel.__call__`; the outputs by their names, in float32."""
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
            starts = None if segment_starts is None else jnp.asarray(segment_starts)
            return self.read(encoded, Reading(dropout, starts))


class LinearHead(nnx.Module):
    """Dropout and one product, under a name of its own: `head/classifier/kernel`.

    Args:
      name: of the product, as the family's files call it.
      rate: of the dropout.
    """

    def __init__(
        self, model: TaskModel, name: str, outputs: int, rngs: nnx.Rngs, *, rate: float = 0.0
    ):
        config = model.config
        linear = Linear(
            config.hidden_size,
            outputs,
            scale=config.initializer_range,
            compute=model.compute,
            rngs=rngs,
        )
        setattr(self, name, linear)
        self.name = name
        self.rate = rate

    def __call__(self, x: Float[Array, "*rows D"], state: Dropout | None = None) -> Array:
        logits = getattr(self, self.name)(dropout(x, self.rate, CLASSIFIER_SITE, state))
        return _float32(logits)


class ForSequenceClassification(TaskModel):
    """A class, or a number, for each text or pair of texts."""

    def make_head(self, rngs: nnx.Rngs) -> LinearHead:
        rate = self.config.classifier_dropout_prob
        return LinearHead(self, "classifier", self.config.num_labels, rngs, rate=rate)

    def read(self, encoded: EncoderOutput, reading: Reading) -> ClassifierOutput:
        return ClassifierOutput(self.head(encoded.pooler_output, reading.of_first_tokens()))


class ForMultipleChoice(TaskModel):
    """Which of several continuations: logits [B, choices] for inputs [B, choices, L]."""

    def make_head(self, rngs: nnx.Rngs) -> LinearHead:
        return LinearHead(self, "classifier", 1, rngs, rate=self.config.classifier_dropout_prob)

    def read(self, encoded: EncoderOutput, reading: Reading) -> ClassifierOutput:
        return ClassifierOutput(self.head(encoded.pooler_output, reading.of_first_tokens()))

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
        """The arguments of `EncoderModel.__call__`, each [B, choices, L]."""
        if given := [name for name, value in packed.items() if value is not None]:
            raise InputError(f"{', '.join(given)}: choices are not packed; give rows [B, N, L]")
        ids = jnp.asarray(input_ids)
        batch, choices, length = ids.shape
        further = (attention_mask, token_type_ids, position_ids)
        flat = [None if x is None else jnp.asarray(x).reshape(-1, length) for x in further]
        if dropout is not None:
            dropout = dropout._replace(token_index=dropout.token_index.reshape(-1, length))
        logits = super().__call__(ids.reshape(-1, length), *flat, dropout=dropout).logits
        return ClassifierOutput(logits.reshape(batch, choices))


class ForTokenClassification(TaskModel):
    """A class for each token."""

    uses_pooler = False
    uses_tokens = True

    def make_head(self, rngs: nnx.Rngs) -> LinearHead:
        rate = self.config.classifier_dropout_prob
        return LinearHead(self, "classifier", self.config.num_labels, rngs, rate=rate)

    def read(self, encoded: EncoderOutput, reading: Reading) -> ClassifierOutput:
        return ClassifierOutput(self.head(encoded.last_hidden_state, reading.dropout))


class ForQuestionAnswering(TaskModel):
    """Where in the row the answer starts and ends."""

    uses_pooler = False
    uses_tokens = True

    def make_head(self, rngs: nnx.Rngs) -> LinearHead:
        return LinearHead(self, "qa_outputs", 2, rngs)

    def read(self, encoded: EncoderOutput, reading: Reading) -> QuestionAnsweringOutput:
        logits = self.head(encoded.last_hidden_state)
        return QuestionAnsweringOutput(logits[..., 0], logits[..., 1])


class ForNextSentencePrediction(TaskModel):
    """Whether the second text follows the first (class 0) or not: logits [B, 2] or [B, S, 2]."""

    def make_head(self, rngs: nnx.Rngs) -> LinearHead:
        return LinearHead(self, "seq_relationship", 2, rngs)

    def read(self, encoded: EncoderOutput, reading: Reading) -> ClassifierOutput:
        return ClassifierOutput(self.head(encoded.pooler_output))


class PredictionHead(nnx.Module):
    """Hidden states -> scores of every word, through the transposed word embedding."""

    def __init__(self, config: EncoderConfig, *, compute: Compute, rngs: nnx.Rngs):
        width = config.hidden_size
        self.transform = Linear(
            width, width, scale=config.initializer_range, compute=compute, rngs=rngs
        )
        self.layer_norm = LayerNorm(width, epsilon=config.layer_norm_eps, compute=compute)
        self.bias = nnx.Param(jnp.zeros((config.vocab_size,), jnp.dtype(compute.param_dtype)))
        self.activation = activation_function(config.hidden_act, compute)
        self.compute = compute

    def __call__(
        self, hidden: Float[Array, "B L D"], word_embeddings: Float[Array, "V D"]
    ) -> Float[Array, "B L V"]:
        x = self.layer_norm(self.activation(self.transform(hidden)))
        scores = _float32(product("bld,vd->blv", x, word_embeddings, self.compute))
        return scores + _float32(self.bias[...])[None, None]


class WordHead(nnx.Module):
    """The word predictions and, for pre-training, beside them the next sentence's."""

    def __init__(self, model: TaskModel, rngs: nnx.Rngs, *, next_sentence: bool):
        config, compute = model.config, model.compute
        if not config.tie_word_embeddings:
            raise InputError(
                "tie_word_embeddings=False: the word prediction head here always uses the word "
                "embedding as its decoder, as every published BERT does"
            )
        self.predictions = PredictionHead(config, compute=compute, rngs=rngs)
        self.seq_relationship = (
            Linear(
                config.hidden_size, 2, scale=config.initializer_range, compute=compute, rngs=rngs
            )
            if next_sentence
            else None
        )


class ForMaskedLM(TaskModel):
    """Which word stands at each position. The decoder is the word embedding."""

    uses_pooler = False
    uses_tokens = True

    def make_head(self, rngs: nnx.Rngs) -> WordHead:
        return WordHead(self, rngs, next_sentence=False)

    def read(self, encoded: EncoderOutput, reading: Reading) -> MaskedLMOutput:
        table = self.encoder.embeddings.word_embeddings.embedding[...]
        return MaskedLMOutput(self.head.predictions(encoded.last_hidden_state, table))


class ForPreTraining(TaskModel):
    """Both pre-training tasks: words, and whether the second text follows the first."""

    uses_tokens = True

    def make_head(self, rngs: nnx.Rngs) -> WordHead:
        return WordHead(self, rngs, next_sentence=True)

    def read(self, encoded: EncoderOutput, reading: Reading) -> PreTrainingOutput:
        table = self.encoder.embeddings.word_embeddings.embedding[...]
        return PreTrainingOutput(
            self.head.predictions(encoded.last_hidden_state, table),
            _float32(self.head.seq_relationship(encoded.pooler_output)),
        )


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)
