"""The benchmark of masks measures the dropout that the model has."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.masks import KINDS, drawn
from jaxbert.models import Dropout, dropout_key
from jaxbert.models.attention import attention
from jaxbert.models.compute import Compute
from jaxbert.models.dropout import dropout
from jaxbert.models.visibility import Visibility

STATE = Dropout(dropout_key(0, 1), jnp.arange(4 * 16, dtype=jnp.uint32).reshape(4, 16))


def both():
    """Features, and a context whose values are all one: what the masks alone decide."""
    values = jnp.ones((4, 16, 2, 8))
    context = attention(
        values, values, values, Visibility.of(attention_mask=jnp.ones((4, 16), jnp.int32)),
        rate=0.5, site=2, dropout=STATE, compute=Compute(),
    )  # fmt: skip
    return np.asarray(dropout(jnp.ones((4, 16, 64)), 0.5, 1, STATE)), np.asarray(context)


def test_drawn_as_the_hash_nothing_changes():
    plain = both()
    with drawn("hash"):
        again = both()
    for ours, theirs in zip(plain, again, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "hash"])
def test_another_kind_reaches_features_and_attention(kind):
    plain = both()
    with drawn(kind):
        others = both()
    for ours, theirs in zip(plain, others, strict=True):
        assert (ours != theirs).mean() > 0.3
    assert abs((others[0] == 0).mean() - 0.5) < 0.05
