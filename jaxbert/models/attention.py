"""Multi-head self-attention: one function, and the module that projects into and out of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxbert.models.config import BertConfig, Compute
from jaxbert.models.dropout import Dropout, attention_dropout
from jaxbert.models.primitives import Linear, product

Array = jax.Array


def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    attention_mask: Array | None = None,
    segment_ids: Array | None = None,
    rate: float = 0.0,
    site: int = 0,
    dropout: Dropout | None = None,
    compute: Compute = Compute(),  # noqa: B008 (frozen)
) -> Array:
    """softmax(query @ key^T / sqrt(H)) @ value, the softmax in float32.

    Args:
      query, key, value: [B, N, L, H].
      attention_mask: [B, L] 1 = may be attended to, 0 = padding.
      segment_ids: [B, L] int; a token sees the tokens of its own segment. Excludes attention_mask.
      rate, site, dropout: of the dropout on the attention probabilities.

    Returns:
      [B, N, L, H] in `compute.activation_dtype`.

    Reference: transformers' `eager_attention_forward` (BERT). A query with no key to attend to
    attends to all equally there and here, instead of giving NaN.
    """
    scores = product("bnqh,bnkh->bnqk", query * query.shape[-1] ** -0.5, key, compute)
    scores = scores.astype(jnp.float32)
    visible = _visible(attention_mask, segment_ids)
    if visible is not None:
        scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(scores, axis=-1)
    probabilities = attention_dropout(probabilities, rate, site, dropout)
    return product("bnqk,bnkh->bnqh", probabilities, value, compute)


def _visible(attention_mask: Array | None, segment_ids: Array | None) -> Array | None:
    """Which key each query sees: [B, 1, 1 or L, L] bool, None = all."""
    if segment_ids is not None:
        if attention_mask is not None:
            raise ValueError(
                "attention_mask and segment_ids exclude each other: segment id 0 already marks "
                "padding; leave attention_mask out"
            )
        return (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
    if attention_mask is not None:
        return (attention_mask != 0)[:, None, None, :]
    return None


class SelfAttention(nnx.Module):
    """Projects [B, L, D] to N heads, attends, and projects back."""

    def __init__(self, config: BertConfig, *, site: int, compute: Compute, rngs: nnx.Rngs):
        def project() -> Linear:
            return Linear(
                config.hidden_size,
                config.hidden_size,
                scale=config.initializer_range,
                compute=compute,
                rngs=rngs,
            )

        self.query, self.key, self.value, self.output = (project() for _ in range(4))
        self.heads = config.num_attention_heads
        self.rate = config.attention_probs_dropout_prob
        self.site = site
        self.compute = compute

    def __call__(
        self,
        x: Array,
        attention_mask: Array | None,
        segment_ids: Array | None,
        dropout: Dropout | None,
    ) -> Array:
        query, key, value = (
            self._split_heads(project(x)) for project in (self.query, self.key, self.value)
        )
        context = attention(
            query,
            key,
            value,
            attention_mask=attention_mask,
            segment_ids=segment_ids,
            rate=self.rate,
            site=self.site,
            dropout=dropout,
            compute=self.compute,
        )
        return self.output(context.swapaxes(1, 2).reshape(x.shape))

    def _split_heads(self, x: Array) -> Array:
        """[B, L, D] -> [B, N, L, H]."""
        return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)
