"""Question answering beside `transformers`: the features and labels of its script, and its loss."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import transformers
from flax import nnx
from tokenizers import pre_tokenizers
from tolerance import PROMISE, assert_close, assert_gradients_close, network_terms

from jaxbert import load_examples
from jaxbert.data import Batches, load_tokenizer
from jaxbert.models import BertConfig, BertForQuestionAnswering, merge_model, split_model
from jaxbert.tasks import TaskOptions, get_task
from jaxbert.tasks.questions import encode_questions
from jaxbert.training.step import make_eval_step, model_inputs

PIECES = [*tiny.WORDS, "##s", "##ing", "é", "##ment", "(", ")", ",", "-"]
LENGTH, STRIDE = 20, 3


def random_words(rng, most):
    words = [*tiny.WORDS[5:], "films", "ending", "(good)", "plot-end", "wasing", "é,", "zebra"]
    return [str(word) for word in rng.choice(words, rng.integers(1, most + 1))]


def random_table(count):
    """Questions about contexts of 1 to 50 words, every fifth without an answer."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        words = random_words(rng, 50)
        first = int(rng.integers(len(words)))
        answer = " ".join(words[first : first + int(rng.integers(1, 4))])
        start = len(" ".join([*words[:first], ""]))
        none = i % 5 == 4
        rows.append(
            {
                "question": " " * (i % 3) + " ".join(random_words(rng, 8)),
                "context": " ".join(words),
                "answers": {"text": [] if none else [answer],
                            "answer_start": [] if none else [start]},
            }
        )  # fmt: skip
    return {name: [row[name] for row in rows] for name in rows[0]}


