"""`pooled_only` skips work and changes nothing: the pooled vectors and every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tolerance import assert_close, assert_gradients_close, network_terms

from jaxbert.models import (
    BertConfig,
    BertModel,
    Compute,
    Dropout,
    dropout_key,
    merge_model,
    split_model,
)

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=32,
    max_position_embeddings=16,
)
ROWS, LENGTH = 3, 12
IDS = np.random.default_rng(0).integers(1, 50, (ROWS, LENGTH))
SEGMENTS = np.array([[1] * 5 + [2] * 7, [1] * 12, [1] * 3 + [2] * 4 + [0] * 5])
LAYOUTS = {
    "whole": {},
    "padded": {"attention_mask": np.arange(LENGTH) < np.array([[12], [4], [7]])},
    "packed": {"segment_ids": SEGMENTS, "segment_starts": np.array([[0, 5], [0, 0], [0, 3]])},
}
STATE = Dropout(dropout_key(0, 0), jnp.arange(IDS.size, dtype=jnp.uint32).reshape(IDS.shape))


@pytest.mark.parametrize(
    ("layout", "dropout", "checkpointing"),
    [("whole", None, False), ("padded", STATE, False), ("packed", STATE, True)],
)
def test_same_vectors_and_gradients(layout, dropout, checkpointing):
    compute = Compute(gradient_checkpointing=checkpointing)
    graphdef, params = split_model(BertModel(CONFIG, rngs=nnx.Rngs(0), compute=compute))

    def pooled(params, pooled_only):
        model = merge_model(graphdef, params)
        out = model(IDS, **LAYOUTS[layout], dropout=dropout, pooled_only=pooled_only)
        return jnp.square(out.pooler_output).sum(), out.pooler_output

    run = jax.jit(jax.grad(pooled, has_aux=True), static_argnums=1)
    (got, vectors), (want, wanted) = run(params, True), run(params, False)
    assert_close(vectors, wanted, terms=network_terms(CONFIG, LENGTH))
    terms = network_terms(CONFIG, LENGTH, gradient=True)
    assert_gradients_close(tiny.leaves(got), tiny.leaves(want), terms=terms)
