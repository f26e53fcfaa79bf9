"""Directories of sentence-transformers: read as they say, and refused where they cannot be."""

import json

import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file
from tolerance import assert_close, network_terms

from jaxbert import embed, embed_sentences
from jaxbert.cli import main
from jaxbert.data import Batches, tokenize
from jaxbert.errors import InputError
from jaxbert.models import BertConfig, split_model
from jaxbert.training.config import POOLINGS
from jaxbert.training.embedding import make_embed_step
from jaxbert.training.engines import Compiled
from jaxbert.training.pooling import _POOLINGS
from jaxbert.training.predictor import run_batches
from jaxbert.training.sentences import read_form

TERMS = network_terms(BertConfig(**tiny.SHAPE), 16)
TRANSFORMER = {
    "idx": 0,
    "name": "0",
    "path": "",
    "type": "sentence_transformers.models.Transformer",
}
POOLING = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
DENSE = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
NORMALIZE = {"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}


def write(directory, tokenizer, modules, pooling, **files):
    tiny.encoder().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def by_hand(tokenizer, texts, pool, skip=0):
    encoder = tiny.encoder()
    hidden = [np.asarray(encoder(np.array([tokenizer(t)["input_ids"]]))[0])[0] for t in texts]
    return np.stack([pool(h[skip:], np.arange(skip + 1, len(h) + 1)) for h in hidden])


def test_poolings_have_the_names_that_the_flag_knows():
    assert set(POOLINGS) == {*_POOLINGS, "pooler"}  # which the model has


BY_HAND = {
    "mean": lambda h, at: h.mean(axis=0),
    "first": lambda h, at: h[0],
    "last": lambda h, at: h[-1],
    "max": lambda h, at: h.max(axis=0),
    "mean-sqrt-length": lambda h, at: h.sum(axis=0) / np.sqrt(len(h)),
    "weighted-mean": lambda h, at: (at[:, None] * h).sum(axis=0) / at.sum(),
}


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("skip", [0, 2])
def test_every_pooling(tokenizer, layout, skip):
    graphdef, params = split_model(tiny.encoder())
    texts = [text for text in tiny.TEXTS if len(text.split()) > 1]
    tokenized = tokenize(tiny.CLASSES, tokenizer, 16)
    step = Compiled(make_embed_step(graphdef, pooling=list(BY_HAND), skip=skip))
    batches = Batches(tokenized, 5, max_length=16, layout=layout)
    found = run_batches(step, params, batches)[0]["vectors"]
    found = found[[len(text.split()) > 1 for text in tiny.TEXTS]]
    wanted = [by_hand(tokenizer, texts, pool, skip) for pool in BY_HAND.values()]
    assert_close(found, np.concatenate(wanted, axis=1), terms=TERMS)


def test_modules_one_after_the_other(tokenizer, tmp_path, capsys):
    pooling = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True,
               "pooling_mode_mean_tokens": True}  # fmt: skip
    write(tmp_path, tokenizer, [TRANSFORMER, POOLING, DENSE, NORMALIZE], pooling)
    (tmp_path / "2_Dense").mkdir()
    kernel = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    bias = np.arange(5, dtype=np.float32)
    save_file(
        {"linear.weight": kernel, "linear.bias": bias}, tmp_path / "2_Dense/model.safetensors"
    )
    (tmp_path / "2_Dense/config.json").write_text(
        json.dumps({"activation_function": "torch.nn.modules.activation.Tanh", "bias": True})
    )
    pooled = [by_hand(tokenizer, tiny.TEXTS, BY_HAND[name]) for name in ("first", "mean")]
    wanted = np.tanh(np.concatenate(pooled, axis=1) @ kernel.T + bias)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    found = embed_sentences(tmp_path, tiny.TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    (tmp_path / "texts.txt").write_text("\n".join(tiny.TEXTS))
    words = ["embed", str(tmp_path / "texts.txt"), "--model", str(tmp_path), "--output"]
    assert main([*words, str(tmp_path / "v.npy")]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("included", [True, False])
def test_prompts(tokenizer, tmp_path, included):
    pooling = {"pooling_mode": "mean", "include_prompt": included}
    prompts = {"prompts": {"query": "a film ", "passage": ""}, "default_prompt_name": "query"}
    write(tmp_path, tokenizer, [TRANSFORMER, POOLING], pooling,
          config_sentence_transformers=prompts)  # fmt: skip
    texts = ["good", "not very good"]
    prompted = [f"a film {text}" for text in texts]
    # [CLS] a film
    wanted = by_hand(tokenizer, prompted, BY_HAND["mean"], 0 if included else 3)
    assert_close(embed_sentences(tmp_path, texts), wanted, terms=TERMS)
    bare = by_hand(tokenizer, texts, BY_HAND["mean"])
    assert_close(embed_sentences(tmp_path, texts, prompt_name="passage"), bare, terms=TERMS)
    with pytest.raises(InputError, match="'title' is not one of the model's: query, passage"):
        embed_sentences(tmp_path, texts, prompt_name="title")


def test_the_network_in_a_folder_of_its_own(tokenizer, tmp_path):
    """As the first versions wrote it."""
    write(tmp_path, tokenizer, [{**TRANSFORMER, "path": "0_Transformer"}, POOLING], {})
    inner = tmp_path / "0_Transformer"
    inner.mkdir()
    for path in [p for p in tmp_path.iterdir() if p.is_file() and p.name != "modules.json"]:
        path.rename(inner / path.name)
    (inner / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    long = ["a good film with a good end"]
    wanted = embed(tiny.encoder(), tokenizer, long, max_length=4)
    np.testing.assert_array_equal(embed_sentences(tmp_path, long), wanted)


REFUSED = {
    "no array": ({}, {}, "must hold a JSON array, got dict"),
    "no text": ([{"type": 3, "path": ""}], {}, "must have type and path"),
    "outside": ([{**TRANSFORMER, "path": "../up"}, POOLING], {}, "leads out of the directory"),
    "another module": ([TRANSFORMER, POOLING, {**DENSE, "type": "evil.Run"}], {}, "lists .*Run"),
    "pooling": ([TRANSFORMER, POOLING], {"pooling_mode": "most"}, "pooling_mode='most'|'most'"),
    "no dense": ([TRANSFORMER, POOLING, DENSE], {}, "no weights"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tokenizer, tmp_path, name):
    modules, pooling, words = REFUSED[name]
    write(tmp_path, tokenizer, modules, pooling)
    with pytest.raises((InputError, FileNotFoundError), match=words):
        read_form(tmp_path)


def test_an_activation_is_no_code(tokenizer, tmp_path):
    write(tmp_path, tokenizer, [TRANSFORMER, POOLING, DENSE], {})
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense/config.json").write_text('{"activation_function": "os.system"}')
    with pytest.raises(InputError, match=r"activation_function='os.system'"):
        read_form(tmp_path)


@pytest.mark.parametrize("modes", [[{}], [["mean"]], {"mean": 1}, [], 3])
def test_poolings_that_are_none(tokenizer, tmp_path, modes):
    """Found by changing files at random."""
    write(tmp_path, tokenizer, [TRANSFORMER, POOLING], {"pooling_mode": modes})
    with pytest.raises(InputError, match="pooling_mode="):
        read_form(tmp_path)


def test_half_a_surrogate_is_no_path(tokenizer, tmp_path):
    write(tmp_path, tokenizer, [TRANSFORMER, {**POOLING, "path": "1_\ud800"}], {})
    with pytest.raises(InputError, match="must have type and path"):
        read_form(tmp_path)
