"""Layers as a loop: the numbers of layers one by one, whatever repeats."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_families
from flax import nnx
from tolerance import assert_close, assert_gradients_close, network_terms

from jaxbert.models import Compute, Dropout, dropout_key, merge_model, split_model
from jaxbert.models.auto import model_class
from jaxbert.models.stack import Repetition, repetition

ROWS, LENGTH = 3, 12
# Of ModernBERT the first layer stands alone, and two make a round.
SHAPES = {
    "roberta": dict(num_hidden_layers=3),
    "modernbert": dict(
        num_hidden_layers=5,
        layer_types=("full_attention", "sliding_attention") * 2 + ("full_attention",),
    ),
    "albert": dict(num_hidden_layers=3),
}
RNG = np.random.default_rng(0)
IDS = RNG.integers(5, 30, (ROWS, LENGTH)).astype(np.int32)
SEGMENTS = np.array([[1] * 7 + [2] * 5, [1] * 9 + [0] * 3, [1] * 3 + [2] * 9], np.int32)
STARTS = np.array([[0, 7], [0, 0], [0, 3]], np.int32)
TOKENS = np.arange(IDS.size, dtype=np.uint32).reshape(IDS.shape)
WEIGHTS = RNG.normal(size=(ROWS, 2, 2)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def _compile_cheaply():
    """Compilation is nearly all the time here, and these programs run once."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ("", (0, 1, 0)),
        ("a", (0, 1, 0)),
        ("aa", (0, 1, 2)),
        ("abc", (0, 1, 0)),
        ("xabab", (1, 2, 2)),
        ("aabbbb", (2, 1, 4)),
        ("fllfllfllf", (0, 3, 3)),
        ("xllfllfllf", (1, 3, 3)),
        ("ababab" + "cc", (0, 2, 3)),
    ],
)
def test_what_repeats_by_hand(items, found):
    assert repetition(items) == Repetition(*found)


@functools.cache
def network(family, **compute):
    """(gradient of a weighted sum of logits, its text as a program) of a tiny model."""
    config = tiny_families.config(family, **SHAPES[family])
    build = model_class(family, "ForSequenceClassification")
    model = build(config, rngs=nnx.Rngs(0), compute=Compute(**compute))
    graphdef, params = split_model(model)

    def total(params):
        outputs = merge_model(graphdef, params)(
            IDS,
            segment_ids=SEGMENTS,
            segment_starts=STARTS,
            dropout=Dropout(dropout_key(0, 1), jnp.asarray(TOKENS)),
        )
        return (outputs.logits * WEIGHTS).sum()

    lowered = jax.jit(jax.value_and_grad(total)).lower(params)
    value, gradient = lowered.compile()(params)
    leaves = {jax.tree_util.keystr(path): np.asarray(leaf)
              for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)}  # fmt: skip
    return float(value), leaves, lowered.as_text(), config


@pytest.mark.parametrize("family", SHAPES)
def test_a_loop_computes_what_layers_one_by_one_do(family):
    value, gradient, _, config = network(family)
    looped, other, program, _ = network(family, scan_layers=True)
    assert "stablehlo.while" in program
    terms = network_terms(config, LENGTH, gradient=True)
    assert_close(looped, value, terms=terms, what="value")
    assert_gradients_close(other, gradient, terms=terms, floor=1.0, what="gradient")


def test_a_loop_may_keep_its_inputs_only():
    value, gradient, _, config = network("roberta")
    again, other, _, _ = network("roberta", scan_layers=True, gradient_checkpointing=True)
    terms = network_terms(config, LENGTH, gradient=True)
    assert_close(again, value, terms=terms, what="value")
    assert_gradients_close(other, gradient, terms=terms, floor=1.0, what="gradient")


def test_every_hidden_state_is_there():
    config = tiny_families.config("modernbert", **SHAPES["modernbert"])
    build = model_class("modernbert", "Model")
    found = [
        build(config, rngs=nnx.Rngs(0), compute=Compute(scan_layers=scan))(IDS).hidden_states
        for scan in (False, True)
    ]
    assert len(found[0]) == len(found[1]) == 6
    for plain, looped in zip(*found, strict=True):
        np.testing.assert_allclose(plain, looped, atol=1e-5)
