"""The body of an encoder: embeddings, layers, pooler."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxbert.models.attention import SelfAttention
from jaxbert.models.compute import Compute
from jaxbert.models.config import EncoderConfig, Spread
from jaxbert.models.dropout import Dropout, dropout
from jaxbert.models.positions import rows_of_table
from jaxbert.models.primitives import Embedding, LayerNorm, Linear, activation_function
from jaxbert.models.residual import Branch, add, add_and_norm
from jaxbert.models.visibility import Visibility, take_columns

# Dropout sites: of the network, and of a layer beside that of its attention, counted from its own.
EMBEDDINGS_SITE = 0
SITES_PER_LAYER = 3
_ATTENDED_SITE, _FED_SITE = 1, 2


class Embeddings(nnx.Module):
    """Word + position + token type, normalized, and projected where they are of another width."""

    def __init__(self, config: EncoderConfig, *, compute: Compute, rngs: nnx.Rngs):
        width, scale = config.embedding_width, config.spread

        def table(size: int, padding_index: int | None = None) -> Embedding:
            return Embedding(
                size, width, scale=scale, compute=compute, rngs=rngs, padding_index=padding_index
            )

        self.word_embeddings = table(config.vocab_size, config.pad_token_id)
        self.position_embeddings = (
            table(config.position_rows, config.position_padding) if config.position_rows else None
        )
        self.token_type_embeddings = (
            table(config.type_vocab_size) if config.type_vocab_size else None
        )
        self.layer_norm = LayerNorm(
            width, epsilon=config.layer_norm_eps, compute=compute, bias=config.bias
        )
        self.projection = (
            Linear(width, config.hidden_size, scale=scale, compute=compute, rngs=rngs)
            if config.projects_embeddings
            else None
        )
        self.rate = config.dropout_rates.embeddings
        self.position_padding = config.position_padding

    @jax.named_scope("embeddings")
    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        token_type_ids: Int[Array, "B L"] | None,
        position_ids: Int[Array, "#B L"] | None,
        segment_ids: Int[Array, "B L"] | None,
        state: Dropout | None,
    ) -> Float[Array, "B L D"]:
        x = self.word_embeddings(input_ids)
        if self.token_type_embeddings is not None:
            if token_type_ids is None:
                token_type_ids = jnp.zeros_like(input_ids)
            x = x + self.token_type_embeddings(token_type_ids)
        if self.position_embeddings is not None:
            if position_ids is None:
                position_ids = rows_of_table(input_ids, segment_ids, self.position_padding)
            x = x + self.position_embeddings(position_ids)
        x = dropout(self.layer_norm(x), self.rate, EMBEDDINGS_SITE, state)
        return x if self.projection is None else self.projection(x)

    def relative(self, length: int) -> Array | None:
        """What attention is told of how tokens stand to each other, the same in all layers.

        A family that has such embeddings replaces it.
        """
        del length
        return None


def _as_it_is(x: Array) -> Array:
    """The norm of a layer that has none."""
    return x


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, each with dropout and a residual sum around it.

    Post-norm: x = norm(x + block(x)), as BERT. Pre-norm: x = x + block(norm(x)).
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        index: int,
        attention: Callable[..., SelfAttention],
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        width, inner = config.hidden_size, config.intermediate_size

        def linear(inputs: int, outputs: int, scale: Spread) -> Linear:
            return Linear(
                inputs, outputs, scale=scale, compute=compute, rngs=rngs, bias=config.bias
            )

        def norm() -> LayerNorm:
            epsilon = config.layer_norm_eps
            return LayerNorm(width, epsilon=epsilon, compute=compute, bias=config.bias)

        self.is_gated = config.feed_forward == "gated"
        self.is_pre_norm = config.norm == "pre"
        self.attention = attention(config, index=index, compute=compute, rngs=rngs)
        self.attention_norm = norm() if index or config.first_norm else _as_it_is
        self.intermediate = linear(width, 2 * inner if self.is_gated else inner, config.spread)
        self.output = linear(inner, width, config.output_spread)
        self.output_norm = norm()
        self.activation = activation_function(config.hidden_act, compute)
        self.rates = config.dropout_rates

    def __call__(
        self,
        x: Float[Array, "B L D"],
        visibility: Visibility,
        relative: Array | None = None,
        state: Dropout | None = None,
        columns: Int[Array, "B Q"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """For the tokens in `columns`, or for all (then Q is L)."""
        read = self.attention_norm(x) if self.is_pre_norm else x
        attended = self.attention(read, visibility, relative, state, columns)
        if columns is not None:
            x, state = take_columns(x, columns), state and state.select(columns)
        bias = self.attention.output.bias
        branch = Branch(attended, bias, self.rates.attention, _ATTENDED_SITE, state)
        if self.is_pre_norm:
            x = add(x, branch)
            read = self.output_norm(x)
        else:
            x = read = add_and_norm(x, branch, self.attention_norm)
        fed = self._feed_forward(read, state)
        branch = Branch(fed, self.output.bias, self.rates.output, _FED_SITE, state)
        return add(x, branch) if self.is_pre_norm else add_and_norm(x, branch, self.output_norm)

    @jax.named_scope("feed_forward")
    def _feed_forward(self, x: Float[Array, "B Q D"], state: Dropout | None) -> Array:
        """Without its last bias."""
        inner = self.intermediate(x)
        if self.is_gated:
            inner, gate = jnp.split(inner, 2, axis=-1)
            inner = self._activate(inner) * gate
        else:
            inner = self._activate(inner)
        return self.output.unbiased(dropout(inner, self.rates.inner, _FED_SITE, state))

    @jax.named_scope("activation")
    def _activate(self, x: Array) -> Array:
        return self.activation(x)


def segment_means(
    hidden: Float[Array, "B L D"], segment_ids: Int[Array, "B L"], segments: int
) -> Float[Array, "B S D"]:
    """The mean over the tokens of each of the segments 1 ... S, in float32; 0 of no tokens."""
    numbers = jnp.arange(1, segments + 1)
    member = (segment_ids[:, None, :] == numbers[None, :, None]).astype(jnp.float32)
    totals = jnp.einsum(
        "bsl,bld->bsd", member, hidden.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    return totals / jnp.maximum(member.sum(-1), 1)[..., None]


class Pooler(Linear):
    """tanh(linear(x)), of each row's first token, or of each segment's."""

    def __init__(self, config: EncoderConfig, *, compute: Compute, rngs: nnx.Rngs):
        super().__init__(
            config.hidden_size,
            config.hidden_size,
            scale=config.spread,
            compute=compute,
            rngs=rngs,
        )

    @jax.named_scope("pooler")
    def __call__(self, first: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return jnp.tanh(super().__call__(first))
