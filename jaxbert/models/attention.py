"""Multi-head self-attention: one function, and the module that projects into and out of it."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxbert.models.config import BertConfig, Compute
from jaxbert.models.dropout import (
    Dropout,
    attention_bits,
    attention_token_bits,
    masked,
    recomputed,
)
from jaxbert.models.fused import cudnn_attention, cudnn_takes, tpu_attention, tpu_takes
from jaxbert.models.primitives import Linear, product

Array = jax.Array


def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    attention_mask: Array | None = None,
    segment_ids: Array | None = None,
    columns: Array | None = None,
    rate: float = 0.0,
    site: int = 0,
    dropout: Dropout | None = None,
    compute: Compute = Compute(),  # noqa: B008 (frozen)
) -> Array:
    """softmax(query @ key^T / sqrt(H)) @ value for each head, the softmax in float32.

    Args:
      query: [B, Q, N, H]. key, value: [B, L, N, H].
      attention_mask: [B, L] 1 = may be attended to, 0 = padding.
      segment_ids: [B, L] int; a token sees the tokens of its own segment. Excludes attention_mask.
      columns: [B, Q], where in its row each query stands; None = Q is L, and query i at column i.
      rate, site, dropout: of the dropout on the attention probabilities.

    Returns:
      [B, Q, N, H] in `compute.activation_dtype`.

    Reference: transformers' `eager_attention_forward` (BERT). A query with no key to attend to
    attends to all equally there and here, instead of giving NaN.
    """
    if segment_ids is not None and attention_mask is not None:
        raise ValueError(
            "attention_mask and segment_ids exclude each other: segment id 0 already marks "
            "padding; leave attention_mask out"
        )
    query = query * query.shape[-1] ** -0.5
    dropping = dropout is not None and rate > 0
    if columns is None and tpu_takes(key.shape, compute):
        segments = _segments(key, attention_mask, segment_ids)
        bits = attention_token_bits(rate, site, dropout)
        return tpu_attention(query, key, value, segments, bits, rate=rate, compute=compute)
    visible = _visible(attention_mask, segment_ids, columns)
    if columns is None and not dropping and cudnn_takes(key.shape, compute):
        return cudnn_attention(query, key, value, visible, compute)
    bits = attention_bits(query.shape[2], rate, site, dropout, columns)
    return _attend(compute, rate, query, key, value, visible, bits)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(compute: Compute, rate: float, query, key, value, visible, bits) -> Array:
    """`attention` of a scaled query, given which keys are visible and the bits of dropout."""
    return _attend_forward(compute, rate, query, key, value, visible, bits)[0]


# Both passes are written out so that every one of the six products, backward too, is of a left
# [.., M, K] by a right [.., K, P]: bfloat16 on CPUs has fast products for these only, and turning
# operands of width H around is cheaper than turning probabilities. For the same reason the backward
# pass takes the gradients of key and value as [B, N, H, L].


def _attend_forward(compute, rate, query, key, value, visible, bits):
    # The empty arrays carry the dtypes the gradients must have.
    like = [jnp.zeros((0,), x.dtype) for x in (query, key, value)]
    query, key, value = (x.astype(compute.operand_dtype) for x in (query, key, value))
    scores = _matmul(_rows(query), _columns(key), compute)
    scores = scores.astype(jnp.float32)
    if visible is not None:
        scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(scores, axis=-1)
    out = _matmul(masked(probabilities, bits, rate), _rows(value), compute)
    out = out.swapaxes(1, 2)
    kept = probabilities.astype(compute.operand_dtype)
    return out, (query, key, value, visible, bits, kept, out, like)


def _attend_backward(compute, rate, residuals, g):
    query, key, value, visible, bits, probabilities, out, like = residuals
    bits = recomputed(bits)
    # sum over keys of probability * its gradient, by way of the output: H terms and not L.
    mean = (g.astype(jnp.float32) * out).sum(axis=-1, keepdims=True).swapaxes(1, 2)
    g = g.astype(compute.operand_dtype)
    d_dropped = _matmul(_rows(g), _columns(value), compute)
    d_scores = probabilities * (masked(d_dropped.astype(jnp.float32), bits, rate) - mean)
    if visible is not None:
        d_scores = jnp.where(visible, d_scores, 0)
    d_scores = d_scores.astype(compute.operand_dtype)
    d_query = _matmul(d_scores, _rows(key), compute).transpose(0, 2, 1, 3)
    d_key = _matmul(_columns(query), d_scores, compute).transpose(0, 3, 1, 2)
    dropped = masked(probabilities, bits, rate)
    d_value = _matmul(_columns(g), dropped, compute).transpose(0, 3, 1, 2)
    grads = (d.astype(x.dtype) for d, x in zip((d_query, d_key, d_value), like, strict=True))
    return (*grads, None, None)


_attend.defvjp(_attend_forward, _attend_backward)


def _matmul(a: Array, b: Array, compute: Compute) -> Array:
    """[B, N, M, K] @ [B, N, K, P]."""
    if not compute.on_cpu or compute.operand_dtype == jnp.float32:
        return product("bnmk,bnkp->bnmp", a, b, compute)
    # XLA would make a transposition of an operand part of the product, and find no bfloat16 product
    # for what comes out; past a reshape it does not.
    heads = (x.reshape(-1, *x.shape[2:]) for x in (a, b))
    return product("gmk,gkp->gmp", *heads, compute).reshape(*a.shape[:3], b.shape[3])


def _rows(x: Array) -> Array:
    """[B, L, N, H] -> [B, N, L, H]."""
    return x.transpose(0, 2, 1, 3)


def _columns(x: Array) -> Array:
    """[B, L, N, H] -> [B, N, H, L]."""
    return x.transpose(0, 2, 3, 1)


def _visible(
    attention_mask: Array | None, segment_ids: Array | None, columns: Array | None
) -> Array | None:
    """Which key each query sees: [B, 1, 1 or Q, L] bool, None = all."""
    if segment_ids is not None:
        asking = take_columns(segment_ids, columns)
        return (asking[:, :, None] == segment_ids[:, None, :])[:, None]
    if attention_mask is not None:
        return (attention_mask != 0)[:, None, None, :]
    return None


def _segments(
    key: Array, attention_mask: Array | None, segment_ids: Array | None
) -> tuple[Array, Array]:
    """The same as `_visible`, in segments: of queries and of keys, [B, L] int32."""
    if segment_ids is not None:
        return segment_ids, segment_ids
    everyone = jnp.ones(key.shape[:2], jnp.int32)
    if attention_mask is not None:
        return everyone, (attention_mask != 0).astype(jnp.int32)
    return everyone, everyone


def take_columns(x: Array, columns: Array | None) -> Array:
    """[B, L, ...] -> [B, Q, ...]: each row's `columns` [B, Q]; None = all."""
    if columns is None:
        return x
    return jnp.take_along_axis(x, columns.reshape(columns.shape + (1,) * (x.ndim - 2)), axis=1)


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
        columns: Array | None = None,
    ) -> Array:
        """x [B, L, D] -> [B, Q, D] for the tokens in `columns` [B, Q], or for all."""
        asking = take_columns(x, columns)
        query = self._split_heads(self.query(asking))
        key, value = (self._split_heads(project(x)) for project in (self.key, self.value))
        context = attention(
            query,
            key,
            value,
            attention_mask=attention_mask,
            segment_ids=segment_ids,
            columns=columns,
            rate=self.rate,
            site=self.site,
            dropout=dropout,
            compute=self.compute,
        )
        return self.output(context.reshape(asking.shape))

    def _split_heads(self, x: Array) -> Array:
        """[B, L, D] -> [B, L, N, H]."""
        return x.reshape(*x.shape[:2], self.heads, -1)
