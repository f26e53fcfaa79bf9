"""Embeddings and predictions, against the model run on one text at a time."""

import copy
import dataclasses

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from tolerance import assert_close, network_terms

from jaxbert import cpu
from jaxbert.data import Batches, Examples, Tokenized, tokenize
from jaxbert.errors import InputError
from jaxbert.models import (
    BertConfig,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertModel,
    split_model,
)
from jaxbert.tasks import TEXT_CLASSIFICATION, TEXT_REGRESSION, Predicted
from jaxbert.tasks.text_classification import probabilities
from jaxbert.training.embedding import embed, make_embed_step, own_max_length
from jaxbert.training.engines import Compiled, JitEngine
from jaxbert.training.predictor import Predictor, run_batches
from jaxbert.training.step import make_eval_step

TERMS = network_terms(tiny.encoder().config, 16)


@pytest.fixture(scope="module")
def by_hand(tokenized):
    """Each text alone, unpadded: {pooling: [13, 16]}."""
    encoder = tiny.encoder()
    found = {"mean": [], "first": [], "pooler": []}
    run = jax.jit(lambda ids: encoder(ids)[:2])
    for start, end in zip(tokenized.offsets[:-1], tokenized.offsets[1:], strict=True):
        hidden, pooled = run(tokenized.input_ids[None, start:end])
        found["mean"].append(np.asarray(hidden)[0].mean(axis=0))
        found["first"].append(np.asarray(hidden)[0, 0])
        found["pooler"].append(np.asarray(pooled)[0])
    return {name: np.stack(values) for name, values in found.items()}


