"""Losses by hand: sums and counts, smoothing, what is ignored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbert.tasks.losses import (
    choice,
    classification,
    multi_label,
    regression,
    soft_classification,
    span,
    token_classification,
)

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


def smoothing(e):
    """Where there is none, it is left out: the default."""
    return {"smoothing": e} if e else {}


def test_cross_entropy_counts_what_weighs():
    total, count = classification(LOGITS, LABELS, jnp.array([1, 1, 0], jnp.float32))
    wanted = negative_log_p(LOGITS[0], 0) + negative_log_p(LOGITS[1], 1)
    assert float(total) == pytest.approx(wanted, rel=1e-6)
    assert float(count) == 2


@pytest.mark.parametrize("e", [0.0, 0.1, 0.5])
def test_label_smoothing(e):
    total, _ = classification(LOGITS, LABELS, jnp.ones(3), **smoothing(e))
    wanted = sum(smoothed(row, label, e) for row, label in zip(LOGITS, LABELS, strict=True))
    assert float(total) == pytest.approx(wanted, rel=1e-6)


def test_loss_is_float32_for_half_precision_logits():
    total, count = classification(jnp.asarray(LOGITS, jnp.bfloat16), LABELS, jnp.ones(3))
    assert total.dtype == count.dtype == jnp.float32


@pytest.mark.parametrize("e", [0.0, 0.1])
def test_tokens_with_minus_100_are_ignored(e):
    labels = jnp.array([[0, -100, 2]], jnp.int32)
    total, count = token_classification(LOGITS[None], labels, **smoothing(e))
    wanted = smoothed(LOGITS[0], 0, e) + smoothed(LOGITS[2], 2, e)
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


@pytest.mark.parametrize("e", [0.0, 0.2])
def test_shares_of_classes(e):
    shares = jnp.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], jnp.float32)
    total, count = soft_classification(
        LOGITS, shares, jnp.array([1, 2, 0], jnp.float32), **smoothing(e)
    )
    wanted = sum(
        weight * ((1 - e) * share + e / 3) * negative_log_p(LOGITS[row], c)
        for row, weight in enumerate((1, 2)) for c, share in enumerate(shares[row].tolist())
    )  # fmt: skip
    assert float(total) == pytest.approx(wanted, rel=1e-6)
    assert float(count) == 3


def test_several_labels_of_a_text():
    labels = jnp.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], jnp.float32)
    total, count = multi_label(LOGITS, labels, jnp.array([1, 3, 0], jnp.float32))
    chance = 1 / (1 + np.exp(-np.asarray(LOGITS, np.float64)))
    each = -np.log(np.where(labels == 1, chance, 1 - chance)).mean(-1)
    assert float(total) == pytest.approx(each[0] + 3 * each[1], rel=1e-5)
    assert float(count) == 4


def test_a_span_is_told_among_the_tokens_of_its_own_segment():
    """Two segments and padding in the first row; the second row has one; a third is in neither."""
    start, end = (
        np.random.default_rng(seed).normal(size=(2, 6)).astype(np.float32) for seed in (0, 1)
    )
    segments = jnp.array([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]], jnp.int32)
    labels = jnp.array([[[0, 2], [3, 4], [0, 0]], [[1, 1], [0, 0], [0, 0]]], jnp.int32)
    weights = jnp.array([[1, 0.5, 0], [2, 0, 0]], jnp.float32)
    total, count = span(jnp.asarray(start), jnp.asarray(end), segments, labels, weights)
    wanted = 0.0
    for row, own, first, last, weight in (
        (0, slice(0, 3), 0, 2, 1), (0, slice(3, 5), 0, 1, 0.5), (1, slice(0, 2), 1, 1, 2)
    ):  # fmt: skip
        both = negative_log_p(start[row, own], first) + negative_log_p(end[row, own], last)
        wanted += weight * both / 2
    assert float(total) == pytest.approx(wanted, rel=1e-5)
    assert float(count) == 3.5


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("e", [0.0, 0.3])
def test_a_choice_is_among_those_that_are_there(e, first):
    """Units of three; of the first two choices are there, of the second all, the third is none."""
    logits = jnp.array([[2.0, -1.0, 7.0, 0.5, 0.0, 1.0, 3.0, 3.0, 3.0]], jnp.float32)
    weights = jnp.array([[1, 1, 0, 1, 1, 1, 0, 0, 0]], jnp.float32)
    labels = jnp.array([[first, 2, -1]], jnp.int32)
    total, count = choice(logits, labels, weights, **smoothing(e))
    wanted = 0.0
    for row, label in (([2.0, -1.0], first), ([0.5, 0.0, 1.0], 2)):
        target = np.full(len(row), e / len(row))
        target[label] += 1 - e
        wanted += sum(t * negative_log_p(row, c) for c, t in enumerate(target))
    assert float(total) == pytest.approx(wanted, rel=1e-6)
    assert float(count) == 2
    # Of a unit that has no choice, too: its share of the gradient is none, and no nan.
    gradient = jax.grad(lambda x: choice(x, labels, weights, smoothing=e)[0])(logits)
    assert not gradient[0, 6:].any()
    assert np.isfinite(gradient).all()


def test_places_may_have_any_number_of_axes():
    """As in a batch, where a row holds several texts."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    shares = jnp.asarray(rng.dirichlet(np.ones(4), (2, 3)), jnp.float32)
    weights = jnp.asarray(rng.random((2, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 4, (2, 3)), jnp.int32)
    for loss, wanted in (
        (lambda *given: classification(*given, smoothing=0.2), labels),
        (lambda *given: soft_classification(*given, smoothing=0.2), shares),
        (multi_label, (shares > 0.3).astype(jnp.float32)),
        (lambda logits, *given: regression(logits[..., :1], *given), shares[..., 0]),
    ):
        flat = (x.reshape(6, *x.shape[2:]) for x in (logits, wanted, weights))
        np.testing.assert_allclose(loss(logits, wanted, weights), loss(*flat), rtol=1e-6)
