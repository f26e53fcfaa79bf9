"""A vocabulary of another size: rows that stay, rows that are drawn, what knows of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxbert.errors import InputError
from jaxbert.models import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    Compute,
)

CONFIG = BertConfig(**tiny.SHAPE)
CLASSES = (BertModel, BertForSequenceClassification, BertForMaskedLM, BertForPreTraining)
IDS = np.array([[2, 5, 6, 3], [2, 9, 3, 0]], np.int32)


def build(model_class, **compute):
    return model_class(CONFIG, rngs=nnx.Rngs(0), compute=Compute(**compute))


@pytest.mark.parametrize("model_class", CLASSES)
def test_rows_that_stay_are_kept_and_nothing_else_changes(model_class):
    model = build(model_class)
    before = tiny.leaves(nnx.to_pure_dict(nnx.state(model)))
    larger = model.resize_token_embeddings(CONFIG.vocab_size + 3)
    after = tiny.leaves(nnx.to_pure_dict(nnx.state(larger)))
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name][: len(array)], err_msg=name)
    grown = {name for name in before if before[name].shape != after[name].shape}
    tables = {name for name in before if "word_embeddings" in name or "predictions/bias" in name}
    assert grown == tables
    assert {after[name].shape[0] for name in grown} == {CONFIG.vocab_size + 3}
    configs = {m.config.vocab_size for _, m in nnx.iter_graph(larger) if hasattr(m, "config")}
    assert configs == {CONFIG.vocab_size + 3}
    assert model.config.vocab_size == CONFIG.vocab_size
    tiny.assert_equal(before, tiny.leaves(nnx.to_pure_dict(nnx.state(model))))


@pytest.mark.parametrize("model_class", CLASSES)
def test_texts_of_the_old_tokens_give_what_they_gave(model_class):
    model = build(model_class)
    wanted = jax.tree.leaves(model(IDS))
    found = jax.tree.leaves(model.resize_token_embeddings(CONFIG.vocab_size + 3)(IDS))
    for one, other in zip(wanted, found, strict=True):
        words = slice(None, CONFIG.vocab_size) if other.shape != one.shape else slice(None)
        np.testing.assert_allclose(one, other[..., words], atol=1e-6)
    new = model.resize_token_embeddings(CONFIG.vocab_size + 3)(IDS + CONFIG.vocab_size - 2)
    assert not np.isfinite(jax.tree.leaves(new)[0]).all()  # 9 is beyond even now
    new = model.resize_token_embeddings(2 * CONFIG.vocab_size)(IDS + CONFIG.vocab_size - 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))


def test_new_rows_are_drawn_as_a_new_models_are():
    model = build(BertForMaskedLM)
    larger = model.resize_token_embeddings(4000, seed=3)
    rows = larger.encoder.embeddings.word_embeddings.embedding[...][CONFIG.vocab_size :]
    assert abs(float(rows.std()) - CONFIG.initializer_range) < 0.01 * CONFIG.initializer_range
    assert abs(float(rows.mean())) < 0.01 * CONFIG.initializer_range
    assert not larger.head.predictions.bias[...][CONFIG.vocab_size :].any()
    again = model.resize_token_embeddings(4000, seed=3)
    tiny.assert_equal(nnx.to_pure_dict(nnx.state(larger)), nnx.to_pure_dict(nnx.state(again)))
    other = model.resize_token_embeddings(4000, seed=4)
    assert (other.encoder.embeddings.word_embeddings.embedding[...][-1] != rows[-1]).all()


def test_a_smaller_vocabulary_and_the_same():
    model = build(BertForMaskedLM, param_dtype="bfloat16")
    smaller = model.resize_token_embeddings(10)
    table = smaller.encoder.embeddings.word_embeddings.embedding[...]
    assert (table.shape, table.dtype) == ((10, 16), jnp.bfloat16)
    assert smaller(IDS).logits.shape == (2, 4, 10)
    larger = model.resize_token_embeddings(100)
    assert larger.encoder.embeddings.word_embeddings.embedding[...].dtype == jnp.bfloat16
    same = model.resize_token_embeddings(CONFIG.vocab_size)
    tiny.assert_equal(nnx.to_pure_dict(nnx.state(same)), nnx.to_pure_dict(nnx.state(model)))


def test_a_model_without_a_pooler_stays_without():
    model = BertModel(CONFIG, rngs=nnx.Rngs(0), add_pooling_layer=False)
    assert model.resize_token_embeddings(50).pooler is None


@pytest.mark.parametrize("size", [0, -1])
def test_no_size_is_refused(size):
    with pytest.raises(InputError, match=r"vocab_size must be a whole number of at least 1, got"):
        build(BertModel).resize_token_embeddings(size)


def test_it_is_saved_and_loaded_as_what_it_is(tmp_path):
    larger = build(BertForMaskedLM).resize_token_embeddings(50)
    larger.save_pretrained(tmp_path)
    loaded = BertForMaskedLM.from_pretrained(tmp_path)
    assert loaded.config.vocab_size == 50
    tiny.assert_equal(nnx.to_pure_dict(nnx.state(larger)), nnx.to_pure_dict(nnx.state(loaded)))