@pytest.mark.parametrize("pooling", ["mean", "first", "pooler"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_pooling(tokenizer, by_hand, pooling, layout):
    graphdef, params = split_model(tiny.encoder())
    step = make_embed_step(graphdef, pooling=pooling)
    batches = Batches(tokenize(tiny.CLASSES, tokenizer, 16), 5, max_length=16, layout=layout)
    found, loss = run_batches(Compiled(step), params, batches)
    assert (set(found), loss) == ({"vectors"}, None)
    assert_close(found["vectors"], by_hand[pooling], terms=TERMS)


def test_embed_normalized(tokenizer, by_hand):
    found = embed(
        tiny.encoder(), tokenizer, tiny.TEXTS, normalize=True, batch_size=5, max_length=16
    )
    norms = np.linalg.norm(by_hand["mean"], axis=1, keepdims=True)
    assert_close(found, by_hand["mean"] / norms, terms=TERMS)
    assert found.dtype == np.float32


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_rows_in_microbatches(tokenizer, by_hand, monkeypatch, layout):
    """On CPUs; a program's text has a loop where it takes its rows so."""
    monkeypatch.setattr(cpu, "CACHED_TOKENS", 32)
    graphdef, params = split_model(tiny.encoder())
    step = Compiled(make_embed_step(graphdef))
    tokenized = tokenize(tiny.CLASSES, tokenizer, 16)
    batches = Batches(tokenized, 13, max_length=16, layout=layout, row_multiple=4)
    found, _ = run_batches(step, params, batches)
    assert all("while(" in program.as_text() for program, _ in step.programs.values())
    assert_close(found["vectors"], by_hand["mean"], terms=TERMS)


def test_evaluation_in_microbatches(tokenizer, monkeypatch):
    """Results are put together in order, sums added up."""
    graphdef, params = split_model(tiny.model())
    tokenized = tokenize(tiny.CLASSES, tokenizer, 16)
    batch = JitEngine().put_batch(
        next(Batches(tokenized, 13, max_length=16, row_multiple=4).epoch(0))
    )
    step = make_eval_step(graphdef, TEXT_CLASSIFICATION)
    whole = step(params, batch)
    monkeypatch.setattr(cpu, "CACHED_TOKENS", 32)
    parts = step(params, batch)
    assert set(parts) == {"results", "loss_sum", "count"}
    whole, parts = tiny.leaves(whole), tiny.leaves(parts)
    for name in whole:
        assert_close(parts[name], whole[name], terms=TERMS, what=name)


@pytest.mark.parametrize(
    ("rows", "length", "parts"),
    [
        (16, 128, 1),
        (24, 128, 2),
        (32, 128, 2),
        (33, 128, 3),
        (37, 128, 1),
        (128, 128, 8),
        (8, 512, 2),
    ],
)
def test_how_many_parts(rows, length, parts):
    assert cpu.cached_microbatches(rows, length) == parts


def test_unknown_pooling():
    with pytest.raises(ValueError, match="pooling='most' must be one of mean, first, pooler"):
        make_embed_step(None, pooling="most")


def predicted(logits):
    ids = np.arange(len(logits), dtype=np.int32)
    return Predicted(None, Tokenized(ids, ids, np.arange(len(logits) + 1)), {"logits": logits})


def test_predictions_and_probabilities():
    logits = np.array([[1.0, 3.0, 2.0], [1000.0, -1000.0, 0.0]], np.float32)
    config = tiny.model(3).config
    told = TEXT_CLASSIFICATION.decode(config, predicted(logits))
    assert [row["label"] for row in told] == ["1", "0"]
    told = TEXT_REGRESSION.decode(config, predicted(logits[:, :1]))
    assert told == [{"score": 1.0}, {"score": 1000.0}]
    p = probabilities(logits)
    np.testing.assert_allclose(p[0], np.exp([1, 3, 2]) / np.exp([1, 3, 2]).sum(), rtol=1e-9)
    assert p[1].tolist() == [1, 0, 0]


def test_a_program_for_each_shape_and_no_more():
    step = Compiled(lambda state, batch: state + batch["input_ids"].sum())
    for rows in (2, 3, 2, 3):
        out = step(np.float32(1), {"input_ids": np.ones((rows, 4), np.float32)})
        assert float(out) == 1 + 4 * rows
    assert step.shapes == [(2, 4), (3, 4)]
    assert step.seconds > 0


def test_a_step_waits_for_the_one_before():
    """Or it would hold its temporary memory beside the other's."""

    def step(state, batch):
        def powers(x):
            return jax.lax.fori_loop(0, 500, lambda _, y: y @ x, x)

        return state + 1, powers(batch["input_ids"]).sum()

    step = Compiled(step, donate=True)
    batch = {"input_ids": np.full((500, 500), 1e-3, np.float32)}
    state, first = step(jax.numpy.zeros(()), batch)
    assert not first.is_ready(), "too fast a step: this would show nothing"
    step(state, batch)
    assert first.is_ready()


@pytest.mark.parametrize("most", [17, 300])
def test_texts_longer_than_the_model_has_positions_for(tokenizer, most):
    """They would be NaN, and with them the short ones packed beside."""
    message = f"max_length={most} is more than the model's 16 positions"
    with pytest.raises(ValueError, match=message):
        embed(tiny.encoder(), tokenizer, tiny.TEXTS, max_length=most)
    with pytest.raises(ValueError, match=message):
        Predictor(tiny.model(), tokenizer, max_length=most)


def test_a_model_that_no_task_is_for(tokenizer):
    network = BertForNextSentencePrediction(tiny.model().config, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"no task is known that a BertForNextSentencePrediction"):
        Predictor(network, tokenizer, max_length=16)
    with pytest.raises(ValueError, match=r"task text-classification is done by a ForSequenceCl"):
        Predictor(network, tokenizer, task="text-classification", max_length=16)
    with pytest.raises(ValueError, match=r"task='ner' must be one of text-classification"):
        Predictor(network, tokenizer, task="ner", max_length=16)
    config = BertConfig(**tiny.SHAPE, problem_type="regression")
    choices = BertForMultipleChoice(config, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"is for regression, which is none of multiple-choice"):
        Predictor(choices, tokenizer, max_length=16)


def test_one_string_is_not_a_list_of_texts(tokenizer):
    """It would be taken letter by letter."""
    for read in (
        tiny.trainer(tokenizer, None).predict,
        lambda text: embed(tiny.encoder(), None, text, max_length=16),
    ):
        with pytest.raises(ValueError, match=r"texts='a good film' is one text"):
            read("a good film")


@pytest.fixture
def added(tokenizer):
    """The tokenizer with two more tokens than the model has rows."""
    more = copy.deepcopy(tokenizer)
    more.add_tokens(["zebra", "okapi"])
    return more


MORE = Examples((*tiny.TEXTS[:3], "a good zebra", "an okapi"), source="zoo.csv")
BEYOND = (
    r"zoo\.csv: the text in data row 4 \(counted from 1\) has token id 33 \('zebra'\), the model's "
    r"vocabulary has 33 tokens: .*--resize-token-embeddings.*resize_token_embeddings\(35\)"
)


def test_a_token_beyond_the_vocabulary_is_named_before_anything_is_computed(added):
    labels = np.array([1, 0, 1, 1, 0], np.int32)
    labelled = dataclasses.replace(
        MORE, labels=labels, label_names=("bad", "good"), task="text-classification"
    )
    predictor = Predictor(tiny.model(), added, max_length=16)
    for use in (
        lambda: predictor.predict(MORE),
        lambda: predictor.logits(MORE),
        lambda: predictor.evaluate(labelled),
        lambda: embed(tiny.encoder(), added, MORE, max_length=16),
        lambda: tiny.trainer(added, labelled),
        lambda: tiny.trainer(added, evaluation=labelled),
    ):
        with pytest.raises(InputError, match=BEYOND):
            use()


def test_with_rows_for_them_they_are_tokens_like_others(added):
    predictor = Predictor(tiny.model().resize_token_embeddings(35), added, max_length=16)
    assert np.isfinite(predictor.logits(MORE)).all()
    vectors = embed(tiny.encoder().resize_token_embeddings(35), added, MORE, max_length=16)
    assert np.isfinite(vectors).all()


def test_a_token_type_that_the_model_has_not_is_named(tokenizer):
    pairs = Examples(("a film", "good"), ("dull", "bad"), source="pairs.csv")
    model = tiny.model(type_vocab_size=1)
    with pytest.raises(
        InputError, match=r"pairs\.csv: .* row 1 .*token type 1, the model has type"
    ):
        Predictor(model, tokenizer, max_length=16).predict(pairs)
    assert len(Predictor(model, tokenizer, max_length=16).predict(["a film"])) == 1


@pytest.mark.parametrize(
    ("file", "limit", "wanted"),
    [
        ('{"max_seq_length": 9, "do_lower_case": false}', 12, 9),
        ('{"max_seq_length": 99}', 12, 16),
        ('{"max_seq_length": null}', 12, 12),
        (None, 12, 12),
        (None, 99, 16),
        (None, int(1e30), 16),
    ],
)
def test_a_models_own_length(tokenizer, tmp_path, file, limit, wanted):
    own = copy.deepcopy(tokenizer)
    own.model_max_length = limit
    if file is not None:
        (tmp_path / "sentence_bert_config.json").write_text(file)
    assert own_max_length(tiny.encoder(), own, tmp_path) == wanted


def test_without_a_word_it_is_the_default(tokenizer, tmp_path):
    config = BertConfig(**(tiny.SHAPE | {"max_position_embeddings": 512}))
    model = BertModel(config, rngs=nnx.Rngs(0))
    assert own_max_length(model, tokenizer, tmp_path) == 128


@pytest.mark.parametrize("value", ["[]", '{"max_seq_length": "9"}', '{"max_seq_length": 0}', "{"])
def test_a_damaged_length_is_named(tokenizer, tmp_path, value):
    (tmp_path / "sentence_bert_config.json").write_text(value)
    with pytest.raises(InputError, match=r"sentence_bert_config\.json"):
        own_max_length(tiny.encoder(), tokenizer, tmp_path)


def test_what_is_cut_is_told_once_a_data_set(tokenizer, caplog):
    predictor = Predictor(tiny.model(), tokenizer, max_length=5)
    predictor.predict(["a good film", "a very good film", "a film of the plot and the end"])
    assert caplog.messages == ["memory: 2 of 3 texts were cut to 5 tokens"]
    embed(tiny.encoder(), tokenizer, ["a very good film"], max_length=5)
    assert caplog.messages[1:] == ["memory: 1 of 1 texts were cut to 5 tokens"]
    predictor.predict(["a film"])
    assert len(caplog.messages) == 2
    evaluation = dataclasses.replace(tiny.CLASSES, source="dev.csv")
    tiny.trainer(tokenizer, evaluation=evaluation, max_length=5, epochs=2).fit()
    assert [message for message in caplog.messages[2:] if "cut" in message] == [
        "films.csv: 6 of 13 texts were cut to 5 tokens",
        "dev.csv: 6 of 13 texts were cut to 5 tokens",
    ]


def test_what_is_checked_only_compiles_nothing(tokenizer, monkeypatch):
    prepared = []
    monkeypatch.setattr(Compiled, "prepare", lambda self, *args: prepared.append(args))
    trainer = tiny.trainer(tokenizer, evaluation=tiny.CLASSES)
    trainer.predictor.scorer(tiny.CLASSES)
    assert prepared == []
    trainer.predictor.prepare()
    assert prepared
    prepared.clear()
    trainer.predictor.prepare()
    assert prepared == []
