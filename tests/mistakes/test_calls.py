"""The same of the functions and classes: an `InputError`, or an OSError, of one line."""

import numpy as np
import pytest
import tiny

import jaxbert
from jaxbert import OptimizerConfig, TrainConfig, load_examples, load_texts
from jaxbert.data import load_tokenizer
from jaxbert.models import BertConfig
from jaxbert.training import Predictor, Trainer, embed, make_engine

TABLE = {"text": ["good", "bad"], "label": ["p", "n"]}
MODEL = tiny.model()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    return load_tokenizer(directory)


def read(source, **options):
    return lambda t: load_examples(source, **options)


def predict(texts):
    return lambda t: Predictor(MODEL, t, max_length=16).predict(texts)


def vectors(texts, **options):
    return lambda t: embed(tiny.encoder(), t, texts, **({"max_length": 16} | options))


def train(examples=tiny.CLASSES, model=MODEL, config=(), **options):
    settings = TrainConfig(**{"batch_size": 4, "max_length": 16, **dict(config)})
    return lambda t: Trainer(model, t, train=examples, config=settings, progress=False, **options)


CALLS = {
    "a text": (predict("good"), "'good' list"),
    "no texts": (predict([]), "no texts"),
    "None as texts": (predict(None), "NoneType list"),
    "a number as texts": (predict(3), "int list"),
    "None": (predict(["good", None]), "text 2 NoneType"),
    "a number": (predict([3]), "text 1 int"),
    "bytes": (predict([b"good"]), "text 1 bytes"),
    "nan": (predict([float("nan")]), "text 1 float"),
    "half a pair": (predict(["good", "\ud800"]), "text 2 surrogate"),
    "a pair": (predict([("good", "bad")]), "text 1 tuple"),
    "a dict": (predict({"text": "good"}), "dict list"),
    "embed a text": (vectors("good"), "'good' list"),
    "embed nothing": (vectors([]), "no texts"),
    "pooling": (vectors(["good"], pooling="most"), "pooling='most' mean"),
    "length": (vectors(["good"], max_length=99), "max_length=99 16"),
    "short": (vectors(["good"], max_length=2), "max_length=2"),
    "batch": (vectors(["good"], batch_size=0), "batch_size=0"),
    "engine": (vectors(["good"], parallel="tpu"), "'tpu' jit"),
    "source": (read(5), "int path"),
    "None as a source": (read(None), "NoneType path"),
    "records": (read([3]), "int item 1"),
    "no records": (read([]), "no examples"),
    "lengths": (read({"text": ["a", "b"], "label": [1]}, label_column="label"), "lengths"),
    "no column": (read(TABLE, label_column="lable"), "'lable' 'label'"),
    "unknown task": (read(TABLE, label_column="label", task="poetry"), "'poetry'"),
    "a split of a table": (lambda t: load_texts(TABLE, split="train"), "split='train'"),
    "unlabelled": (train(load_texts(TABLE)), "labels"),
    "no examples": (lambda t: train(None)(t).fit(), "fit() train=examples"),
    "three classes": (train(load_examples({"text": list("abc"), "label": list("xyz")},
                                          label_column="label")), "3 labels num_labels=2"),
    "numbers": (train(tiny.NUMBERS), "num_labels=1"),
    "no head": (train(model=tiny.encoder()), "BertModel"),
    "task": (train(task="poetry"), "'poetry'"),
    "other task": (train(task="text-regression"), "text-regression text-classification"),
    "metric": (train(evaluation=tiny.CLASSES, config={"metric": "beauty"}), "'beauty'"),
    "patience": (train(config={"patience": 1}), "patience evaluation"),
    "too long": (train(config={"max_length": 17}), "max_length=17"),
    "freeze": (train(config={"optimizer": OptimizerConfig(frozen=("x",))}), "'x'"),
    "evaluate unlabelled": (
        lambda t: Predictor(MODEL, t, max_length=16).evaluate(load_texts(TABLE)), "labels"),
    "evaluate other labels": (
        lambda t: Predictor(MODEL, t, max_length=16).evaluate(tiny.NUMBERS), "regression"),
    "seed": (lambda t: TrainConfig(seed=2**32), "seed=4294967296"),
    "a list of seeds": (lambda t: TrainConfig(seed=[1]), "seed=[1]"),
    "unknown setting": (lambda t: TrainConfig.from_dict({"epoch": 3}), "epoch epochs"),
    "settings": (lambda t: TrainConfig.from_dict({"optimizer": 3}), "optimizer=3"),
    "optimizer": (lambda t: TrainConfig(optimizer="adam"), "optimizer='adam'"),
    "rate": (lambda t: OptimizerConfig(learning_rate="fast"), "learning_rate='fast'"),
    "heads": (lambda t: BertConfig(hidden_size=15), "hidden_size=15"),
    "text for a rate": (lambda t: BertConfig(hidden_dropout_prob="high"), "'high'"),
    "preset": (lambda t: BertConfig.preset("bert-huge"), "'bert-huge'"),
    "mesh": (lambda t: make_engine("mesh", "data=3"), "3"),
    "no such model": (lambda t: jaxbert.AutoModel.from_pretrained("./nowhere"), "nowhere"),
    "no such tokenizer": (lambda t: load_tokenizer("./nowhere"), "nowhere"),
    "a long row": (lambda t: MODEL(np.zeros((1, 17), np.int32)), "17 16"),
    "vocabulary": (lambda t: MODEL.resize_token_embeddings(0), "vocab_size 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_says_what_is_wrong(name, tokenizer):
    call, words = CALLS[name]
    with pytest.raises((jaxbert.InputError, OSError)) as error:
        call(tokenizer)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    missing = [word for word in words.split() if word not in message]
    assert not missing, message
