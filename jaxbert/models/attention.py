"""Multi-head self-attention: one function, and the module that projects into and out of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxbert import cpu
from jaxbert.models.config import Compute, EncoderConfig
from jaxbert.models.dropout import (
    Bits,
    Dropout,
    attention_bits,
    attention_token_bits,
    masked,
    recomputed,
)
from jaxbert.models.kernels.attention import (
    cudnn_attention,
    cudnn_takes,
    tpu_attention,
    tpu_takes,
)
from jaxbert.models.primitives import Linear, product
from jaxbert.models.visibility import Visibility, take_columns


def attention(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B L N H"],
    value: Float[Array, "B L N H"],
    visibility: Visibility = Visibility(),  # noqa: B008 (immutable)
    *,
    window: int | None = None,
    columns: Int[Array, "B Q"] | None = None,
    rate: float = 0.0,
    site: int = 0,
    dropout: Dropout | None = None,
    compute: Compute | None = None,
) -> Float[Array, "B Q N H"]:
    """softmax(query @ key^T / sqrt(H)) @ value for each head, the softmax in float32.

    Args:
      visibility: which keys a query sees.
      window: how far from itself a query sees, in positions; None = any distance.
      columns: where in its row each query stands; None = Q is L, and query i at column i.
      rate, site, dropout: of the dropout on the attention probabilities.

    Returns:
      In `compute.activation_dtype`.

    Reference: transformers' `eager_attention_forward` (BERT). A query with no key to attend to
    attends to all equally there and here, instead of giving NaN.
    """
    compute = (compute or Compute()).resolved()
    query = query * query.shape[-1] ** -0.5
    dropping = dropout is not None and rate > 0
    if columns is None and window is None and tpu_takes(key.shape, compute):
        segments = visibility.segments(*key.shape[:2])
        bits = attention_token_bits(rate, site, dropout)
        return tpu_attention(query, key, value, segments, bits, rate=rate, compute=compute)
    visible = visibility.mask(key.shape[1], window, columns)
    if columns is None and not dropping and cudnn_takes(key.shape, compute):
        return cudnn_attention(query, key, value, visible, compute)
    bits = attention_bits(query.shape[2], rate, site, dropout, columns)
    return _attend(compute, rate, query, key, value, visible, bits)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    compute: Compute,
    rate: float,
    query: Array,
    key: Array,
    value: Array,
    visible: Array | None,
    bits: Bits | None,
) -> Array:
    """`attention` of a scaled query, given which keys are visible and the bits of dropout."""
    return _attend_forward(compute, rate, query, key, value, visible, bits)[0]


# Both passes are written out so that every one of the six products, backward too, is of a left
# [.., M, K] by a right [.., K, P]: bfloat16 on CPUs has fast products for these only, and turning
# operands of width H around is cheaper than turning probabilities. For the same reason the backward
# pass takes the gradients of key and value as [B, N, H, L].


def _attend_forward(
    compute: Compute,
    rate: float,
    query: Array,
    key: Array,
    value: Array,
    visible: Array | None,
    bits: Bits | None,
) -> tuple[Array, Any]:
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


def _attend_backward(compute: Compute, rate: float, residuals: Any, g: Array) -> tuple[Any, ...]:
    query, key, value, visible, bits, probabilities, out, like = residuals
    bits = recomputed(bits)
    # sum over keys of probability * its gradient, by way of the output: H terms and not L.
    products = g.astype(jnp.float32) * out.astype(jnp.float32)
    mean = products.sum(axis=-1, keepdims=True).swapaxes(1, 2)
    g = g.astype(compute.operand_dtype)
    d_dropped = _matmul(_rows(g), _columns(value), compute)
    d_probabilities = masked(d_dropped.astype(jnp.float32), bits, rate)
    d_scores = probabilities.astype(jnp.float32) * (d_probabilities - mean)
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
    return cpu.by_heads(a, b, lambda a, b: product("gmk,gkp->gmp", a, b, compute))


def _rows(x: Array) -> Array:
    """[B, L, N, H] -> [B, N, L, H]."""
    return x.transpose(0, 2, 1, 3)


def _columns(x: Array) -> Array:
    """[B, L, N, H] -> [B, N, H, L]."""
    return x.transpose(0, 2, 3, 1)


class SelfAttention(nnx.Module):
    """Projects [B, L, D] to N heads, attends, and projects back.

    Args:
      site: of the dropout on its probabilities.
      window: see `attention`.
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        site: int,
        window: int | None,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
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
        self.window = window
        self.compute = compute

    @jax.named_scope("attention")
    def __call__(
        self,
        x: Float[Array, "B L D"],
        visibility: Visibility,
        dropout: Dropout | None = None,
        columns: Int[Array, "B Q"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """For the tokens in `columns`, or for all (then Q is L)."""
        asking = take_columns(x, columns)
        query = self._split_heads(self.query(asking))
        key, value = (self._split_heads(project(x)) for project in (self.key, self.value))
        context = attention(
            query,
            key,
            value,
            visibility,
            window=self.window,
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
