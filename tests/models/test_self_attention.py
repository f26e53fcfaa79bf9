"""The module around attention, by hand in numpy: projections, heads, rotation, who asks."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tolerance import assert_close

from jaxbert.models import BertConfig, Compute, Dropout, Visibility, dropout_key
from jaxbert.models import encoder as encoder_module
from jaxbert.models.attention import ATTENTION_SITE, SelfAttention, attention
from jaxbert.models.families.modernbert import ModernBertConfig

ROWS, LENGTH, HEADS, D = 2, 6, 2, 8
H = D // HEADS
SHAPE = dict(vocab_size=9, hidden_size=D, num_hidden_layers=4, num_attention_heads=HEADS,
             intermediate_size=12, max_position_embeddings=16, initializer_range=0.5)  # fmt: skip
MODERN = ModernBertConfig(**SHAPE, pad_token_id=0, local_attention=4)
# The layer of ModernBERT that sees all, and one that sees its neighbors, to half its width of 4.
LAYERS = {
    "BERT": (BertConfig(**SHAPE), 0, None, None),
    "ModernBERT, all": (MODERN, 0, None, 160000),
    "ModernBERT, window": (MODERN, 1, 2, 10000),
}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, LENGTH, D)).astype(np.float32)
RELATIVE = RNG.normal(size=(1, HEADS, LENGTH, LENGTH)).astype(np.float32)
COLUMNS = np.array([[3, 0, 5], [1, 4, 4]])
TERMS = 3 * D + 2 * LENGTH


def turned(x, theta):
    """[B, L, N, H]: each pair (h, h + H/2) by the angle place * theta^(-2h/H)."""
    out = x.copy()
    for place in range(LENGTH):
        for h in range(H // 2):
            angle = place * float(theta) ** (-2 * h / H)
            a, b = x[:, place, :, h], x[:, place, :, h + H // 2]
            out[:, place, :, h] = a * np.cos(angle) - b * np.sin(angle)
            out[:, place, :, h + H // 2] = b * np.cos(angle) + a * np.sin(angle)
    return out


def by_hand(module, x, window, theta, relative=None):
    def product(linear, x):
        bias = 0 if linear.bias is None else np.asarray(linear.bias[...])
        return x @ np.asarray(linear.kernel[...]) + bias

    if hasattr(module, "query_key_value"):
        whole = product(module.query_key_value, x)
        parts = [whole[..., i * D : (i + 1) * D] for i in range(3)]
    else:
        parts = [product(getattr(module, name), x) for name in ("query", "key", "value")]
    query, key, value = (part.reshape(ROWS, LENGTH, HEADS, H) for part in parts)
    if theta is not None:
        query, key = turned(query, theta), turned(key, theta)
    scores = np.einsum("bqnh,bknh->bnqk", query, key) / np.sqrt(H)
    scores = scores + (0 if relative is None else relative)
    far = np.abs(np.arange(LENGTH)[:, None] - np.arange(LENGTH)) > (window or LENGTH)
    shares = np.exp(np.where(far, -np.inf, scores))
    shares /= shares.sum(-1, keepdims=True)
    found = np.einsum("bnqk,bknh->bqnh", shares, value).reshape(ROWS, LENGTH, D)
    return product(module.output, found)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layers_attention_by_hand(name):
    config, index, window, theta = LAYERS[name]
    module = SelfAttention(config, index=index, compute=Compute(), rngs=nnx.Rngs(0))
    relative = RELATIVE if name == "BERT" else None
    wanted = by_hand(module, X, window, theta, relative)
    bias = None if relative is None else jnp.asarray(relative)
    everybody = module(jnp.asarray(X), Visibility(), bias)
    assert_close(everybody, wanted, terms=TERMS)
    some = module(jnp.asarray(X), Visibility(), bias, columns=jnp.asarray(COLUMNS))
    assert_close(some, np.take_along_axis(wanted, COLUMNS[..., None], 1), terms=TERMS)


def test_dropout_is_of_the_rate_that_is_said_and_of_the_first_site():
    arrays = [jnp.asarray(RNG.normal(size=(ROWS, LENGTH, HEADS, H)), jnp.float32) for _ in range(3)]
    state = Dropout(
        dropout_key(0, 1), jnp.arange(ROWS * LENGTH, dtype=jnp.uint32).reshape(ROWS, -1)
    )
    still = attention(*arrays)
    np.testing.assert_array_equal(attention(*arrays, dropout=state), still)  # none without a rate
    dropped = attention(*arrays, rate=0.5, dropout=state)
    assert not np.array_equal(dropped, still)
    np.testing.assert_array_equal(attention(*arrays, rate=0.5, dropout=state, site=0), dropped)


def test_the_sites_of_a_layer_are_numbers_of_their_own():
    """Two of one number would drop alike; other numbers would go on otherwise after a resume."""
    sites = (ATTENTION_SITE, encoder_module._ATTENDED_SITE, encoder_module._FED_SITE)
    assert sites == tuple(range(encoder_module.SITES_PER_LAYER)) == (0, 1, 2)
