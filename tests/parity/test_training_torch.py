"""Training beside `transformers` and `torch.optim.AdamW`; what a run leaves behind.

Ours reads packed rows, theirs padded ones with a mask. Their groups, schedule and loop are written
out here by hand, so that nothing of ours decides what is right.
"""

import dataclasses

import families
import jax
import numpy as np
import pytest
import torch
import transformers
from tolerance import (
    KEY_BIAS,
    PROMISE,
    assert_close,
    assert_losses_alike,
    assert_trained_alike,
    network_terms,
)

from jaxbert.data import Batches, Examples, Tokenized, load_tokenizer
from jaxbert.models import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    merge_model,
    split_model,
)
from jaxbert.optim import OptimizerConfig, RatePlan
from jaxbert.tasks import TASKS, TEXT_CLASSIFICATION
from jaxbert.training import TrainConfig, Trainer
from jaxbert.training.step import init_state, make_train_step

STEPS, WARMUP, RATE, BATCH, EXAMPLES, LONGEST = 50, 5, 2e-3, 8, 60, 24
FEWER = 30
SHAPE = dict(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=32,
    num_labels=3,
)
# Where a parameter's name begins -> its multiplier with decay .8 and a head at twice the rate:
# head 2, pooler 1, then from the top layer down .8, .8^2, and .8^3 for the embeddings.
BY_LAYER = {
    "classifier.": 2.0,
    "bert.pooler.": 1.0,
    "bert.encoder.layer.1.": 0.8,
    "bert.encoder.layer.0.": 0.64,
    "bert.embeddings.": 0.512,
}
ALIKE = dict.fromkeys(BY_LAYER, 1.0)
DECAYED = OptimizerConfig(
    learning_rate=RATE,
    schedule="linear",
    warmup=WARMUP,
    layer_decay=0.8,
    convention="standard",
    head_multiplier=2.0,
    weight_decay=0.01,
    clip_norm=1.0,
    epsilon=1e-6,
)
EQUAL = dataclasses.replace(DECAYED, layer_decay=1.0, head_multiplier=1.0)
CASES = {
    "decay by layer": (DECAYED, BY_LAYER),
    "one rate": (EQUAL, ALIKE),
    "frozen embeddings": (
        dataclasses.replace(DECAYED, frozen=("embeddings",)),
        BY_LAYER | {"bert.embeddings.": 0.0},
    ),
}


def random_data():
    """Texts of 2 to 24 tokens, of one or two types, whose label depends on their tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, LONGEST + 1, EXAMPLES)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(1, SHAPE["vocab_size"], offsets[-1]).astype(np.int32)
    types = (rng.random(offsets[-1]) < 0.3).astype(np.int32)
    labels = (ids[offsets[:-1]] % 3).astype(np.int32)
    return Tokenized(ids, types, offsets, labels)


def random_model():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        **SHAPE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return transformers.BertForSequenceClassification(config)


def first_batches(data, steps):
    batches = Batches(data, BATCH, max_length=LONGEST, layout="packed", shuffle=True, seed=3)
    epochs = -(-steps // batches.steps_per_epoch)
    found = [batch for epoch in range(epochs) for batch in batches.epoch(epoch)][:steps]
    assert max(batch["segment_starts"].shape[1] for batch in found) > 1  # rows are shared
    return found, batches.steps_per_epoch


def in_place(batch):
    """The batch's examples by their places in it, which number their tokens."""
    firsts = (batch["segment_ids"] > 0) & (batch["token_index"] % LONGEST == 0)
    ids = batch["example_ids"]
    return ids[ids >= 0][np.argsort(batch["token_index"][firsts])]


def our_run(directory, config, batches, steps_per_epoch):
    """Losses [T], gradient norms [T], and the trained model as `transformers` reads it."""
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    graphdef, params = split_model(model)
    plan = RatePlan.make(config, params, len(batches), steps_per_epoch)
    step = jax.jit(make_train_step(graphdef, plan, TEXT_CLASSIFICATION))
    state = init_state(params, plan.optimizer, seed=0)
    values = []
    for batch in batches:
        state, metrics = step(state, batch)
        values.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    merge_model(graphdef, state.params).save_pretrained(directory / "ours")
    trained = transformers.AutoModelForSequenceClassification.from_pretrained(directory / "ours")
    return *np.array(values).T, trained


