"""The body of an encoder: embeddings, layers, pooler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxbert.models.attention import SelfAttention
from jaxbert.models.config import Compute, EncoderConfig
from jaxbert.models.dropout import Dropout, dropout
from jaxbert.models.primitives import Embedding, LayerNorm, Linear, activation_function
from jaxbert.models.visibility import Visibility, take_columns

# Dropout sites, numbered along the network.
EMBEDDINGS_SITE = 0
SITES_PER_LAYER = 3


class EncoderOutput(NamedTuple):
    """What an encoder computes; with `pooled_only` the pooler_output and no more.

    last_hidden_state: [B, L, D].
    pooler_output: [B, D], [B, S, D] for packed rows, None without a pooler.
    hidden_states: the embeddings' output and each layer's, [B, L, D] each, in order.

    Example:
      >>> hidden = jnp.zeros((2, 8, 16))
      >>> EncoderOutput(hidden, None, (hidden, hidden)).last_hidden_state.shape
      (2, 8, 16)
    """

    last_hidden_state: Array | None
    pooler_output: Array | None
    hidden_states: tuple[Array, ...]


class Embeddings(nnx.Module):
    """Word + position + token type, normalized."""

    def __init__(self, config: EncoderConfig, *, compute: Compute, rngs: nnx.Rngs):
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
        self.token_type_embeddings = (
            table(config.type_vocab_size) if config.type_vocab_size else None
        )
        self.layer_norm = LayerNorm(
            config.hidden_size, epsilon=config.layer_norm_eps, compute=compute
        )
        self.rate = config.hidden_dropout_prob

    @jax.named_scope("embeddings")
    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        token_type_ids: Int[Array, "B L"] | None,
        position_ids: Int[Array, "#B L"] | None,
        state: Dropout | None,
    ) -> Float[Array, "B L D"]:
        if position_ids is None:
            position_ids = jnp.arange(input_ids.shape[1])[None]
        x = self.word_embeddings(input_ids)
        if self.token_type_embeddings is not None:
            if token_type_ids is None:
                token_type_ids = jnp.zeros_like(input_ids)
            x = x + self.token_type_embeddings(token_type_ids)
        x = x + self.position_embeddings(position_ids)
        return dropout(self.layer_norm(x), self.rate, EMBEDDINGS_SITE, state)


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, each with dropout and a residual sum around it.

    Post-norm: x = norm(x + block(x)), as BERT. Pre-norm: x = x + block(norm(x)).
    """

    def __init__(self, config: EncoderConfig, *, index: int, compute: Compute, rngs: nnx.Rngs):
        width, inner, scale = (
            config.hidden_size,
            config.intermediate_size,
            config.initializer_range,
        )
        self.is_gated = config.feed_forward == "gated"
        self.is_pre_norm = config.norm == "pre"
        self.site = 1 + SITES_PER_LAYER * index
        self.attention = SelfAttention(
            config, site=self.site, window=config.window(index), compute=compute, rngs=rngs
        )
        self.attention_norm = LayerNorm(width, epsilon=config.layer_norm_eps, compute=compute)
        into = 2 * inner if self.is_gated else inner
        self.intermediate = Linear(width, into, scale=scale, compute=compute, rngs=rngs)
        self.output = Linear(inner, width, scale=scale, compute=compute, rngs=rngs)
        self.output_norm = LayerNorm(width, epsilon=config.layer_norm_eps, compute=compute)
        self.activation = activation_function(config.hidden_act, compute)
        self.rate = config.hidden_dropout_prob

    def __call__(
        self,
        x: Float[Array, "B L D"],
        visibility: Visibility,
        state: Dropout | None = None,
        columns: Int[Array, "B Q"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """For the tokens in `columns`, or for all (then Q is L)."""
        read = self.attention_norm(x) if self.is_pre_norm else x
        attended = self.attention(read, visibility, state, columns)
        if columns is not None:
            x, state = take_columns(x, columns), state and state.select(columns)
        x = x + dropout(attended, self.rate, self.site + 1, state)
        if self.is_pre_norm:
            fed = self._feed_forward(self.output_norm(x))
            return x + dropout(fed, self.rate, self.site + 2, state)
        x = self.attention_norm(x)
        fed = self._feed_forward(x)
        return self.output_norm(x + dropout(fed, self.rate, self.site + 2, state))

    @jax.named_scope("feed_forward")
    def _feed_forward(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        inner = self.intermediate(x)
        if not self.is_gated:
            return self.output(self._activate(inner))
        inner, gate = jnp.split(inner, 2, axis=-1)
        return self.output(self._activate(inner) * gate)

    @jax.named_scope("activation")
    def _activate(self, x: Array) -> Array:
        return self.activation(x)


class Pooler(Linear):
    """tanh(linear(x)), of each row's first token, or of each segment's."""

    def __init__(self, config: EncoderConfig, *, compute: Compute, rngs: nnx.Rngs):
        super().__init__(
            config.hidden_size,
            config.hidden_size,
            scale=config.initializer_range,
            compute=compute,
            rngs=rngs,
        )

    @jax.named_scope("pooler")
    def __call__(self, first: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return jnp.tanh(super().__call__(first))


def run_layers(
    layers: Sequence[EncoderLayer],
    x: Float[Array, "B L D"],
    visibility: Visibility,
    state: Dropout | None,
    columns: Int[Array, "B Q"] | None,
    *,
    remat: bool,
) -> tuple[Array, ...]:
    """The input [B, L, D] and each layer's output, in order.

    Where only the tokens in `columns` of the last layer are wanted, it computes no others (but
    their keys and values), and its output is [B, Q, D].

    Args:
      remat: keep only each layer's input for the backward pass.
    """
    run = nnx.remat(EncoderLayer.__call__) if remat else EncoderLayer.__call__
    hidden_states = [x]
    for i, layer in enumerate(layers):
        wanted = columns if i == len(layers) - 1 else None
        with jax.named_scope(f"layer_{i}"):
            hidden_states.append(run(layer, hidden_states[-1], visibility, state, wanted))
    return tuple(hidden_states)
