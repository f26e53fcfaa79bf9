"""`BertModel` and the task models: the encoder, and a head for each task.

References: `transformers`' modeling_bert.py, class by class; each is compared with it in
tests/parity. Axes: B rows, L length, S segments in a packed row, D width, V vocabulary, C classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxbert.models.attention import take_columns
from jaxbert.models.config import BertConfig, Compute
from jaxbert.models.dropout import Dropout, dropout
from jaxbert.models.encoder import Embeddings, Encoder, Pooler
from jaxbert.models.families import BERT
from jaxbert.models.primitives import LayerNorm, Linear, activation_function, product
from jaxbert.weights.pretrained import PretrainedMixin

Array = jax.Array
CLASSIFIER_SITE = 1 << 16  # beyond the sites of any encoder


class EncoderOutput(NamedTuple):
    """What `BertModel` computes; with `pooled_only` the pooler_output and no more.

    last_hidden_state: [B, L, D].
    pooler_output: [B, D], [B, S, D] for packed rows, None without a pooler.
    hidden_states: the embeddings' output and each layer's, [B, L, D] each, in order.
    """

    last_hidden_state: Array | None
    pooler_output: Array | None
    hidden_states: tuple[Array, ...]


class BertModel(PretrainedMixin, nnx.Module):
    """The encoder without a head.

    Args:
      config: the shape.
      rngs: draws the initial parameters: normal(0, initializer_range), as Hugging Face does.
      compute: dtypes and memory.
      add_pooling_layer: whether there is a pooler.
    """

    config_class = BertConfig
    compute_class = Compute
    family = BERT

    def __init__(
        self,
        config: BertConfig,
        *,
        rngs: nnx.Rngs,
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        add_pooling_layer: bool = True,
    ):
        self.config = config
        self.compute = compute
        self.embeddings = Embeddings(config, compute=compute, rngs=rngs)
        self.encoder = Encoder(config, compute=compute, rngs=rngs)
        self.pooler = Pooler(config, compute=compute, rngs=rngs) if add_pooling_layer else None

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        segment_ids: Array | None = None,
        segment_starts: Array | None = None,
        dropout: Dropout | None = None,
        pooled_only: bool = False,
    ) -> EncoderOutput:
        """Encodes rows of tokens, each row one example, or several packed side by side.

        Args:
          input_ids: [B, L] int.
          attention_mask: [B, L], 1 = token, 0 = padding; None = all are tokens.
          token_type_ids: [B, L]; None = all 0.
          position_ids: [B, L] in [0, max_position_embeddings); None = 0 ... L-1 in every row. An
            index outside its table gives NaN.
          segment_ids: [B, L], 0 = padding, 1 ... S: packed examples, blind to each other. Give
            position_ids that restart in each segment with it. Excludes attention_mask.
          segment_starts: [B, S], the column of each segment's first token; the pooler then gives
            one vector a segment.
          dropout: None = none; see `models.dropout.Dropout`.
          pooled_only: the last layer computes the first tokens that the pooler reads, and skips
            the others.
        """
        _check_length(input_ids, position_ids, self.config)
        embedded = self.embeddings(input_ids, token_type_ids, position_ids, dropout)
        first = segment_starts
        if first is None:
            first = jnp.zeros((input_ids.shape[0], 1), jnp.int32)
        columns = first if pooled_only else None
        hidden_states = self.encoder(embedded, attention_mask, segment_ids, dropout, columns)
        pooled = None
        if self.pooler is not None:
            read = hidden_states[-1] if pooled_only else take_columns(hidden_states[-1], first)
            pooled = self.pooler(read if segment_starts is not None else read[:, 0])
        if pooled_only:
            return EncoderOutput(None, pooled, ())
        return EncoderOutput(hidden_states[-1], pooled, hidden_states)


def _check_length(input_ids: Array, position_ids: Array | None, config: BertConfig) -> None:
    length = input_ids.shape[-1]
    if position_ids is None and length > config.max_position_embeddings:
        raise ValueError(
            f"input_ids has rows of {length} tokens; the model has position embeddings for "
            f"{config.max_position_embeddings}: truncate the text"
        )


class _TaskModel(PretrainedMixin, nnx.Module):
    """An encoder called `bert`, and what a task adds."""

    config_class = BertConfig
    compute_class = Compute
    family = BERT
    uses_pooler = True

    def __init__(
        self,
        config: BertConfig,
        *,
        rngs: nnx.Rngs,
        compute: Compute = Compute(),  # noqa: B008 (frozen)
    ):
        self.config = config
        self.compute = compute
        self.bert = BertModel(
            config, rngs=rngs, compute=compute, add_pooling_layer=self.uses_pooler
        )
        self._add_head(rngs)

    def _add_head(self, rngs: nnx.Rngs) -> None:
        raise NotImplementedError

    def _linear(self, outputs: int, rngs: nnx.Rngs) -> Linear:
        return Linear(
            self.config.hidden_size,
            outputs,
            scale=self.config.initializer_range,
            compute=self.compute,
            rngs=rngs,
        )


class BertForSequenceClassification(_TaskModel):
    """A class, or a number, for each text or pair of texts: logits [B, C] or [B, S, C]."""

    def _add_head(self, rngs: nnx.Rngs) -> None:
        self.classifier = self._linear(self.config.num_labels, rngs)

    def __call__(self, input_ids: Array, *args: Any, **kwargs: Any) -> Array:
        """The arguments of `BertModel.__call__`; logits [B, C], or [B, S, C] for packed rows."""
        pooled = self.bert(input_ids, *args, **kwargs, pooled_only=True).pooler_output
        state, starts = kwargs.get("dropout"), kwargs.get("segment_starts")
        return _float32(self.classifier(_drop_pooled(pooled, self.config, state, starts)))


class BertForMultipleChoice(_TaskModel):
    """Which of several continuations: logits [B, choices] for inputs [B, choices, L]."""

    def _add_head(self, rngs: nnx.Rngs) -> None:
        self.classifier = self._linear(1, rngs)

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        dropout: Dropout | None = None,
    ) -> Array:
        """The arguments of `BertModel.__call__`, each [B, choices, L]; logits [B, choices]."""
        batch, choices, length = input_ids.shape
        inputs = (input_ids, attention_mask, token_type_ids, position_ids)
        flat = [x if x is None else x.reshape(batch * choices, length) for x in inputs]
        if dropout is not None:
            dropout = dropout._replace(token_index=dropout.token_index.reshape(-1, length))
        pooled = self.bert(*flat, dropout=dropout, pooled_only=True).pooler_output
        logits = self.classifier(_drop_pooled(pooled, self.config, dropout, None))
        return _float32(logits).reshape(batch, choices)


class BertForTokenClassification(_TaskModel):
    """A class for each token: logits [B, L, C]."""

    uses_pooler = False

    def _add_head(self, rngs: nnx.Rngs) -> None:
        self.classifier = self._linear(self.config.num_labels, rngs)

    def __call__(self, input_ids: Array, *args: Any, **kwargs: Any) -> Array:
        """The arguments of `BertModel.__call__`; logits [B, L, C]."""
        hidden = self.bert(input_ids, *args, **kwargs).last_hidden_state
        rate, state = self.config.classifier_dropout_prob, kwargs.get("dropout")
        return _float32(self.classifier(dropout(hidden, rate, CLASSIFIER_SITE, state)))


class BertForQuestionAnswering(_TaskModel):
    """Where the answer starts and ends: two logits [B, L]."""

    uses_pooler = False

    def _add_head(self, rngs: nnx.Rngs) -> None:
        self.qa_outputs = self._linear(2, rngs)

    def __call__(self, input_ids: Array, *args: Any, **kwargs: Any) -> tuple[Array, Array]:
        """The arguments of `BertModel.__call__`; (start [B, L], end [B, L])."""
        logits = _float32(self.qa_outputs(self.bert(input_ids, *args, **kwargs).last_hidden_state))
        return logits[..., 0], logits[..., 1]


class BertForNextSentencePrediction(_TaskModel):
    """Whether the second text follows the first (class 0) or not: logits [B, 2] or [B, S, 2]."""

    def _add_head(self, rngs: nnx.Rngs) -> None:
        self.seq_relationship = self._linear(2, rngs)

    def __call__(self, input_ids: Array, *args: Any, **kwargs: Any) -> Array:
        """The arguments of `BertModel.__call__`; logits [B, 2], or [B, S, 2] for packed rows."""
        pooled = self.bert(input_ids, *args, **kwargs, pooled_only=True).pooler_output
        return _float32(self.seq_relationship(pooled))


class PredictionHead(nnx.Module):
    """Hidden states -> scores of every word, through the transposed word embedding."""

    def __init__(self, config: BertConfig, *, compute: Compute, rngs: nnx.Rngs):
        width = config.hidden_size
        self.transform = Linear(
            width, width, scale=config.initializer_range, compute=compute, rngs=rngs
        )
        self.layer_norm = LayerNorm(width, epsilon=config.layer_norm_eps, compute=compute)
        self.bias = nnx.Param(jnp.zeros((config.vocab_size,), jnp.dtype(compute.param_dtype)))
        self.activation = activation_function(config.hidden_act, compute)
        self.compute = compute

    def __call__(self, hidden: Array, word_embeddings: Array) -> Array:
        """hidden [B, L, D], word_embeddings [V, D] -> [B, L, V] float32."""
        x = self.layer_norm(self.activation(self.transform(hidden)))
        return _float32(product("bld,vd->blv", x, word_embeddings, self.compute)) + self.bias[...]


class BertForMaskedLM(_TaskModel):
    """Which word stands at each position: logits [B, L, V]. The decoder is the word embedding."""

    uses_pooler = False

    def _add_head(self, rngs: nnx.Rngs) -> None:
        _require_tied(self.config)
        self.predictions = PredictionHead(self.config, compute=self.compute, rngs=rngs)

    def __call__(self, input_ids: Array, *args: Any, **kwargs: Any) -> Array:
        """The arguments of `BertModel.__call__`; logits [B, L, V]."""
        hidden = self.bert(input_ids, *args, **kwargs).last_hidden_state
        return self.predictions(hidden, self.bert.embeddings.word_embeddings.embedding[...])


class BertForPreTraining(_TaskModel):
    """Both pre-training tasks: word logits [B, L, V], next-sentence logits [B, 2] or [B, S, 2]."""

    def _add_head(self, rngs: nnx.Rngs) -> None:
        _require_tied(self.config)
        self.predictions = PredictionHead(self.config, compute=self.compute, rngs=rngs)
        self.seq_relationship = self._linear(2, rngs)

    def __call__(self, input_ids: Array, *args: Any, **kwargs: Any) -> tuple[Array, Array]:
        """The arguments of `BertModel.__call__`; see the class."""
        encoded = self.bert(input_ids, *args, **kwargs)
        table = self.bert.embeddings.word_embeddings.embedding[...]
        return (
            self.predictions(encoded.last_hidden_state, table),
            _float32(self.seq_relationship(encoded.pooler_output)),
        )


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)


def _drop_pooled(
    pooled: Array, config: BertConfig, state: Dropout | None, segment_starts: Array | None
) -> Array:
    """The classifier's dropout on [B, D] or [B, S, D]: each vector is its first token's."""
    if state is None:
        return pooled
    if segment_starts is None:
        rows = jnp.zeros((pooled.shape[0], 1), jnp.int32)
        first = state.select(rows)
        first = first._replace(token_index=first.token_index[:, 0])
    else:
        first = state.select(segment_starts)
    return dropout(pooled, config.classifier_dropout_prob, CLASSIFIER_SITE, first)


def _require_tied(config: BertConfig) -> None:
    if not config.tie_word_embeddings:
        raise ValueError(
            "tie_word_embeddings=False: the word prediction head here always uses the word "
            "embedding as its decoder, as every published BERT does"
        )


def split_model(model: nnx.Module) -> tuple[Any, dict[str, Any]]:
    """(graph definition, parameters): the latter a plain nested dict, ready for jit and grad."""
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def merge_model(graphdef: Any, params: dict[str, Any]) -> nnx.Module:
    """The model that `split_model` took apart, with these parameters."""
    return nnx.merge(graphdef, params)