def torch_groups(model, multipliers):
    groups = []
    for name, parameter in model.named_parameters():
        (multiplier,) = (m for start, m in multipliers.items() if name.startswith(start))
        if multiplier == 0:
            parameter.requires_grad_(False)
            continue
        plain = parameter.ndim == 1  # biases and norms
        decay = 0.0 if plain else 0.01
        groups.append({"params": [parameter], "lr": RATE * multiplier, "weight_decay": decay})
    return groups


def padded(data, members, has_types):
    """The same examples as rows padded with 0, as `transformers` takes them."""
    rows = [slice(data.offsets[i], data.offsets[i + 1]) for i in members]
    pad = torch.nn.utils.rnn.pad_sequence
    types = pad([torch.tensor(data.token_type_ids[r]).long() for r in rows], True)
    return ({"token_type_ids": types} if has_types else {}) | {
        "input_ids": pad([torch.tensor(data.input_ids[r]).long() for r in rows], True),
        "attention_mask": pad([torch.ones(r.stop - r.start).long() for r in rows], True),
        "labels": torch.tensor(data.labels[members]).long(),
    }


def their_run(model, multipliers, data, orders):
    groups = torch_groups(model, multipliers)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda t: t / WARMUP if t < WARMUP else (len(orders) - t) / (len(orders) - WARMUP),
    )
    moving = [parameter for group in groups for parameter in group["params"]]
    model.train()
    values = []
    for members in orders:
        loss = model(**padded(data, members, hasattr(model.config, "type_vocab_size"))).loss
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        schedule.step()
        values.append((float(loss.detach()), float(norm)))
    return np.array(values).T


@pytest.mark.parametrize("case", CASES)
def test_loss_curve_and_parameters_follow_torch(tmp_path, case):
    config, multipliers = CASES[case]
    theirs = random_model()
    assert_follows(tmp_path, theirs, config, multipliers, STEPS)


# {family: its parameters' beginnings, from input to output}; multipliers as in BY_LAYER.
LAYERS = {
    "roberta": (("roberta.embeddings.",), "roberta.encoder.layer.{}."),
    "distilbert": (("distilbert.embeddings.",), "distilbert.transformer.layer.{}."),
    "electra": (
        ("electra.embeddings.", "electra.embeddings_project."),
        "electra.encoder.layer.{}.",
    ),
    "modernbert": (("model.embeddings.",), "model.layers.{}."),
    "deberta-v2": (
        ("deberta.embeddings.", "deberta.encoder.rel_embeddings.", "deberta.encoder.LayerNorm."),
        "deberta.encoder.layer.{}.",
    ),
    "mpnet": (
        ("mpnet.embeddings.", "mpnet.encoder.relative_attention_bias."),
        "mpnet.encoder.layer.{}.",
    ),
    "albert": (
        ("albert.embeddings.", "albert.encoder.embedding_hidden_mapping_in."),
        "albert.encoder.albert_layer_groups.{}.",
    ),
}
_STILL = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
# Without dropout, in each family's words.
STILL = dict.fromkeys(LAYERS, _STILL) | {
    "distilbert": dict(dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0),
    "modernbert": {},
    "albert": _STILL | dict(classifier_dropout_prob=0.0, num_hidden_groups=1),
}
TOP = {"classifier.": 2.0, "pre_classifier.": 2.0, "pooler.": 2.0, "head.": 2.0}
TOP |= {"albert.pooler.": 1.0, "model.final_norm.": 1.0}
ONE_LAYER = ("albert",)  # it has two, with the same parameters


@pytest.mark.parametrize("family", LAYERS)
def test_every_family_follows_torch(tmp_path, family):
    embeddings, layer = LAYERS[family]
    count = 1 if family in ONE_LAYER else 2
    multipliers = TOP | {layer.format(i): 0.8 ** (count - i) for i in range(count)}
    multipliers |= dict.fromkeys(embeddings, 0.8 ** (count + 1))
    case = next(iter(families.CONFIGS[family]))
    names = families.torch_config(family, case, "Model").attribute_map
    shape = {names.get(key, key): value for key, value in SHAPE.items()}
    if family == "distilbert":
        shape["hidden_dim"] = shape.pop("intermediate_size")
    if family in ("roberta", "albert", "electra"):
        shape["type_vocab_size"] = 2
    theirs = families.torch_model(
        family, case, "ForSequenceClassification", **shape, **STILL[family], initializer_range=0.02
    )
    assert_follows(tmp_path, theirs, DECAYED, multipliers, FEWER)


