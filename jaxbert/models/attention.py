"""Multi-head self-attention: one function, and the module that projects into and out of it."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxbert import cpu
from jaxbert.models.compute import Compute
from jaxbert.models.config import EncoderConfig, Spread
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
from jaxbert.models.kernels.attention_gpu import gpu_attention, gpu_takes
from jaxbert.models.positions import rotate
from jaxbert.models.primitives import Linear, biased, linear, product
from jaxbert.models.visibility import Visibility, take_columns

Biases: TypeAlias = tuple[Array | None, ...]

ATTENTION_SITE = 0  # of the dropout on the probabilities, the first of a layer's


def attention(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B L N H"],
    value: Float[Array, "B L N H"],
    visibility: Visibility = Visibility(),  # noqa: B008 (immutable)
    *,
    biases: Biases = (None, None, None),
    bias: Float[Array, "#B N Q L"] | None = None,
    scale: float | None = None,
    window: int | None = None,
    columns: Int[Array, "B Q"] | None = None,
    rate: float = 0.0,
    site: int = 0,
    dropout: Dropout | None = None,
    compute: Compute | None = None,
) -> Float[Array, "B Q N H"]:
    """softmax(query @ key^T * scale + bias) @ value for each head, the softmax in float32.

    Args:
      visibility: which keys a query sees.
      biases: of query, key and value, [N * H] each, added to them first; None = none.
      bias: added to the scores, for instance of relative positions.
      scale: None = 1 / sqrt(H).
      window: how far from itself a query sees, in columns; None = any distance. Rows of more than
        three windows take time and memory in proportion to L * window.
      columns: where in its row each query stands; None = Q is L, and query i at column i.
      rate, site, dropout: of the dropout on the attention probabilities.

    Returns:
      In `compute.activation_dtype`.

    Reference: transformers' `eager_attention_forward` (BERT). A query with no key to attend to
    attends to all equally there and here, instead of giving NaN.
    """
    compute = (compute or Compute()).resolved()
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    dropping = dropout is not None and rate > 0
    token_bits = attention_token_bits(rate, site, dropout, columns)
    plain = bias is None and window is None and columns is None
    kernel = None
    if plain and tpu_takes(key.shape, compute):
        kernel = tpu_attention
    elif plain and dropping and gpu_takes(key.shape, compute):
        kernel = gpu_attention
    if kernel is not None:
        segments = visibility.segments(*key.shape[:2])
        return kernel(
            query, key, value, segments, token_bits, biases,
            scale=scale, rate=rate, compute=compute,
        )  # fmt: skip
    query, key, value = with_biases((query, key, value), biases)
    query = query * scale
    if window is not None and columns is None and bias is None and 3 * window < key.shape[1]:
        return _local_attention(compute, rate, query, key, value, visibility, window, token_bits)
    visible = visibility.mask(key.shape[1], window, columns)
    if plain and not dropping and cudnn_takes(key.shape, compute):
        return cudnn_attention(query, key, value, visible, compute)
    bits = attention_bits(query.shape[2], token_bits)
    return _attend(compute, rate, query, key, value, bias, visible, bits)


def with_biases(projected: tuple[Array, ...], biases: Biases) -> tuple[Array, ...]:
    """Query, key and value [B, L, N, H] with their biases [N * H] added."""
    return tuple(
        biased(x.reshape(*x.shape[:2], -1), own).reshape(x.shape)
        for x, own in zip(projected, biases, strict=True)
    )


def _local_attention(
    compute: Compute,
    rate: float,
    query: Array,
    key: Array,
    value: Array,
    visibility: Visibility,
    window: int,
    token_bits: Bits | None,
) -> Array:
    """`attention` within a window, in blocks of its size: each sees itself and the two beside it.

    A query that sees no key attends equally to the keys of its blocks, and not to all of the row.
    """
    rows, length, *rest = query.shape
    blocks = -(-length // window)

    def own(x: Array, fill: int = 0) -> Array:
        """[B, L, ...] -> [B * blocks, window, ...]."""
        pad = [(0, 0), (0, blocks * window - length)] + [(0, 0)] * (x.ndim - 2)
        padded = jnp.pad(x, pad, constant_values=fill)
        return padded.reshape(rows * blocks, window, *x.shape[2:])

    def around(x: Array, fill: int = 0) -> Array:
        """[B, L, ...] -> [B * blocks, 3 * window, ...]."""
        each = own(x, fill).reshape(rows, blocks, window, *x.shape[2:])
        ends = [(0, 0), (1, 1)] + [(0, 0)] * (each.ndim - 2)
        each = jnp.pad(each, ends, constant_values=fill)
        three = [each[:, i : i + blocks] for i in range(3)]
        return jnp.concatenate(three, axis=2).reshape(rows * blocks, 3 * window, *x.shape[2:])

    asking, answering = visibility.segments(rows, length)
    # No token answers where padding to whole blocks asks, nor where there is none at the ends.
    seen = own(asking, -1)[:, :, None] == around(answering, -2)[:, None, :]
    columns = jnp.arange(3 * window)
    near = jnp.abs(columns[window : 2 * window, None] - columns[None]) <= window
    bits = token_bits and attention_bits(rest[0], (own(token_bits[0]), around(token_bits[1])))
    out = _attend(
        compute,
        rate,
        own(query),
        around(key),
        around(value),
        None,
        (seen & near[None])[:, None],
        bits,
    )
    return out.reshape(rows, blocks * window, *rest)[:, :length]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    compute: Compute,
    rate: float,
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    visible: Array | None,
    bits: Bits | None,
) -> Array:
    """`attention` of a scaled query, given which keys are visible and the bits of dropout."""
    return _attend_forward(compute, rate, query, key, value, bias, visible, bits)[0]


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
    bias: Array | None,
    visible: Array | None,
    bits: Bits | None,
) -> tuple[Array, Any]:
    # The empty arrays carry the dtypes the gradients must have.
    like = [jnp.zeros((0,), x.dtype) for x in (query, key, value)]
    query, key, value = (x.astype(compute.operand_dtype) for x in (query, key, value))
    scores = _matmul(_rows(query), _columns(key), compute)
    scores = scores.astype(jnp.float32)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    if visible is not None:
        scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(scores, axis=-1)
    out = _matmul(masked(probabilities, bits, rate), _rows(value), compute)
    out = out.swapaxes(1, 2)
    kept = probabilities.astype(compute.operand_dtype)
    # Of the bias only how it was broadcast is needed, and its dtype.
    bias_like = None if bias is None else jnp.zeros((*bias.shape[:2], 0), bias.dtype)
    return out, (query, key, value, bias_like, visible, bits, kept, out, like)


def _attend_backward(compute: Compute, rate: float, residuals: Any, g: Array) -> tuple[Any, ...]:
    query, key, value, bias_like, visible, bits, probabilities, out, like = residuals
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
    d_bias = None if bias_like is None else _summed(d_scores, bias_like)
    d_scores = d_scores.astype(compute.operand_dtype)
    d_query = _matmul(d_scores, _rows(key), compute).transpose(0, 2, 1, 3)
    d_key = _matmul(_columns(query), d_scores, compute).transpose(0, 3, 1, 2)
    dropped = masked(probabilities, bits, rate)
    d_value = _matmul(_columns(g), dropped, compute).transpose(0, 3, 1, 2)
    grads = (d.astype(x.dtype) for d, x in zip((d_query, d_key, d_value), like, strict=True))
    return (*grads, d_bias, None, None)


def _summed(d_scores: Array, like: Array) -> Array:
    """The gradient of a bias [1 or B, N, Q, L] from that of the scores."""
    d_bias = d_scores.sum(axis=0, keepdims=True) if like.shape[0] == 1 else d_scores
    return d_bias.astype(like.dtype)


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
      index: of the layer.
    """

    def __init__(self, config: EncoderConfig, *, index: int, compute: Compute, rngs: nnx.Rngs):
        width = config.hidden_size

        def project(outputs: int, scale: Spread) -> Linear:
            return Linear(
                width,
                outputs,
                scale=scale,
                compute=compute,
                rngs=rngs,
                bias=config.bias,
            )

        if config.fused_projections:
            self.query_key_value = project(3 * width, config.spread)
        else:
            self.query, self.key, self.value = (project(width, config.spread) for _ in range(3))
        self.output = project(width, config.output_spread)
        self.is_fused = config.fused_projections
        self.heads = config.num_attention_heads
        self.rate = config.dropout_rates.probabilities
        self.window = config.window(index)
        self.theta = config.rotary_theta(index)
        self.compute = compute

    @jax.named_scope("attention")
    def __call__(
        self,
        x: Float[Array, "B L D"],
        visibility: Visibility,
        relative: Float[Array, "1 N L L"] | None = None,
        dropout: Dropout | None = None,
        columns: Int[Array, "B Q"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """For the tokens in `columns`, or for all (then Q is L).

        relative: what is added to the scores for where tokens stand to each other.
        """
        query, key, value, biases = self._project(x, columns)
        if self.theta is not None:
            query, key, value = with_biases((query, key, value), biases)
            biases = (None, None, None)
            places = visibility.places(x.shape[1])
            key = rotate(key, places, self.theta)
            query = rotate(query, take_columns(places, columns), self.theta)
        context = attention(
            query,
            key,
            value,
            visibility,
            biases=biases,
            bias=_for_columns(relative, columns),
            window=self.window,
            columns=columns,
            rate=self.rate,
            site=ATTENTION_SITE,
            dropout=dropout,
            compute=self.compute,
        )
        return self.output.unbiased(context.reshape(*query.shape[:2], -1))

    def _project(self, x: Array, columns: Array | None) -> tuple[Array, Array, Array, Biases]:
        """query [B, Q, N, H], key and value [B, L, N, H], and the biases that they are without."""
        if self.is_fused:
            own = self.query_key_value
            query, key, value = jnp.split(own.unbiased(x), 3, axis=-1)
            query = take_columns(query, columns)
            biases: Biases = (None, None, None)
            if own.bias is not None:
                biases = tuple(jnp.split(own.bias[...], 3))
        else:
            projections = (self.query, self.key, self.value)
            if self.compute.platform == "gpu" and columns is None:
                # One product reads x once, and writes what the kernel reads.
                kernel = jnp.concatenate([own.kernel[...] for own in projections], axis=1)
                query, key, value = jnp.split(linear(x, kernel, self.compute), 3, axis=-1)
            else:
                query = self.query.unbiased(take_columns(x, columns))
                key, value = self.key.unbiased(x), self.value.unbiased(x)
            biases = tuple(None if own.bias is None else own.bias[...] for own in projections)
        return self._heads(query), self._heads(key), self._heads(value), biases

    def _heads(self, x: Array) -> Array:
        """[B, L, D] -> [B, L, N, H]."""
        return x.reshape(*x.shape[:2], self.heads, -1)


def _for_columns(relative: Array | None, columns: Array | None) -> Array | None:
    """[1, N, L, L] -> [B, N, Q, L]: the rows of the tokens that ask."""
    if relative is None or columns is None:
        return relative
    return jnp.take(relative[0], columns, axis=1).swapaxes(0, 1)
