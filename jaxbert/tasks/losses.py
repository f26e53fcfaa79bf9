"""Losses as (sum, count) in float32: means are taken once, after everything has been added up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxbert.data.batching import IGNORED_LABEL
from jaxbert.errors import InputError

# A finite number: of what has nothing present the softmax must not be nan, nor its gradient.
_ABSENT = -1e30
SumAndCount = tuple[Float[Array, ""], Float[Array, ""]]


def classification(
    logits: Float[Array, "*places C"],
    labels: Int[Array, "*places"],
    weights: Float[Array, "*places"],
    *,
    smoothing: float = 0.0,
) -> SumAndCount:
    """Cross-entropy of logits with integer labels, each times its weight.

    With label smoothing e the target is 1 - e + e/C for the label and e/C elsewhere (Szegedy et al.
    2016), as PyTorch's `label_smoothing`.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    of_label = jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    loss = -(1 - smoothing) * of_label - smoothing * log_p.mean(axis=-1)
    return (loss * weights).sum(), weights.sum()


def soft_classification(
    logits: Float[Array, "*places C"],
    shares: Float[Array, "*places C"],
    weights: Float[Array, "*places"],
    *,
    smoothing: float = 0.0,
) -> SumAndCount:
    """Cross-entropy of logits with a share for each class, each times its weight.

    With label smoothing e the target is (1 - e) share + e/C, as PyTorch's `label_smoothing`.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    target = (1 - smoothing) * shares + smoothing / logits.shape[-1]
    loss = -(target * log_p).sum(axis=-1)
    return (loss * weights).sum(), weights.sum()


def multi_label(
    logits: Float[Array, "*places C"],
    labels: Float[Array, "*places C"],
    weights: Float[Array, "*places"],
) -> SumAndCount:
    """Binary cross-entropy of each logit with a 0 or 1, the mean over the labels of a text.

    As PyTorch's `BCEWithLogitsLoss`, which Hugging Face takes for several labels.
    """
    logits = logits.astype(jnp.float32)
    loss = -labels * jax.nn.log_sigmoid(logits) - (1 - labels) * jax.nn.log_sigmoid(-logits)
    return (loss.mean(axis=-1) * weights).sum(), weights.sum()


def token_classification(
    logits: Float[Array, "B L C"], labels: Int[Array, "B L"], *, smoothing: float = 0.0
) -> SumAndCount:
    """`classification` of tokens, those labelled -100 ignored.

    Masked language modelling is the same with the vocabulary for classes.
    """
    counted = labels != IGNORED_LABEL
    return classification(
        logits, jnp.where(counted, labels, 0), counted.astype(jnp.float32), smoothing=smoothing
    )


def span(
    start_logits: Float[Array, "B L"],
    end_logits: Float[Array, "B L"],
    segment_ids: Int[Array, "B L"],
    labels: Int[Array, "B S 2"],
    weights: Float[Array, "B S"],
) -> SumAndCount:
    """Mean of the cross-entropies of a feature's first and last token, times its weight.

    The softmax is over the tokens of the feature's own segment. Hugging Face's is over the row,
    which there holds one feature and its padding: padding takes a share of the probability, so that
    its losses are a little larger and depend on how far a batch is padded; without padding they are
    equal.

    Args:
      segment_ids: 1 to S, 0 for padding.
      labels: the row's columns of both tokens.
    """
    segments = jnp.arange(1, labels.shape[1] + 1, dtype=segment_ids.dtype)
    own = segment_ids[:, None, :] == segments[None, :, None]  # [B, S, L]

    def cross_entropy(logits: Array, columns: Array) -> Array:
        logits = logits.astype(jnp.float32)
        total = jax.nn.logsumexp(jnp.where(own, logits[:, None, :], _ABSENT), axis=-1)
        present = own.any(axis=-1)
        return jnp.where(present, total - jnp.take_along_axis(logits, columns, axis=1), 0.0)

    first = cross_entropy(start_logits, labels[..., 0])
    last = cross_entropy(end_logits, labels[..., 1])
    return ((first + last) / 2 * weights).sum(), weights.sum()


def choice(
    logits: Float[Array, "B S"],
    labels: Int[Array, "B U"],
    weights: Float[Array, "B S"],
    *,
    smoothing: float = 0.0,
) -> SumAndCount:
    """Cross-entropy of which segment of a unit is the right one; a unit is S / U of them in order.

    Segments of weight 0 are absent and get no probability, units labelled -1 are, and do not count.
    With label smoothing e the target is 1 - e + e/n for the right one of the n that are there.
    """
    shape = (*labels.shape, logits.shape[1] // labels.shape[1])
    there = (weights > 0).reshape(shape)
    log_p = jax.nn.log_softmax(
        jnp.where(there, logits.astype(jnp.float32).reshape(shape), _ABSENT), axis=-1
    )
    counted = labels >= 0
    right = jnp.where(counted, labels, 0)[..., None]
    of_label = jnp.take_along_axis(log_p, right, axis=-1)[..., 0]
    number = jnp.maximum(there.sum(axis=-1), 1).astype(jnp.float32)
    mean = jnp.where(there, log_p, 0).sum(axis=-1) / number
    loss = jnp.where(counted, -(1 - smoothing) * of_label - smoothing * mean, 0)
    return loss.sum(), counted.sum().astype(jnp.float32)


def regression(
    logits: Float[Array, "*places 1"],
    labels: Float[Array, "*places"],
    weights: Float[Array, "*places"],
    *,
    smoothing: float = 0.0,
) -> SumAndCount:
    """Squared error of logits and labels, each times its weight."""
    if smoothing:
        raise InputError(f"label_smoothing={smoothing} has no meaning for regression; use 0")
    error = logits[..., 0].astype(jnp.float32) - labels
    return (jnp.square(error) * weights).sum(), weights.sum()