def assert_follows(tmp_path, theirs, config, multipliers, steps):
    data = random_data()
    theirs.save_pretrained(tmp_path)
    start = {name: value.clone() for name, value in theirs.state_dict().items()}
    batches, steps_per_epoch = first_batches(data, steps)
    orders = [in_place(batch) for batch in batches]
    assert {len(members) for members in orders} == {BATCH, EXAMPLES % BATCH}  # a short batch too

    losses, norms, ours = our_run(tmp_path, config, batches, steps_per_epoch)
    wanted_losses, wanted_norms = their_run(theirs, multipliers, data, orders)

    assert wanted_losses[-5:].mean() < wanted_losses[:5].mean() - 0.1  # there is a curve to follow
    assert wanted_norms.min() < 1 < wanted_norms.max()  # clipped at times, not always
    config = AutoConfig.from_pretrained(tmp_path)
    terms = network_terms(config, LONGEST, gradient=True)
    assert_losses_alike(losses, wanted_losses, terms=terms, adam=True, limit=1e-4)
    assert_losses_alike(norms, wanted_norms, terms=terms, adam=True, what="gradient norms")
    trained = ours.state_dict()
    assert trained.keys() == start.keys()
    found, end = ({k: v.numpy() for k, v in m.state_dict().items()} for m in (ours, theirs))
    rate = RATE * max(multipliers.values())
    assert_trained_alike(found, end, None, terms=terms, steps=steps, adam_rate=rate)
    for name in end:
        if KEY_BIAS.search(name):
            continue
        still = multipliers.get("bert.embeddings.") == 0 and ".embeddings." in name
        assert torch.equal(trained[name], start[name]) == still, name


def tiny_tokenizer(directory):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "very"]
    directory.mkdir()
    (directory / "vocab.txt").write_text("\n".join(words) + "\n")
    return load_tokenizer(directory)


TEXTS = ("a good film", "a very bad film", "good", "very very bad", "film", "a bad bad bad film")
PROBLEMS = {
    "text-classification": (
        np.array([1, 0, 1, 0, 2, 0], np.int32),
        ("negative", "positive", "unsure"),
    ),
    "text-regression": (np.array([1.5, -2.0, 1.0, -2.5, 0.0, -1.5], np.float32), None),
}


@pytest.mark.parametrize("task", PROBLEMS)
def test_transformers_loads_what_a_run_leaves(tmp_path, task):
    labels, names = PROBLEMS[task]
    width = len(names) if names else 1
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    random_model().save_pretrained(tmp_path / "start")
    model = BertForSequenceClassification.from_pretrained(
        tmp_path / "start", **({"labels": names} if names else {"num_labels": 1})
    )
    examples = Examples(TEXTS, None, labels, names, task)
    config = TrainConfig(epochs=2, batch_size=4, max_length=16)
    trainer = Trainer(
        model, tokenizer, train=examples, evaluation=examples, config=config,
        output=tmp_path / "run", progress=False,
    )  # fmt: skip
    trainer.fit()

    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "run", output_loading_info=True
    )
    assert not any(info.values()), info
    assert type(theirs).__name__ == "BertForSequenceClassification"
    assert (theirs.config.problem_type, theirs.config.num_labels) == (
        TASKS[task].problem_type,
        width,
    )
    assert theirs.config.id2label == dict(enumerate(names or ["LABEL_0"]))
    assert theirs.config.label2id == {name: i for i, name in theirs.config.id2label.items()}
    encode = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    with torch.no_grad():
        wanted = theirs.eval()(**encode(list(TEXTS), padding=True, return_tensors="pt")).logits
    terms = network_terms(theirs.config, 16)
    assert_close(trainer.logits(TEXTS), wanted.numpy(), terms=terms, limit=PROMISE)
    start = BertForSequenceClassification.from_pretrained(tmp_path / "start")
    moved = split_model(trainer.model)[1]["encoder"]["pooler"]["kernel"]
    assert not np.array_equal(moved, split_model(start)[1]["encoder"]["pooler"]["kernel"])
