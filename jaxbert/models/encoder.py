"""The body of BERT: embeddings, encoder layers, pooler."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxbert.models.attention import SelfAttention, take_columns
from jaxbert.models.config import BertConfig, Compute
from jaxbert.models.dropout import Dropout, dropout
from jaxbert.models.primitives import Embedding, LayerNorm, Linear, activation_function

Array = jax.Array

# Dropout sites, numbered along the network.
EMBEDDINGS_SITE = 0
SITES_PER_LAYER = 3


class Embeddings(nnx.Module):
    """Word + position + token type, normalised."""

    def __init__(self, config: BertConfig, *, compute: Compute, rngs: nnx.Rngs):
        def table(size: int, padding_index: int | None = None) -> Embedding:
            return Embedding(
                size,
                config.hidden_size,
                scale=config.initializer_range,
                compute=compute,
                rngs=rngs,
                padding_index=padding_index,
            )

        self.word_embeddings = table(config.vocab_size, config.pad_token_id)
        self.position_embeddings = table(config.max_position_embeddings)
        self.token_type_embeddings = table(config.type_vocab_size)
        self.layer_norm = LayerNorm(
            config.hidden_size, epsilon=config.layer_norm_eps, compute=compute
        )
        self.rate = config.hidden_dropout_prob

    def __call__(
        self,
        input_ids: Array,
        token_type_ids: Array | None,
        position_ids: Array | None,
        state: Dropout | None,
    ) -> Array:
        if position_ids is None:
            position_ids = jnp.arange(input_ids.shape[1])[None]
        if token_type_ids is None:
            token_type_ids = jnp.zeros_like(input_ids)
        x = (
            self.word_embeddings(input_ids)
            + self.token_type_embeddings(token_type_ids)
            + self.position_embeddings(position_ids)
        )
        return dropout(self.layer_norm(x), self.rate, EMBEDDINGS_SITE, state)


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, each with dropout, residual and LayerNorm after it."""

    def __init__(self, config: BertConfig, *, index: int, compute: Compute, rngs: nnx.Rngs):
        width, inner, scale = (
            config.hidden_size,
            config.intermediate_size,
            config.initializer_range,
        )
        self.site = 1 + SITES_PER_LAYER * index
        self.attention = SelfAttention(config, site=self.site, compute=compute, rngs=rngs)
        self.attention_norm = LayerNorm(width, epsilon=config.layer_norm_eps, compute=compute)
        self.intermediate = Linear(width, inner, scale=scale, compute=compute, rngs=rngs)
        self.output = Linear(inner, width, scale=scale, compute=compute, rngs=rngs)
        self.output_norm = LayerNorm(width, epsilon=config.layer_norm_eps, compute=compute)
        self.activation = activation_function(config.hidden_act, compute)
        self.rate = config.hidden_dropout_prob

    def __call__(
        self,
        x: Array,
        attention_mask: Array | None,
        segment_ids: Array | None,
        state: Dropout | None,
        columns: Array | None = None,
    ) -> Array:
        """x [B, L, D] -> [B, Q, D] for the tokens in `columns` [B, Q], or for all."""
        attended = self.attention(x, attention_mask, segment_ids, state, columns)
        if columns is not None:
            x, state = take_columns(x, columns), state and state.select(columns)
        x = self.attention_norm(x + dropout(attended, self.rate, self.site + 1, state))
        fed = self.output(self.activation(self.intermediate(x)))
        return self.output_norm(x + dropout(fed, self.rate, self.site + 2, state))


class Encoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: BertConfig, *, compute: Compute, rngs: nnx.Rngs):
        self.layers = nnx.List(
            EncoderLayer(config, index=i, compute=compute, rngs=rngs)
            for i in range(config.num_hidden_layers)
        )
        self.remat = compute.gradient_checkpointing

    def __call__(
        self,
        x: Array,
        attention_mask: Array | None,
        segment_ids: Array | None,
        state: Dropout | None,
        columns: Array | None = None,
    ) -> tuple[Array, ...]:
        """The input [B, L, D] and each layer's output, in order.

        Where only the tokens in `columns` [B, Q] of the last layer are wanted, it computes no
        others (but their keys and values), and its output is [B, Q, D].
        """
        run = nnx.remat(EncoderLayer.__call__) if self.remat else EncoderLayer.__call__
        hidden_states = [x]
        for i, layer in enumerate(self.layers, 1):
            wanted = columns if i == len(self.layers) else None
            x = run(layer, hidden_states[-1], attention_mask, segment_ids, state, wanted)
            hidden_states.append(x)
        return tuple(hidden_states)


class Pooler(Linear):
    """tanh(linear(x)), of each row's first token, or of each segment's."""

    def __init__(self, config: BertConfig, *, compute: Compute, rngs: nnx.Rngs):
        super().__init__(
            config.hidden_size,
            config.hidden_size,
            scale=config.initializer_range,
            compute=compute,
            rngs=rngs,
        )

    def __call__(self, first: Array) -> Array:
        """[..., D] -> [..., D]."""
        return jnp.tanh(super().__call__(first))
