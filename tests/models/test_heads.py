"""The models against themselves: packed = padded, checkpointing, dtypes, shapes, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tolerance import assert_close, assert_gradients_close, network_terms

from jaxbert.models import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    Compute,
    Dropout,
    dropout_key,
    merge_model,
    split_model,
)

CONFIG = BertConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,
    num_labels=3,
    initializer_range=0.2,  # wide enough that every part of the network shows in the logits
)
LENGTHS = (5, 3, 4, 8)
TERMS, TERMS_BACK = (network_terms(CONFIG, 10, back) for back in (False, True))


def examples():
    rng = np.random.default_rng(0)
    return [rng.integers(1, CONFIG.vocab_size, n) for n in LENGTHS]


def padded_batch():
    ids = np.zeros((4, 8), np.int32)
    for row, tokens in enumerate(examples()):
        ids[row, : len(tokens)] = tokens
    columns = np.tile(np.arange(8, dtype=np.int32), (4, 1))
    segments = (columns < np.array(LENGTHS)[:, None]).astype(np.int32)
    token_index = np.arange(4, dtype=np.uint32)[:, None] * 12 + columns.astype(np.uint32)
    return dict(
        input_ids=ids,
        position_ids=columns,
        segment_ids=segments,
        segment_starts=np.zeros((4, 1), np.int32),
    ), token_index


def packed_batch():
    """The same examples as rows (0, 1) and (2,) and (3,), the last row behind padding."""
    ids, positions, segments = (np.zeros((3, 10), np.int32) for _ in range(3))
    token_index = np.zeros((3, 10), np.uint32)
    starts = np.zeros((3, 2), np.int32)
    placed = {0: (0, 0, 1), 1: (0, 5, 2), 2: (1, 0, 1), 3: (2, 0, 1)}
    for example, (row, column, segment) in placed.items():
        n = LENGTHS[example]
        where = (row, slice(column, column + n))
        ids[where] = examples()[example]
        positions[where] = np.arange(n)
        segments[where] = segment
        token_index[where] = example * 12 + np.arange(n)
        starts[row, segment - 1] = column
    return dict(
        input_ids=ids, position_ids=positions, segment_ids=segments, segment_starts=starts
    ), token_index


def pick_packed(logits):
    return jnp.stack([logits[0, 0], logits[0, 1], logits[1, 0], logits[2, 0]])


@pytest.mark.parametrize("with_dropout", [False, True])
def test_packed_equals_padded_with_its_gradient(with_dropout):
    graphdef, params = split_model(BertForSequenceClassification(CONFIG, rngs=nnx.Rngs(0)))

    def loss(params, batch, pick):
        inputs, token_index = batch
        state = Dropout(dropout_key(3, 7), jnp.asarray(token_index)) if with_dropout else None
        logits = pick(merge_model(graphdef, params)(**inputs, dropout=state).logits)
        return jnp.sum(logits * jnp.arange(1.0, 13.0).reshape(4, 3)), logits

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)
    (_, padded), padded_grad = run(params, padded_batch(), lambda x: x[:, 0])
    (_, packed), packed_grad = run(params, packed_batch(), pick_packed)
    assert_close(packed, padded, terms=TERMS)
    assert_gradients_close(tiny.leaves(packed_grad), tiny.leaves(padded_grad), terms=TERMS_BACK)


def test_segments_equal_an_attention_mask():
    model = BertForSequenceClassification(CONFIG, rngs=nnx.Rngs(0))
    inputs, _ = padded_batch()
    by_mask = model(inputs["input_ids"], attention_mask=inputs["segment_ids"]).logits
    assert_close(model(**inputs).logits[:, 0], by_mask, terms=TERMS)


def test_gradient_checkpointing_changes_no_value():
    inputs, token_index = padded_batch()
    results = []
    for checkpointing in (False, True):
        compute = Compute(gradient_checkpointing=checkpointing)
        model = BertForSequenceClassification(CONFIG, rngs=nnx.Rngs(0), compute=compute)
        graphdef, params = split_model(model)

        def loss(params, graphdef=graphdef):
            state = Dropout(dropout_key(0, 0), jnp.asarray(token_index))
            return (merge_model(graphdef, params)(**inputs, dropout=state).logits ** 2).sum()

        results.append(jax.jit(jax.value_and_grad(loss))(params))
        assert ("remat" in str(jax.make_jaxpr(jax.grad(loss))(params))) == checkpointing
    (loss, grads), (again, grads_again) = results
    assert_close(again, loss, terms=TERMS)
    assert_gradients_close(tiny.leaves(grads_again), tiny.leaves(grads), terms=TERMS_BACK)


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_low_precision_is_near_float32_and_keeps_parameter_dtypes(param_dtype):
    inputs, _ = padded_batch()
    exact = BertForSequenceClassification(CONFIG, rngs=nnx.Rngs(0))(**inputs).logits
    compute = Compute(dtype="bfloat16", param_dtype=param_dtype)
    graphdef, params = split_model(
        BertForSequenceClassification(CONFIG, rngs=nnx.Rngs(0), compute=compute)
    )
    grads = jax.jit(jax.grad(lambda p: merge_model(graphdef, p)(**inputs).logits.sum()))(params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(grads)} == {param_dtype}
    model = merge_model(graphdef, params)
    logits = model(**inputs).logits
    assert logits.dtype == jnp.float32
    # A layer rounds both operands of six products to 8 bits, and adds them up in float32.
    assert_close(logits, exact, terms=2 * 12, dtype="bfloat16")


def test_shapes_of_every_task():
    ids = jnp.ones((2, 6), jnp.int32)
    rngs = nnx.Rngs(0)
    output = BertModel(CONFIG, rngs=rngs)(ids)
    assert output.last_hidden_state.shape == (2, 6, 16)
    assert output.pooler_output.shape == (2, 16)
    assert [h.shape for h in output.hidden_states] == [(2, 6, 16)] * 3
    assert BertModel(CONFIG, rngs=rngs, add_pooling_layer=False)(ids).pooler_output is None
    assert BertForSequenceClassification(CONFIG, rngs=rngs)(ids).logits.shape == (2, 3)
    assert BertForTokenClassification(CONFIG, rngs=rngs)(ids).logits.shape == (2, 6, 3)
    answer = BertForQuestionAnswering(CONFIG, rngs=rngs)(ids)
    assert (answer.start_logits.shape, answer.end_logits.shape) == ((2, 6), (2, 6))
    assert BertForMaskedLM(CONFIG, rngs=rngs)(ids).logits.shape == (2, 6, 40)
    assert BertForNextSentencePrediction(CONFIG, rngs=rngs)(ids).logits.shape == (2, 2)
    both = BertForPreTraining(CONFIG, rngs=rngs)(ids)
    assert both.prediction_logits.shape == (2, 6, 40)
    assert both.seq_relationship_logits.shape == (2, 2)
    choices = jnp.ones((2, 4, 6), jnp.int32)
    state = Dropout(dropout_key(0, 0), jnp.arange(48, dtype=jnp.uint32).reshape(2, 4, 6))
    model = BertForMultipleChoice(CONFIG, rngs=rngs)
    assert model(choices, attention_mask=choices, dropout=state).logits.shape == (2, 4)


def test_dropout_reaches_every_site():
    """Each of the network's dropouts changes the logits on its own."""
    inputs, token_index = padded_batch()
    state = Dropout(dropout_key(0, 0), jnp.asarray(token_index))
    none = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0)
    for name in none:
        config = dataclasses.replace(CONFIG, **(none | {name: 0.5}))
        model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
        assert (
            np.abs(model(**inputs).logits - model(**inputs, dropout=state).logits).max() > 1e-3
        ), name


