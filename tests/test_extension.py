"""A family and a task that jaxbert does not know, through its public names alone.

The family: pre-norm, a gated feed-forward, a window in its second layer, words of its own in its
files. The task: which words of a text are adjectives, a label for each token. Both are defined
here; nothing under jaxbert/ knows either.
"""

import dataclasses
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

import jaxbert
from jaxbert.data import tokenize
from jaxbert.models import heads
from jaxbert.tasks.losses import token_classification
from jaxbert.weights.rename import Family, Head, Rename, linear, norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig(jaxbert.EncoderConfig):
    model_type: ClassVar[str] = "toy"
    norm: ClassVar[str] = "pre"
    feed_forward: ClassVar[str] = "gated"
    renamed: ClassVar[dict] = {"hidden_size": "width", "num_hidden_layers": "depth"}
    reach: int = 3

    def window(self, layer):
        return self.reach if layer % 2 else None


def table(theirs, ours):
    return Rename(f"{theirs}.weight", f"embeddings/{ours}/embedding")


LAYER, OURS = "blocks.{i}", "layers/{i}"
TOY = Family(
    prefix="core",
    base="ToyModel",
    encoder=(
        table("words", "word_embeddings"),
        table("places", "position_embeddings"),
        *norm("first_norm", "embeddings/layer_norm"),
        *norm("last_norm", "final_norm"),
        *(
            row
            for theirs, ours in [
                ("q", "attention/query"),
                ("k", "attention/key"),
                ("v", "attention/value"),
                ("o", "attention/output"),
                ("up", "intermediate"),
                ("down", "output"),
            ]
            for row in linear(f"{LAYER}.{theirs}", f"{OURS}/{ours}")
        ),
        *norm(f"{LAYER}.norm1", f"{OURS}/attention_norm"),
        *norm(f"{LAYER}.norm2", f"{OURS}/output_norm"),
    ),
    heads={
        "ToyModel": Head(),
        "ToyForTokenClassification": Head(linear("tagger", "classifier"), labelled="tagger."),
    },
)


class ToyForTokenClassification(heads.ForTokenClassification):
    family = TOY
    config_class = ToyConfig


ADJECTIVES = {"good", "bad", "dull", "fine", "great", "poor", "weak", "fresh", "warm", "cold",
              "long", "short"}  # fmt: skip


def read(source, **_):
    texts = tuple(source)
    words = [word in ADJECTIVES for text in texts for word in text.split()]
    return jaxbert.Examples(
        texts, None, np.array(words, np.int32), ("other", "adjective"), "adjectives", "toy"
    )


def encode(examples, tokenizer, max_length, cache_dir=None):
    """Every word is one token here, between the two special ones."""
    found = tokenize(dataclasses.replace(examples, labels=None), tokenizer, max_length, cache_dir)
    if examples.labels is None:
        return found
    is_word = ~np.isin(found.input_ids, tokenizer.all_special_ids)
    labels = np.full(len(found.input_ids), -100, np.int32)
    labels[is_word] = examples.labels
    return dataclasses.replace(found, labels=labels, label_layout="token")


def score(config, predicted):
    guesses = np.concatenate([rows[1:-1].argmax(-1) for rows in predicted.results["logits"]])
    return {"token_accuracy": float((guesses == predicted.examples.labels).mean())}


def decode(config, predicted):
    logits = predicted.results["logits"]
    return [{"tags": [config.id2label[i] for i in rows[1:-1].argmax(-1)]} for rows in logits]


ADJECTIVE_TASK = jaxbert.Task(
    name="adjectives",
    head=heads.ForTokenClassification,
    read=read,
    encode=encode,
    target=lambda examples: {"labels": examples.label_names},
    configure=lambda config, examples: dataclasses.replace(
        config, id2label=tuple(examples.label_names)
    ),
    loss=lambda outputs, batch, smoothing: token_classification(
        outputs.logits, batch["labels"], smoothing=smoothing
    ),
    score=score,
    decode=decode,
    metrics={"token_accuracy": True},
    label_layout="token",
)


