"""Tasks of texts beside `transformers`: logits, loss and gradient of the same features.

Ours are packed, theirs padded. A step of plain SGD with rate 1 moves by the gradient.
"""

import dataclasses

import jax
import numpy as np
import tiny
import torch
import transformers
from flax import nnx
from tolerance import PROMISE, assert_close, assert_gradients_close, network_terms

import jaxbert
from jaxbert.data import Batches, Examples, Tokenized
from jaxbert.models import split_model
from jaxbert.optim import RatePlan
from jaxbert.tasks import TASKS, TaskOptions, get_task
from jaxbert.training.step import init_state, make_eval_step, make_train_step

LONGEST, C = 16, 3
FIELDS = dict(
    vocab_size=60,
    hidden_size=24,
    num_hidden_layers=1,
    num_attention_heads=3,
    intermediate_size=37,
    max_position_embeddings=32,
    initializer_range=0.2,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def random_features(count, seed=0):
    """Of 2 to 16 tokens, of one or two types."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(2, LONGEST + 1, count))])
    ids = rng.integers(1, FIELDS["vocab_size"], offsets[-1]).astype(np.int32)
    return Tokenized(ids, (rng.random(offsets[-1]) < 0.3).astype(np.int32), offsets)


def padded(data):
    """The same as rows padded with 0."""
    rows = [data.of_feature(i) for i in range(len(data))]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad([torch.tensor(data.input_ids[r]).long() for r in rows], True),
        "token_type_ids": pad([torch.tensor(data.token_type_ids[r]).long() for r in rows], True),
        "attention_mask": pad([torch.ones(r.stop - r.start).long() for r in rows], True),
    }


def torch_model(name, **fields):
    torch.manual_seed(0)
    config = transformers.BertConfig(**FIELDS, **fields)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias") or parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def assert_equal_to(theirs, logits, loss, task, data, directory):
    """Our logits, loss and gradient of one packed batch are those of PyTorch."""
    theirs.save_pretrained(directory / "start")
    ours = getattr(jaxbert, type(theirs).__name__).from_pretrained(directory / "start")
    graphdef, params = split_model(ours)
    units = len(data.features_of) - 1
    batch = next(Batches(data, units, max_length=LONGEST).epoch(0))
    assert len(batch["input_ids"]) < units  # rows are shared
    ids = batch.pop("example_ids")
    out = jax.jit(make_eval_step(graphdef, task))(params, batch)
    found = np.empty(logits.reshape(len(data), -1).shape, np.float32)
    found[ids[ids >= 0]] = np.asarray(out["results"]["logits"])[ids >= 0].reshape(len(data), -1)
    terms = network_terms(ours.config, LONGEST)
    wanted = logits.detach().numpy().reshape(len(data), -1)
    assert_close(found, wanted, terms=terms, limit=PROMISE, what="logits")

    plan = RatePlan.make(tiny.PLAIN, params, 10, 2)
    step = jax.jit(make_train_step(graphdef, plan, task))
    state, values = step(init_state(jax.tree.map(np.copy, params), plan.optimizer, 0), batch)
    assert_close(float(values["loss"]), float(loss.detach()), terms=terms, limit=PROMISE, scale=3.0)
    loss.backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(directory / "gradients")
    _, wanted = split_model(type(ours).from_pretrained(directory / "gradients"))
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), params, state.params)
    terms = network_terms(ours.config, LONGEST, gradient=True)
    assert_gradients_close(tiny.leaves(moved), tiny.leaves(wanted), terms=terms, floor=1.0)


def classifier(problem_type=None):
    return torch_model("BertForSequenceClassification", num_labels=C, problem_type=problem_type)


def labelled(labels, weights=None):
    data = random_features(len(labels))
    return dataclasses.replace(data, labels=labels, weights=weights)


def test_several_labels(tmp_path):
    labels = np.random.default_rng(1).integers(0, 2, (9, C)).astype(np.float32)
    theirs, data = classifier("multi_label_classification"), labelled(labels)
    out = theirs(**padded(data), labels=torch.tensor(labels))
    assert_equal_to(
        theirs, out.logits, out.loss, TASKS["multi-label-classification"], data, tmp_path
    )


def test_shares_of_classes(tmp_path):
    labels = np.random.default_rng(1).dirichlet(np.ones(C), 9).astype(np.float32)
    theirs, data = classifier(), labelled(labels)
    logits = theirs(**padded(data)).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    assert_equal_to(theirs, logits, loss, TASKS["text-classification"], data, tmp_path)


def test_weights_of_classes(tmp_path):
    chosen = np.array([0, 2, 1, 0, 0, 2, 0, 0, 0], np.int32)
    names = ("a", "b=c", "d")
    task = get_task("text-classification", TaskOptions(class_weights="b=c=3.5,d=0.25"))
    weighed = task.weigh(Examples(("",) * 9, labels=chosen, label_names=names))
    theirs, data = classifier(), labelled(chosen, weighed.weights)
    logits = theirs(**padded(data)).logits
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([1, 3.5, 0.25]))(
        logits, torch.tensor(chosen).long()
    )
    assert_equal_to(theirs, logits, loss, task, data, tmp_path)


def test_transformers_reads_thresholds_and_leaves_them(tmp_path):
    config = jaxbert.BertConfig(
        **FIELDS, num_labels=2, id2label=("a", "b"), thresholds=(("a", 0.25), ("b", 0.5)),
        problem_type="multi_label_classification",
    )  # fmt: skip
    jaxbert.BertForSequenceClassification(config, rngs=nnx.Rngs(0)).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.config.problem_type == "multi_label_classification"
    theirs.save_pretrained(tmp_path / "theirs")
    ours = jaxbert.AutoConfig.from_pretrained(tmp_path / "theirs")
    assert ours.thresholds == config.thresholds


def test_multiple_choice(tmp_path):
    data = random_features(5 * C)
    labels = np.array([2, 0, 1, 1, 0], np.int32)
    data = Tokenized(
        data.input_ids, data.token_type_ids, data.offsets, labels, "choice",
        units=np.arange(0, 5 * C + 1, C),
    )  # fmt: skip
    theirs = torch_model("BertForMultipleChoice")
    rows = {name: rows.reshape(5, C, -1) for name, rows in padded(data).items()}
    out = theirs(**rows, labels=torch.tensor(labels).long())
    assert_equal_to(theirs, out.logits, out.loss, TASKS["multiple-choice"], data, tmp_path)
