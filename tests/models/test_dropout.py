"""The dropout mask: rate, independence, and that it depends on nothing but what it names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hash_by_hand import GOLDEN, WORD, key_by_hand, mixed, token_by_hand
from tolerance import assert_close

from jaxbert.models.dropout import (
    Dropout,
    attention_bits,
    attention_token_bits,
    dropout,
    dropout_key,
    masked,
    mix,
)

RATE = 0.1


def state(rows=64, length=128, seed=0, step=0, first=0):
    index = first + jnp.arange(rows * length, dtype=jnp.uint32).reshape(rows, length)
    return Dropout(dropout_key(seed, step), index)


def kept(site=1, width=96, rate=RATE, **kwargs):
    s = state(**kwargs)
    return np.asarray(dropout(jnp.ones((*s.token_index.shape, width)), rate, site, s)) != 0


def attention_kept(s, heads=12):
    bits = attention_bits(heads, attention_token_bits(RATE, 1, s))
    rows, length = s.token_index.shape
    return np.asarray(masked(jnp.ones((rows, heads, length, length)), bits, RATE)) != 0


def correlation(a, b):
    """Standard deviations from independence of two masks of the same shape."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    return float((a * b).mean() / (a.std() * b.std()) * np.sqrt(a.size))


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_rate_and_scale(rate):
    s = state()
    out = np.asarray(dropout(jnp.ones((64, 128, 96)), rate, 1, s))
    deviations = ((out == 0).mean() - rate) / np.sqrt(rate * (1 - rate) / out.size)
    assert abs(deviations) < 4
    np.testing.assert_allclose(out[out != 0], 1 / (1 - rate), rtol=1e-6)


def test_attention_rate():
    mask = attention_kept(state(rows=8))
    assert abs(((~mask).mean() - RATE) / np.sqrt(RATE * (1 - RATE) / mask.size)) < 4


def test_masks_of_sites_steps_and_seeds_are_independent():
    base = kept()
    for other in (kept(site=2), kept(site=3), kept(step=1), kept(step=2), kept(seed=1)):
        assert abs(correlation(base, other)) < 4


def test_neighbours_are_independent():
    mask = kept()
    for axis in range(3):
        for lag in (1, 2, 4, 8, 16, 32):
            head = np.take(mask, range(mask.shape[axis] - lag), axis)
            tail = np.take(mask, range(lag, mask.shape[axis]), axis)
            assert abs(correlation(head, tail)) < 4.5, (axis, lag)


def test_attention_neighbours_and_heads_are_independent():
    mask = attention_kept(state(rows=8))
    for axis in range(4):
        for lag in (1, 2, 4):
            head = np.take(mask, range(mask.shape[axis] - lag), axis)
            tail = np.take(mask, range(lag, mask.shape[axis]), axis)
            assert abs(correlation(head, tail)) < 4.5, (axis, lag)
    above = np.triu_indices(128, 1)
    transposed = mask.swapaxes(2, 3)
    assert abs(correlation(mask[..., *above], transposed[..., *above])) < 4.5


def test_each_row_and_column_has_the_rate():
    """No token and no feature is dropped more often than chance allows."""
    mask = ~kept(rows=128)
    for axes in ((0, 1), (0, 2), (1, 2)):
        rates = mask.mean(axes)
        samples = mask.size / rates.size
        z = (rates - RATE) / np.sqrt(RATE * (1 - RATE) / samples)
        assert np.abs(z).max() < 5
        assert 0.6 < z.var() < 1.4 or rates.size < 200


def test_depends_on_the_token_not_on_its_place():
    s = state(rows=4, length=8)
    order = np.array([2, 0, 3, 1])
    x = jnp.ones((4, 8, 16))
    moved = Dropout(s.key, s.token_index[order])
    np.testing.assert_array_equal(dropout(x, RATE, 1, s)[order], dropout(x, RATE, 1, moved))


def test_the_backward_pass_uses_the_same_mask():
    s = state(rows=2, length=8)
    x = jax.random.normal(jax.random.key(0), (2, 8, 16))
    out, grad = jax.value_and_grad(lambda x: dropout(x, RATE, 1, s).sum())(x)
    np.testing.assert_allclose(grad, dropout(jnp.ones_like(x), RATE, 1, s))
    assert_close(out, (grad * x).sum(), terms=x.size, scale=np.linalg.norm(grad * x))


def test_none_and_zero_are_the_identity():
    x = jnp.ones((2, 3, 4))
    assert dropout(x, RATE, 1, None) is x
    assert dropout(x, 0.0, 1, state(2, 3)) is x
    assert attention_token_bits(RATE, 1, None) is None
    assert attention_token_bits(0.0, 1, state(2, 3)) is None
    assert attention_bits(2, None) is None
    assert masked(x, None, RATE) is x


def test_mix_is_a_bijection_with_good_avalanche():
    x = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    assert len(np.unique(mix(jnp.arange(1 << 16)))) == 1 << 16
    base = np.asarray(mix(jnp.asarray(x)))
    for bit in range(32):
        flipped = base ^ np.asarray(mix(jnp.asarray(x ^ np.uint32(1 << bit))))
        changed = ((flipped[:, None] >> np.arange(32)) & 1).mean(0)
        assert np.abs(changed - 0.5).max() < 0.03, bit


# The masks by hand: they are those that they always were.


def test_mix_is_the_published_function():
    values = [0, 1, 2, 0x8000, 0x12345678, 0xDEADBEEF, WORD - 1]
    assert mix(jnp.array(values, jnp.uint32)).tolist() == [mixed(value) for value in values]


def test_a_mask_is_the_one_it_always_was():
    seed, step, site, first, rate = 5, 7, 3, 11, 0.4
    s, key = state(2, 4, seed=seed, step=step, first=first), key_by_hand(seed, step)
    assert int(s.key) == key
    out = dropout(jnp.ones((2, 4, 6)), rate, site, s)
    assert jnp.array_equal(out, dropout(jnp.ones((2, 4, 6)), rate, site - 2, s.from_site(2)))
    limit = round((1 - rate) * WORD)
    for token in range(8):
        own = token_by_hand(key, site, first + token)
        wanted = [mixed(own ^ mixed(feature * GOLDEN % WORD)) < limit for feature in range(6)]
        assert (np.asarray(out).reshape(8, 6)[token] > 0).tolist() == wanted


def test_a_mask_of_probabilities_is_the_one_it_always_was():
    site, rate, heads = 3, 0.4, 2
    s, columns = state(1, 4, seed=5, step=7), jnp.array([[2, 0]])
    limit = round((1 - rate) * WORD)
    bits = attention_bits(heads, attention_token_bits(rate, site, s, columns))
    kept_ = np.asarray(masked(jnp.ones((1, heads, 2, 4)), bits, rate)) > 0
    for head in range(heads):
        for row, query in enumerate((2, 0)):
            own = token_by_hand(key_by_hand(5, 7), site, query)
            own = mixed(own ^ mixed(head * GOLDEN % WORD))
            wanted = [mixed(own ^ mixed(key)) < limit for key in range(4)]
            assert kept_[0, head, row].tolist() == wanted


def test_a_rate_just_above_nothing_drops_next_to_nothing():
    assert kept(rate=1e-12).all()
