"""Attention against the plain formula under JAX's own differentiation: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import assert_close

from jaxbert.models import Compute, Dropout, Visibility, dropout_key
from jaxbert.models.attention import attention
from jaxbert.models.dropout import attention_bits, attention_token_bits, masked

RATE, SITE = 0.3, 4
ROWS, LENGTH, HEADS, WIDTH = 2, 16, 3, 8
RNG = np.random.default_rng(0)
MASK = np.arange(LENGTH) < np.array([[16], [11]])
SEGMENTS = np.array([[1] * 7 + [2] * 9, [1] * 5 + [2] * 6 + [0] * 5])
TOGETHER = (SEGMENTS[:, :, None] == SEGMENTS[:, None])[:, None]
APART = np.abs(np.arange(LENGTH)[:, None] - np.arange(LENGTH))[None, None]
STATE = Dropout(dropout_key(0, 1), jnp.arange(ROWS * LENGTH, dtype=jnp.uint32).reshape(ROWS, -1))
VISIBLE = {
    "all": ({}, None, None),
    "mask": ({"attention_mask": MASK}, None, MASK[:, None, None]),
    "segments": ({"segment_ids": SEGMENTS}, None, TOGETHER),
    # Of 16 columns: in blocks, the last of them not full; and the whole row at once.
    "window": ({"segment_ids": SEGMENTS}, 2, TOGETHER & (APART <= 2)),
    "window and mask": ({"attention_mask": MASK}, 5, MASK[:, None, None] & (APART <= 5)),
    "window alone": ({}, 3, APART <= 3),
    "wide window": ({"segment_ids": SEGMENTS}, 6, TOGETHER & (APART <= 6)),
}


def plain(query, key, value, visible, state, bias=0):
    """As a textbook writes it; `masked` is differentiable where its argument is not zero."""
    scores = jnp.einsum("bqnh,bknh->bnqk", query, key) / np.sqrt(WIDTH) + bias
    if visible is not None:
        scores = jnp.where(visible, scores, -1e30)
    probabilities = jax.nn.softmax(scores)
    bits = attention_bits(HEADS, attention_token_bits(RATE, SITE, state))
    return jnp.einsum("bnqk,bknh->bqnh", masked(probabilities, bits, RATE), value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("state", [None, STATE], ids=["still", "dropout"])
@pytest.mark.parametrize("seen", VISIBLE)
def test_values_and_gradients(seen, state, platform, dtype):
    inputs, window, visible = VISIBLE[seen]
    arrays = RNG.normal(size=(4, ROWS, LENGTH, HEADS, WIDTH)).astype(np.float32)
    if dtype == "bfloat16":
        arrays = np.asarray(jnp.asarray(arrays, dtype), np.float32)
    query, key, value, weight = arrays
    compute = Compute(dtype=dtype, platform=platform)

    def total(query, key, value):
        out = attention(
            query,
            key,
            value,
            Visibility.of(**jax.tree.map(jnp.asarray, inputs)),
            window=window,
            rate=RATE,
            site=SITE,
            dropout=state,
            compute=compute,
        )
        assert out.dtype == compute.activation_dtype
        return (out.astype(jnp.float32) * weight).sum(), out

    def wanted(query, key, value):
        out = plain(query, key, value, visible, state)
        return (out * weight).sum(), out

    got, want = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True))(query, key, value)
        for f in (total, wanted)
    )
    # Sums there and back; in bfloat16 these are exact, and the operands of six products are not.
    terms = 3 * (2 * WIDTH + 2 * LENGTH) if dtype == "float32" else 12
    for a, b in zip(jax.tree.leaves(got)[1:], jax.tree.leaves(want)[1:], strict=True):
        assert_close(a, b, terms=terms, dtype=dtype)


@pytest.mark.parametrize("rows", [1, ROWS])
def test_a_bias_and_its_gradient(rows):
    *arrays, weight = RNG.normal(size=(4, ROWS, LENGTH, HEADS, WIDTH)).astype(np.float32)
    bias = RNG.normal(size=(rows, HEADS, LENGTH, LENGTH)).astype(np.float32)

    def total(*arrays):
        *arrays, bias = arrays
        seen = Visibility.of(segment_ids=jnp.asarray(SEGMENTS))
        out = attention(*arrays, seen, bias=bias, rate=RATE, site=SITE, dropout=STATE)
        return (out * weight).sum()

    def wanted(*arrays):
        *arrays, bias = arrays
        return (plain(*arrays, TOGETHER, STATE, bias) * weight).sum()

    got, want = (jax.jit(jax.grad(f, argnums=range(4)))(*arrays, bias) for f in (total, wanted))
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert_close(a, b, terms=3 * (2 * WIDTH + 2 * LENGTH))