def their_features(table, tokenizer):
    """(ids, types, labels, edges) as `prepare_train_features` of run_qa.py makes them.

    edges: where an answer's first token is the window's last, and theirs begins in what follows.
    """
    right = tokenizer.padding_side == "right"
    questions = [question.lstrip() for question in table["question"]]
    texts = (questions, table["context"]) if right else (table["context"], questions)
    found = tokenizer(
        *texts, truncation="only_second" if right else "only_first", max_length=LENGTH,
        stride=STRIDE, return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    labels, edges, own = [], [], 1 if right else 0
    for i, offsets in enumerate(found["offset_mapping"]):
        answers = table["answers"][found["overflow_to_sample_mapping"][i]]
        sequences, edge, label = found.sequence_ids(i), False, (0, 0)
        if answers["answer_start"]:
            begin = answers["answer_start"][0]
            end = begin + len(answers["text"][0])
            first = sequences.index(own)
            last = len(offsets) - 1
            while sequences[last] != own:
                last -= 1
            if offsets[first][0] <= begin and offsets[last][1] >= end:
                edge = offsets[last][0] <= begin
                while first < len(offsets) and offsets[first][0] <= begin:
                    first += 1
                while offsets[last][1] >= end:
                    last -= 1
                label = (first - 1, last + 1)
        labels.append(label)
        edges.append(edge)
    types = found.get("token_type_ids") or [[0] * len(ids) for ids in found["input_ids"]]
    return found["input_ids"], types, np.array(labels), np.array(edges)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pieces")
    (directory / "vocab.txt").write_text("\n".join(PIECES), encoding="utf-8")
    return load_tokenizer(directory)


def on_the_left(tokenizer, **sides):
    copied = copy.deepcopy(tokenizer)
    for name, side in sides.items():
        setattr(copied, name, side)
    return copied


def byte_level():
    """A tokenizer of single bytes and the space before a word, as RoBERTa's has it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
    vocabulary = special | {letter: i for i, letter in enumerate(letters, len(special))}
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=[])


TOKENIZERS = {
    "right": lambda pieces: pieces,
    "padded on the left": lambda pieces: on_the_left(pieces, padding_side="left"),
    "cut on the left": lambda pieces: on_the_left(pieces, truncation_side="left"),
    "bytes": lambda _: byte_level(),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_features_and_labels(pieces, name):
    tokenizer = TOKENIZERS[name](pieces)
    table = random_table(200)
    if name == "bytes":  # short questions, whose letters are tokens
        table["question"] = [question[:8] for question in table["question"]]
    ids, types, labels, edges = their_features(table, tokenizer)
    found = encode_questions(load_examples(table), tokenizer, LENGTH, doc_stride=STRIDE)
    assert len(found) == len(ids) > 300
    for i, (row, kinds) in enumerate(zip(ids, types, strict=True)):
        at = found.of_feature(i)
        assert found.input_ids[at].tolist() == row
        assert found.token_type_ids[at].tolist() == kinds
    answers = [table["answers"][i]["text"] for i in found.example_of]
    divided = np.array([bool(a) and a[0][0] == "é" for a in answers]) & labels.any(axis=1)
    same = ~edges & ~divided if name == "bytes" else ~edges
    assert labels[same].any(axis=1).sum() > 20
    np.testing.assert_array_equal(found.labels[same], labels[same])
    # Where theirs begins in what follows the context, ours is the last token of it.
    assert edges.any() == (name != "bytes")
    np.testing.assert_array_equal(found.labels[edges][:, 1], labels[edges][:, 1])
    assert (labels[edges][:, 0] > found.labels[edges][:, 0]).all()
    assert (found.labels[edges][:, 0] == found.labels[edges][:, 1]).all()
    if name == "bytes":  # of a letter's two bytes theirs begins with the second
        later = (labels - found.labels)[divided]
        assert {tuple(one) for one in later.tolist()} == {(1, 0), (0, 0)}  # or a window does


SHAPE = tiny.SHAPE | {"vocab_size": len(PIECES), "max_position_embeddings": LENGTH}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def test_logits_loss_and_gradient(tmp_path, pieces):
    """Ours of packed rows, theirs of one feature at a time, which has no padding."""
    torch.manual_seed(0)
    theirs = transformers.BertForQuestionAnswering(transformers.BertConfig(**SHAPE, **STILL)).eval()
    theirs.save_pretrained(tmp_path)
    task = get_task("question-answering", TaskOptions(doc_stride=STRIDE))
    encoded = task.encode(load_examples(random_table(12)), pieces, LENGTH)
    graphdef, params = split_model(BertForQuestionAnswering.from_pretrained(tmp_path))
    (batch,) = Batches(encoded, len(encoded), max_length=3 * LENGTH).epoch(0)
    assert (batch["segment_ids"] > 1).any()  # rows are shared
    ids = batch.pop("example_ids")
    batch = {name: jnp.asarray(values) for name, values in batch.items()}

    def mean_loss(params):
        outputs = merge_model(graphdef, params)(**model_inputs(batch))
        total, count = task.loss(outputs, batch, 0.0)
        return total / count

    loss, grads = jax.jit(jax.value_and_grad(mean_loss))(params)
    results = jax.jit(make_eval_step(graphdef, task))(params, batch)["results"]
    terms = network_terms(BertConfig(**SHAPE), LENGTH, True)
    wanted = []
    for row, segment in np.argwhere(ids >= 0):
        feature = int(ids[row, segment])
        at = encoded.of_feature(feature)
        one = {"input_ids": encoded.input_ids[at], "token_type_ids": encoded.token_type_ids[at]}
        said = dict(zip(("start_positions", "end_positions"), encoded.labels[feature], strict=True))
        inputs = {name: torch.tensor(value)[None].long() for name, value in (one | said).items()}
        out = theirs(**inputs)
        (out.loss / len(encoded)).backward()
        wanted.append(float(out.loss.detach()))
        own = np.asarray(batch["segment_ids"])[row] == segment + 1
        for name in ("start_logits", "end_logits"):
            got = np.asarray(results[name])[row, own]
            assert_close(got, out[name][0].detach().numpy(), terms=terms, limit=PROMISE)
    assert_close(float(loss), np.mean(wanted), terms=terms, limit=PROMISE)
    # Its gradients, under our names: as if they were its weights.
    for parameter in theirs.parameters():
        parameter.data = parameter.grad
    theirs.save_pretrained(tmp_path / "gradient")
    there = split_model(BertForQuestionAnswering.from_pretrained(tmp_path / "gradient"))[1]
    ours, there = tiny.leaves(grads), tiny.leaves(there)
    for zero in ("encoder/layers/1/output_norm/bias", "head/qa_outputs/bias"):
        # What is added to every token alike, a softmax over them does not see.
        assert max(np.abs(ours.pop(zero)).max(), np.abs(there.pop(zero)).max()) < 1e-7
    assert_gradients_close(ours, there, terms=terms)


def test_their_loss_depends_on_padding(pieces):
    """Which is why it is compared without any."""
    torch.manual_seed(0)
    theirs = transformers.BertForQuestionAnswering(transformers.BertConfig(**SHAPE, **STILL)).eval()
    ids = torch.tensor([[2, 6, 3, 7, 8, 3]])
    label = dict(start_positions=torch.tensor([3]), end_positions=torch.tensor([4]))
    plain = theirs(ids, **label).loss
    padded = torch.nn.functional.pad(ids, (0, 6))
    seen = torch.nn.functional.pad(torch.ones_like(ids), (0, 6))
    assert theirs(padded, attention_mask=seen, **label).loss > plain + 0.1


def test_transformers_loads_what_is_saved(tmp_path):
    config = BertConfig(**SHAPE, thresholds=(("null", -1.25),))
    BertForQuestionAnswering(config, rngs=nnx.Rngs(0)).save_pretrained(tmp_path)
    theirs, info = transformers.AutoModelForQuestionAnswering.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values()), info
    assert theirs.config.task_specific_params == {"thresholds": {"null": -1.25}}
    theirs.save_pretrained(tmp_path / "again")
    again = BertForQuestionAnswering.from_pretrained(tmp_path / "again")
    assert again.config.thresholds == (("null", -1.25),)