def toy_model(seed=0, **fields):
    config = ToyConfig(**(tiny.SHAPE | {"hidden_dropout_prob": 0.1} | fields))
    return ToyForTokenClassification(config, rngs=nnx.Rngs(seed))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("toy-tokenizer")
    (directory / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    return jaxbert.load_tokenizer(directory)


@pytest.fixture(scope="module")
def programs():
    """Compiled once for all tests of this file."""
    return {}


@pytest.fixture(scope="module")
def make(tokenizer, programs):
    examples = ADJECTIVE_TASK.read(tiny.TEXTS)

    def make(output=None, evaluation=examples, resume=False, **settings):
        defaults = dict(epochs=6, batch_size=4, max_length=16, log_every=1, seed=5)
        optimizer = jaxbert.OptimizerConfig(
            learning_rate=1e-2, schedule="constant", layer_decay=0.9
        )
        config = jaxbert.TrainConfig(**(defaults | settings), optimizer=optimizer)
        return jaxbert.Trainer(
            toy_model(), tokenizer, train=examples, evaluation=evaluation, task=ADJECTIVE_TASK,
            config=config, output=output, resume=resume, progress=False, programs=programs,
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def finished(make, tmp_path_factory):
    trainer = make(tmp_path_factory.mktemp("toy") / "run")
    return trainer, trainer.fit()


def test_training_learns_the_task(finished):
    _, run = finished
    assert run["status"] == "finished"
    assert run["task"] == "adjectives"
    first, last = run["evaluations"][0], run["evaluations"][-1]
    assert last["loss"] < first["loss"]
    assert last["token_accuracy"] > 0.9


def test_every_label_has_a_rate(finished):
    plan = jaxbert.RatePlan.make(
        jaxbert.OptimizerConfig(layer_decay=0.5), jaxbert.split_model(finished[0].model)[1], 10, 5
    )
    shares = {group: peak / plan.peaks["head"] for group, peak in plan.peaks.items()}
    assert shares == pytest.approx(
        {"embeddings": 0.125, "layer_0": 0.25, "layer_1": 0.5, "final_norm": 1, "head": 1}
    )


def test_save_load_and_predict(finished, tokenizer):
    trainer, _ = finished
    hf = json.loads((trainer.output / "config.json").read_text())
    assert (hf["model_type"], hf["width"], hf["depth"]) == ("toy", 16, 2)
    assert "hidden_size" not in hf
    again = ToyForTokenClassification.from_pretrained(trainer.output)
    assert again.config == trainer.model.config
    predictor = jaxbert.Predictor(again, tokenizer, task=ADJECTIVE_TASK, max_length=16)
    texts = ["a great film", "the plot is weak and cold"]
    assert predictor.predict(texts) == trainer.predict(texts)
    assert predictor.predict(texts)[1]["tags"] == [
        "other", "other", "other", "adjective", "other", "adjective"
    ]  # fmt: skip
    tiny.assert_equal(predictor.params, trainer.predictor.params)
    # Rows of other shapes: the same sums, rounded in another order.
    for one, other in zip(predictor.logits(texts), trainer.logits(texts), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_a_resumed_run_is_the_uninterrupted_one(finished, make, tmp_path):
    with tiny.stopped_after(7), pytest.raises(KeyboardInterrupt):
        make(tmp_path / "run").fit()
    resumed = make(tmp_path / "run", resume=True)
    resumed.fit()
    trainer, _ = finished
    tiny.assert_equal(jaxbert.split_model(resumed.model)[1], jaxbert.split_model(trainer.model)[1])


def test_packed_rows_give_the_padded_update(make):
    """With dropout on: a mask is the token's, wherever it lies."""
    packed, padded = (
        make(evaluation=None, layout=layout, epochs=1) for layout in ("packed", "padded")
    )
    assert packed._train.shapes[0].segments > 1
    first, second = (tiny.leaves(t.fit() and jaxbert.split_model(t.model)[1])
                     for t in (packed, padded))  # fmt: skip
    for path, leaf in first.items():
        if not path.endswith("attention/key/bias"):  # whose gradient is rounding noise
            np.testing.assert_allclose(leaf, second[path], rtol=0, atol=2e-4, err_msg=path)


def test_the_network_is_the_formula():
    """x += attend(norm(x)); x += down(act(a) * b) where a, b = up(norm(x)); a norm at the end."""
    model = toy_model(reach=2)
    p = tiny.leaves(jaxbert.split_model(model)[1])
    ids = np.array([[2, 9, 7, 24, 11, 26, 8, 3]])

    def normed(x, path):
        centered = x - x.mean(-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * p[f"{path}/scale"] + p[f"{path}/bias"]

    def product(x, path):
        return x @ p[f"{path}/kernel"].astype(np.float64) + p[f"{path}/bias"]

    def split(x):
        return x.reshape(8, 2, 8).transpose(1, 0, 2)

    table = "encoder/embeddings"
    x = (
        p[f"{table}/word_embeddings/embedding"][ids[0]].astype(np.float64)
        + p[f"{table}/position_embeddings/embedding"][:8]
    )
    x = normed(x, f"{table}/layer_norm")
    distance = np.abs(np.arange(8)[:, None] - np.arange(8))
    for i, reach in enumerate((99, 2)):
        layer = f"encoder/layers/{i}"
        read = normed(x, f"{layer}/attention_norm")
        q, k, v = (
            split(product(read, f"{layer}/attention/{n}")) for n in ("query", "key", "value")
        )
        scores = np.where(distance <= reach, q @ k.transpose(0, 2, 1) / np.sqrt(8), -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        x = x + product(mixed.transpose(1, 0, 2).reshape(8, 16), f"{layer}/attention/output")
        inner, gate = np.split(
            product(normed(x, f"{layer}/output_norm"), f"{layer}/intermediate"), 2, axis=-1
        )
        active = np.asarray(jax.nn.gelu(jnp.asarray(inner), approximate=False))
        x = x + product(active * gate, f"{layer}/output")
    wanted = product(normed(x, "encoder/final_norm"), "head/classifier")
    got = np.asarray(model(ids).logits[0])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_an_encoder_without_a_task_is_told_so(tokenizer):
    examples = ADJECTIVE_TASK.read(tiny.TEXTS)
    with pytest.raises(ValueError, match=r"labels of toy are for adjectives, a ToyFor"):
        jaxbert.Trainer(toy_model(), tokenizer, train=examples)
