"""A two-layer model, a vocabulary of forty words and thirteen sentences, for the training tests."""

import contextlib
import json

import jax
import numpy as np
import pytest
from flax import nnx

from jaxbert.data import Examples
from jaxbert.models import BertConfig, BertForSequenceClassification, BertModel, Compute
from jaxbert.optim import OptimizerConfig
from jaxbert.training import TrainConfig, Trainer
from jaxbert.training.loop import Loop

VOCABULARY = """[PAD] [UNK] [CLS] [SEP] [MASK] a the film plot cast music end story is was has
with of and not very good bad dull fine great poor weak fresh warm cold long short"""
WORDS = VOCABULARY.split()
TEXTS = (
    "a good film",
    "the plot is dull and the end is weak",
    "great",
    "the cast was fine and the music was warm",
    "a long and very very bad story of a film with a weak end",
    "poor music",
    "fresh plot with a great end",
    "not good",
    "cold",
    "the story is a great and fresh and warm story",
    "a bad film with a dull cast and poor music",
    "fine film",
    "very weak",
)
LABELS = np.array([1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0], np.int32)
CLASSES = Examples(TEXTS, None, LABELS, ("bad", "good"), "text-classification", "films.csv")
NUMBERS = Examples(TEXTS, None, LABELS * 2.5 - 1, None, "text-regression", "scores.csv")
SHAPE = dict(
    vocab_size=len(WORDS),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=16,
    initializer_range=0.2,
)
# Gentle, and fast enough that every step moves every parameter.
ADAMW = OptimizerConfig(learning_rate=1e-3, schedule="constant", layer_decay=0.9)
# A step of 1 times the gradient, and nothing else: the parameters' difference is the gradient.
PLAIN = OptimizerConfig(
    optimizer="sgd",
    learning_rate=1.0,
    schedule="constant",
    beta1=0.0,
    weight_decay=0.0,
    clip_norm=None,
    layer_decay=1.0,
)


def model(num_labels=2, seed=0, dtype="float32", **config):
    return BertForSequenceClassification(
        BertConfig(**SHAPE, num_labels=num_labels, **config),
        rngs=nnx.Rngs(seed),
        compute=Compute(dtype=dtype),
    )


def encoder(**config):
    return BertModel(BertConfig(**SHAPE, **config), rngs=nnx.Rngs(0))


def trainer(tokenizer, train=CLASSES, output=None, *, network=None, evaluation=None, **config):
    """A trainer of three epochs of four steps; arguments that `Trainer` knows go to it.

    Trainers of one configuration compile the same programs: once is enough for all of them.
    """
    own = {k: config.pop(k) for k in OWN if k in config}
    defaults = dict(epochs=3, batch_size=4, max_length=16, log_every=1, optimizer=ADAMW, seed=5)
    return Trainer(
        network or model(1 if train is NUMBERS else 2),
        tokenizer,
        train=train,
        evaluation=evaluation,
        config=TrainConfig(**(defaults | config)),
        output=output,
        progress=False,
        **({"programs": PROGRAMS} | own),
    )


PROGRAMS = {}
OWN = ("overwrite", "resume", "programs", "task", "callbacks")


@contextlib.contextmanager
def stopped_after(step):
    """Every training in it ends after that step, as if somebody had pressed Ctrl-C."""
    between = Loop._between_steps

    def stop(self):
        between(self)
        if self.progress.step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_between_steps", stop)
        yield


def lines(directory):
    """metrics.jsonl without what depends on the clock."""
    found = []
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        for name in ("examples_per_second", "tokens_per_second", "waiting_share"):
            values.pop(name, None)
        found.append(values)
    return found


def run_json(directory):
    return json.loads((directory / "run.json").read_text())


def leaves(tree):
    """{path: numpy array} of a tree."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in flat}


def assert_equal(first, second):
    """Bit for bit."""
    first, second = leaves(first), leaves(second)
    assert first.keys() == second.keys()
    differ = [k for k in first if first[k].tobytes() != second[k].tobytes()]
    assert not differ
