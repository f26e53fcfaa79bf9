"""Tags of words beside `transformers`: its features, logits, loss and gradient."""

import dataclasses

import jax
import numpy as np
import tiny
import torch
import transformers
from tolerance import PROMISE, assert_close, assert_gradients_close, network_terms

from jaxbert import BertForTokenClassification, Predictor, load_examples
from jaxbert.data import Batches, load_tokenizer
from jaxbert.models import split_model
from jaxbert.optim import RatePlan
from jaxbert.tasks import get_task
from jaxbert.tasks.task import logits_of
from jaxbert.training.step import init_state, make_train_step

LONGEST, TAGS = 12, ("B-x", "I-x", "O")
TASK = get_task("token-classification")


def sentences():
    """Words of one token and of several, and of none; one sentence is too long."""
    rng = np.random.default_rng(0)
    kinds = ["film", "good-bad", "very", "a-b-c", "\x07", "cold"]
    words = [[kinds[i] for i in rng.integers(0, 6, n)] for n in (3, 1, 5, 4, 2, 12, 3, 5)]
    tags = [[TAGS[i] for i in rng.integers(0, 3, len(row))] for row in words]
    return load_examples({"tokens": words, "tags": tags})


def run_ner(tokenizer, examples):
    """Features as examples/pytorch/token-classification/run_ner.py of transformers makes them."""
    found = tokenizer(
        [list(words) for words in examples.words],
        truncation=True, max_length=LONGEST, is_split_into_words=True, padding=True,
    )  # fmt: skip
    labels = []
    for i in range(len(examples)):
        tags = examples.labels[examples.starts[i] : examples.starts[i + 1]]
        before, row = None, []
        for word in found.word_ids(i):
            row.append(-100 if word is None or word == before else int(tags[word]))
            before = word
        labels.append(row)
    return {**{name: torch.tensor(rows) for name, rows in found.items()},
            "labels": torch.tensor(labels)}  # fmt: skip


def test_features_logits_loss_and_gradient(tmp_path):
    torch.manual_seed(0)
    shape = tiny.SHAPE | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**shape, num_labels=3)
    theirs = transformers.BertForTokenClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    tokenizer, examples = load_tokenizer(tmp_path), sentences()
    rows = run_ner(transformers.AutoTokenizer.from_pretrained(tmp_path), examples)
    out = theirs(**rows)
    out.loss.backward()

    data = TASK.encode(examples, tokenizer, LONGEST)
    there = rows["attention_mask"].numpy() > 0
    np.testing.assert_array_equal(data.input_ids, rows["input_ids"].numpy()[there])
    np.testing.assert_array_equal(data.labels, rows["labels"].numpy()[there])
    assert data.truncated == 3

    model = BertForTokenClassification.from_pretrained(tmp_path, labels=TAGS)
    keeping = dataclasses.replace(TASK, results=logits_of)
    logits = Predictor(model, tokenizer, task=keeping, max_length=LONGEST).logits(examples)
    terms = network_terms(model.config, LONGEST)
    wanted = out.logits.detach().numpy()[there]
    assert_close(np.concatenate(logits), wanted, terms=terms, limit=PROMISE)

    graphdef, params = split_model(model)
    plan = RatePlan.make(tiny.PLAIN, params, 10, 2)
    batch = next(Batches(data, len(examples), max_length=LONGEST).epoch(0))
    assert len(batch["input_ids"]) < len(examples)  # rows are shared
    state = init_state(jax.tree.map(np.copy, params), plan.optimizer, 0)
    state, values = jax.jit(make_train_step(graphdef, plan, TASK))(state, batch)
    assert_close(float(values["loss"]), float(out.loss.detach()), terms=terms, limit=PROMISE)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), params, state.params)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    _, wanted = split_model(BertForTokenClassification.from_pretrained(tmp_path / "gradients"))
    terms = network_terms(model.config, LONGEST, gradient=True)
    assert_gradients_close(tiny.leaves(moved), tiny.leaves(wanted), terms=terms, floor=1.0)