def test_what_is_not_hugging_faces_is_by_keyword_only():
    """By position it would reach the encoder, and not the head."""
    model = BertForSequenceClassification(CONFIG, rngs=nnx.Rngs(0))
    inputs, _ = padded_batch()
    ids, ones = inputs["input_ids"], np.ones_like(inputs["input_ids"])
    with pytest.raises(TypeError, match="positional argument"):
        model(ids, ones, ones, inputs["position_ids"], inputs["segment_ids"])


def test_choices_packed_are_choices_in_rows():
    model = BertForMultipleChoice(CONFIG, rngs=nnx.Rngs(0))
    (packed, index), (padded, rows) = packed_batch(), padded_batch()
    got = model(**packed, dropout=Dropout(dropout_key(0, 0), jnp.asarray(index))).logits
    assert got.shape == (3, 2)
    mask = padded["segment_ids"][None]
    drawn = Dropout(dropout_key(0, 0), jnp.asarray(rows)[None])
    wanted = model(padded["input_ids"][None], mask, dropout=drawn).logits
    assert_close(pick_packed(got), wanted[0], terms=TERMS)


def test_refusals():
    model = BertModel(CONFIG, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="rows of 13 tokens; the model has position embeddings"):
        model(jnp.ones((1, 13), jnp.int32))
    ones = jnp.ones((1, 4), jnp.int32)
    with pytest.raises(ValueError, match="exclude each other"):
        model(ones, attention_mask=ones, segment_ids=ones)
    with pytest.raises(ValueError, match="tie_word_embeddings=False"):
        BertForMaskedLM(dataclasses.replace(CONFIG, tie_word_embeddings=False), rngs=nnx.Rngs(0))


def test_an_index_outside_its_table_is_nan_not_another_row():
    model = BertModel(CONFIG, rngs=nnx.Rngs(0))
    assert np.isnan(model(jnp.full((1, 4), CONFIG.vocab_size)).last_hidden_state).all()
