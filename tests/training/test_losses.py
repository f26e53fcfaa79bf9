"""Losses by hand: sums and counts, smoothing, what is ignored."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxbert.tasks.losses import classification, regression, token_classification

LOGITS = jnp.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0], [9.0, -9.0, 0.0]], jnp.float32)
LABELS = jnp.array([0, 1, 2], jnp.int32)


def negative_log_p(row, label):
    row = np.asarray(row, np.float64)
    return np.log(np.exp(row).sum()) - row[label]


def smoothed(row, label, e):
    """Cross-entropy with 1 - e + e/C on the label and e/C on every other class."""
    target = np.full(3, e / 3)
    target[label] += 1 - e
    return sum(t * negative_log_p(row, c) for c, t in enumerate(target))


def test_cross_entropy_counts_what_weighs():
    total, count = classification(LOGITS, LABELS, jnp.array([1, 1, 0], jnp.float32))
    wanted = negative_log_p(LOGITS[0], 0) + negative_log_p(LOGITS[1], 1)
    assert float(total) == pytest.approx(wanted, rel=1e-6)
    assert float(count) == 2


@pytest.mark.parametrize("e", [0.0, 0.1, 0.5])
def test_label_smoothing(e):
    total, _ = classification(LOGITS, LABELS, jnp.ones(3), smoothing=e)
    wanted = sum(smoothed(row, label, e) for row, label in zip(LOGITS, LABELS, strict=True))
    assert float(total) == pytest.approx(wanted, rel=1e-6)


def test_loss_is_float32_for_half_precision_logits():
    total, count = classification(jnp.asarray(LOGITS, jnp.bfloat16), LABELS, jnp.ones(3))
    assert total.dtype == count.dtype == jnp.float32


def test_tokens_with_minus_100_are_ignored():
    labels = jnp.array([[0, -100, 2]], jnp.int32)
    total, count = token_classification(LOGITS[None], labels, smoothing=0.1)
    wanted = smoothed(LOGITS[0], 0, 0.1) + smoothed(LOGITS[2], 2, 0.1)
    assert float(total) == pytest.approx(wanted, rel=1e-6)
    assert float(count) == 2


def test_regression_is_the_squared_error():
    logits = jnp.array([[[1.0], [2.0]], [[-1.0], [7.0]]], jnp.float32)
    labels = jnp.array([[0.5, 4.0], [-1.0, 0.0]], jnp.float32)
    weights = jnp.array([[1, 1], [1, 0]], jnp.float32)
    total, count = regression(logits, labels, weights)
    assert float(total) == pytest.approx(0.25 + 4 + 0)
    assert float(count) == 3


def test_smoothing_a_regression_is_refused():
    with pytest.raises(ValueError, match=r"label_smoothing=0.1 has no meaning for regression"):
        regression(LOGITS[:, :1], LABELS.astype(jnp.float32), jnp.ones(3), smoothing=0.1)
