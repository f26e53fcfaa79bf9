"""Words are read, told by one token each, trained on and scored, whatever the tokenizer."""

import dataclasses
import io
import json
import logging
from pathlib import Path

import datasets
import jax.numpy as jnp
import numpy as np
import pytest
import seqeval.metrics
import task_checks
import tiny
import tokenizers
from flax import nnx
from transformers import PreTrainedTokenizerFast

from jaxbert import Examples, Predictor, TrainConfig, Trainer, load_examples
from jaxbert.cli import main
from jaxbert.data import Demo
from jaxbert.data.batching import IGNORED_LABEL
from jaxbert.errors import InputError
from jaxbert.models import BertConfig, BertForTokenClassification, BertModel, Compute
from jaxbert.models.outputs import ClassifierOutput
from jaxbert.tasks import TaskOptions, get_task
from jaxbert.tasks.sentences import places_of
from jaxbert.tasks.task import Predicted, logits_of

TASK = get_task("token-classification")
NAMES = ("B-mood", "B-part", "I-mood", "O")
MOODS = {"good", "bad", "dull", "fine", "great", "poor", "weak", "fresh", "warm", "cold", "long",
         "short", "very", "not"}  # fmt: skip
PARTS = {"film", "plot", "cast", "music", "end", "story"}


def tags_of(words):
    """Adjectives and what is before them are a mood; what a film has is a part."""
    tags = []
    for i, word in enumerate(words):
        before = bool(i) and words[i - 1] in MOODS
        kind = "I-mood" if word in MOODS and before else "B-mood" if word in MOODS else "O"
        tags.append("B-part" if word in PARTS else kind)
    return tags


WORDS = [text.split() for text in tiny.TEXTS]
TAGGED = {"tokens": WORDS, "tags": [tags_of(words) for words in WORDS], "id": list(range(13))}


def network(dtype="float32", names=NAMES, **fields):
    config = BertConfig(**task_checks.SHAPE, num_labels=len(names), id2label=names, **fields)
    compute = Compute(dtype=dtype)
    return BertForTokenClassification(config, rngs=nnx.Rngs(0), compute=compute)


def read(**columns):
    return load_examples(columns, task="token-classification")


# Reading


def test_sentences_are_read_by_their_columns():
    found = load_examples(TAGGED)
    assert (found.task, found.label_names, len(found)) == (TASK.name, NAMES, 13)
    assert found.words[2] == ("great",)
    assert found.texts[0] == "a good film"
    flat = [tag for tags in TAGGED["tags"] for tag in tags]
    assert [NAMES[i] for i in found.labels] == flat
    assert found.reason == (
        "dict of columns: column 'tokens' holds words, dict of columns: column 'tags' their tags"
    )


def test_tags_of_the_hub_by_their_names():
    tags = datasets.ClassLabel(names=["O", "B-x", "I-x"])
    kinds = datasets.ClassLabel(names=["NOUN", "VERB"])
    words = datasets.Sequence(datasets.Value("string"))
    features = datasets.Features(
        tokens=words, pos_tags=datasets.Sequence(kinds), ner_tags=datasets.Sequence(tags)
    )
    rows = {"tokens": [["a", "b"], ["c"]], "pos_tags": [[0, 1], [0]], "ner_tags": [[0, 1], [2]]}
    data = datasets.Dataset.from_dict(rows, features=features)
    found = load_examples(data)
    assert found.label_names == ("B-x", "I-x", "O")  # in alphabetic order, not theirs
    assert found.labels.tolist() == [2, 0, 1]
    found = load_examples(data, tags_column="pos_tags")
    assert (found.label_names, found.labels.tolist()) == (("NOUN", "VERB"), [0, 1, 0])
    found = load_examples(data.remove_columns("ner_tags"))
    assert found.label_names == ("NOUN", "VERB")


def test_tags_that_are_numbers_keep_their_order():
    found = read(tokens=[["a", "b", "c"]], tags=[[10, 9, 9]])
    assert (found.label_names, found.labels.tolist()) == (("9", "10"), [1, 0, 0])


def test_the_models_tags_are_what_counts():
    found = load_examples({"tokens": [["a"]], "tags": [["O"]]}, label_names=NAMES)
    assert (found.label_names, found.labels.tolist()) == (NAMES, [3])
    with pytest.raises(InputError, match=r"tags the model does not know: 'B-x'; it knows 'B-mood'"):
        load_examples({"tokens": [["a"]], "tags": [["B-x"]]}, label_names=NAMES)


def test_without_tags_words_or_texts():
    unlabelled = {"task": "token-classification", "labelled": False}
    both = {"tokens": [["a", "film"]], "text": ["dull, is it?"], "other": ["x"]}
    assert load_examples(both, **unlabelled).words == (("a", "film"),)
    assert load_examples(both, text_column="text", **unlabelled).words == (("a", "film"),)
    assert load_examples(both, text_column="other", **unlabelled).texts == ("x",)
    texts = load_examples({"text": ["dull, is it?"]}, **unlabelled)
    assert (texts.texts, texts.labels) == (("dull, is it?",), None)
    with pytest.raises(InputError, match="neither a column 'tokens' of words nor a column 'text'"):
        load_examples({"words": [["a"]]}, **unlabelled)


BAD = {
    "no list": (["a b", 3], [["O"], ["O"]], "str where a list of words .* row 1, 2"),
    "no text": ([["a"], [3]], [["O"], ["B-x"]], "a word that is no text in data row 2"),
    "surrogate": ([["a"], ["\ud800"]], [["O"], ["B-x"]], "surrogate pair.* row 2"),
    "no tags": ([["a"], ["b"]], [["O"], None], "NoneType where a list of tags .* row 2"),
    "the last surrogate": ([["a"], ["\udfff"]], [["O"], ["B-x"]], "surrogate pair.* row 2"),
    "fewer tags": ([["a"], ["b", "c"], ["d"]], [["O"], ["B-x"], []], "1 tags for 2 .* row 2, 3"),
    "true": ([["a"], ["b"]], [["O"], [True]], "a word without a tag.* row 2"),
    "an empty tag": ([["a"], ["b"]], [["O"], [""]], "a word without a tag.* row 2"),
    "none": ([["a"], ["b"]], [["O"], [None]], "a word without a tag.* row 2"),
    "one tag": ([["a"], ["b"]], [["O"], ["O"]], "holds one tag only, 'O'"),
    "no words": ([[], []], [[], []], "holds one tag only, none"),
}


@pytest.mark.parametrize("name", BAD)
def test_sentences_that_cannot_be_used(name):
    tokens, tags, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        read(tokens=tokens, tags=tags)
    assert "\n" not in str(caught.value)


def test_what_is_odd_about_tags_is_told(caplog):
    caplog.set_level(logging.WARNING, "jaxbert")
    read(tokens=[["a", "b"]], tags=[["O", "I-x"]])
    assert "no word has the tag B-x" in caplog.text
    caplog.clear()
    strict = TaskOptions(scheme="strict")
    rows = {"tokens": [["a", "b", "c", "d"]], "tags": [["I-x", "O", "B-x", "I-x"]]}
    load_examples(rows, options=strict)
    assert "1 of 2 entities do not begin with a B" in caplog.text
    caplog.clear()
    load_examples(rows)
    assert not caplog.text
    with pytest.raises(InputError, match="scheme 'strict' is IOB2, which has no 'S-x'"):
        load_examples({"tokens": [["a", "b"]], "tags": [["O", "S-x"]]}, options=strict)


def test_fingerprints_and_parts_know_words_and_tags():
    found = load_examples(TAGGED)
    some = found.take(np.array([12, 0, 12]))
    assert some.words == (("very", "weak"), ("a", "good", "film"), ("very", "weak"))
    assert [NAMES[i] for i in some.labels] == [
        "B-mood", "I-mood", "O", "B-mood", "B-part", "B-mood", "I-mood",
    ]  # fmt: skip
    assert len(found.take(np.array([], int)).labels) == 0
    bare = found.unlabelled()
    assert bare.take(np.array([2])).words == (("great",),)
    prints = {
        read(tokens=tokens, tags=[["O", "B-x", "O"]]).fingerprint
        for tokens in ([["a", "b c", "d"]], [["a b", "c", "d"]])
    }
    assert len(prints) == 2
    assert found.take(np.arange(13)).fingerprint == found.fingerprint


# Words and tokens


def test_the_first_token_has_the_label(tokenizer):
    words = [["a", "good-bad", "\x07", "film"], [], ["dull"]]
    found = read(tokens=words, tags=[["O", "B-x", "I-x", "O"], [], ["B-x"]])
    encoded = TASK.encode(found, tokenizer, 16)
    texts = [tiny.WORDS[i] for i in encoded.input_ids]
    assert texts == ["[CLS]", "a", "good", "[UNK]", "bad", "film", "[SEP]", "[CLS]", "[SEP]",
                     "[CLS]", "dull", "[SEP]"]  # fmt: skip
    _, o, b, no = 0, 2, 0, IGNORED_LABEL
    assert found.label_names == ("B-x", "I-x", "O")
    assert encoded.labels.tolist() == [no, o, b, no, no, o, no, no, no, no, b, no]
    assert places_of(encoded, found.starts).tolist() == [1, 2, -1, 5, 10]


def byte_level(add_prefix_space=False, trim=True):
    """Every byte is a token, as in a byte-level BPE without merges."""
    letters = ["<s>", "</s>", "<unk>", *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.post_processor = tokenizers.processors.RobertaProcessing(
        ("</s>", 1), ("<s>", 0), trim_offsets=trim, add_prefix_space=add_prefix_space
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize("prefixed", [False, True])
def test_words_of_byte_level_tokenizers_have_their_space(prefixed):
    found = read(tokens=[["He", "is", "naïve"]], tags=[["O", "B-x", "O"]])
    encoded = TASK.encode(found, byte_level(prefixed), 32)
    theirs = byte_level(True)(list(found.words[0]), is_split_into_words=True)
    assert encoded.input_ids.tolist() == theirs["input_ids"]
    assert encoded.words.tolist() == [-1 if w is None else w for w in theirs.word_ids()]
    assert np.flatnonzero(encoded.labels >= 0).tolist() == [1, 4, 7]


def by_hand(lengths, room, stride):
    """For words of so many tokens: for each the (window, position in it) that tells it."""
    tokens = [(word, i) for word, length in enumerate(lengths) for i in range(length)]
    windows, start = [], 0
    while True:
        windows.append(tokens[start : start + room])
        if start + room >= len(tokens):
            break
        start += room - stride
    told = []
    for word in range(len(lengths)):
        places = [
            (min(place + 1, len(window) - place), -number, place + 1)
            for number, window in enumerate(windows)
            for place, token in enumerate(window)
            if token == (word, 0)
        ]
        _, number, place = max(places)
        told.append((-number, place))
    return told


@pytest.mark.parametrize(("max_length", "stride"), [(8, 2), (7, 3), (6, 0), (9, 6), (32, 4)])
def test_windows_tell_every_word_once_where_most_is_around_it(tokenizer, max_length, stride):
    rng = np.random.default_rng(stride)
    kinds = ["film", "good-bad", "a-b-c"]  # of one, three and five tokens
    drawn = [rng.integers(0, 3, count) for count in (9, 1, 14)]
    words = [[kinds[i] for i in row] for row in drawn]
    tags = [[("O", "B-x")[i % 2] for i in range(len(row))] for row in words]
    found = read(tokens=words, tags=tags)
    task = get_task("token-classification", TaskOptions(stride=stride))
    encoded = task.encode(found, tokenizer, max_length)
    assert encoded.truncated == 0
    places = places_of(encoded, found.starts)
    feature = np.searchsorted(encoded.offsets, places, side="right") - 1
    first = np.searchsorted(encoded.example_of, np.arange(3))
    wanted = [by_hand([(1, 3, 5)[i] for i in row], max_length - 2, stride) for row in drawn]
    got = [(int(f - first[encoded.example_of[f]]), int(p - encoded.offsets[f]))
           for f, p in zip(feature, places, strict=True)]  # fmt: skip
    assert got == [place for row in wanted for place in row]
    assert (encoded.labels != IGNORED_LABEL).sum() == len(found.labels)
    assert encoded.labels[places].tolist() == found.labels.tolist()


def test_windows_from_the_end_do_not_tell_a_word_by_its_rest(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "truncation_side", "left")
    words = ["film", "a-b-c", "good-bad", "film", "a-b-c", "film", "a-b-c", "a-b-c"]
    found = read(tokens=[words], tags=[["O", "B-x"] * 4])
    task = get_task("token-classification", TaskOptions(stride=0))
    for length in (5, 6, 7, 8):
        encoded = task.encode(found, tokenizer, length)
        told = [tiny.WORDS[i] for i in encoded.input_ids[places_of(encoded, found.starts)]]
        assert told == ["film", "a", "good", "film", "a", "film", "a", "a"]


# Scores and predictions


def predicted(task, examples, tokenizer, tag_of_id, max_length=16, names=NAMES):
    """What the task has of a model that gives every token the tag of its word piece."""
    encoded = task.encode(examples, tokenizer, max_length)
    tags = [names.index(tag_of_id.get(tiny.WORDS[i], "O")) for i in encoded.input_ids]
    rows = [np.array(tags[encoded.of_feature(f)], np.int32) for f in range(len(encoded))]
    results = {"tags": rows, "probabilities": [np.full(len(r), 0.5, np.float32) for r in rows]}
    config = BertConfig(**task_checks.SHAPE, num_labels=len(names), id2label=names)
    return config, Predicted(examples, encoded, results)


SAID = {"good": "B-mood", "film": "B-part", "very": "B-mood", "weak": "I-mood", "end": "B-part"}


def test_the_likeliest_tag_of_each_token_and_its_share():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    found = TASK.results(ClassifierOutput(jnp.asarray(logits)), {})
    np.testing.assert_array_equal(found["tags"], logits.argmax(-1))
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(found["probabilities"], shares.max(-1), rtol=1e-6)


@pytest.mark.parametrize("stride", [None, 2])
def test_scores_are_seqevals_and_what_is_cut_is_missed(tokenizer, stride):
    examples = load_examples(TAGGED)
    task = get_task("token-classification", TaskOptions(stride=stride))
    config, found = predicted(task, examples, tokenizer, SAID, max_length=8)
    scores = task.score(config, found)
    read_words = [6, 16][stride is not None]
    guesses = [
        [SAID.get(word, "O") if i < read_words else "O" for i, word in enumerate(words)]
        for words in WORDS
    ]
    for name in ("f1", "precision", "recall", "accuracy"):
        wanted = getattr(seqeval.metrics, f"{name}_score")(TAGGED["tags"], guesses)
        assert scores[name] == pytest.approx(wanted), name
    assert list(scores) == list(task.metrics)


def test_the_scheme_is_the_options(tokenizer):
    rows = {"tokens": [["good", "weak", "film"]], "tags": [["B-mood", "O", "B-part"]]}
    examples = load_examples(rows, label_names=NAMES)
    says = {"good": "O", "weak": "I-mood", "film": "B-part"}
    precision = {}
    for scheme in ("conll", "strict"):
        task = get_task("token-classification", TaskOptions(scheme=scheme))
        config, found = predicted(task, examples, tokenizer, says)
        precision[scheme] = task.score(config, found)["precision"]
        entities = task.decode(config, found)[0]["entities"]
        assert [e["type"] for e in entities] == ["mood", "part"][scheme == "strict" :]
    assert precision == {"conll": 0.5, "strict": 1.0}


def test_tags_that_make_no_entities_are_classes(tokenizer):
    names = ("ADJ", "NOUN", "O")
    examples = load_examples(
        {"tokens": [["good", "film", "\x07", "plot"]], "tags": [["ADJ", "NOUN", "ADJ", "NOUN"]]},
        label_names=names,
    )
    config, found = predicted(
        TASK, examples, tokenizer, {"good": "ADJ", "film": "NOUN", "plot": "ADJ"}, names=names
    )
    scores = TASK.score(config, found)
    # ADJ: 1 of 2 told is right, 1 of 2 there is told. NOUN: 1 of 1, 1 of 2.
    assert scores == pytest.approx(
        {"f1": (1 / 2 + 2 / 3) / 2, "precision": 3 / 4, "recall": 1 / 2, "accuracy": 1 / 2}
    )
    (row,) = TASK.decode(config, found)
    assert row == {
        "words": ["good", "film", "\x07", "plot"],
        "tags": ["ADJ", "NOUN", None, "ADJ"],
    }


def test_entities_of_words_have_their_place_in_the_joined_text(tokenizer):
    words = [["a", "very", "\x07", "film"], [], ["very", "weak", "good-bad", ""]]
    examples = load_examples({"tokens": words}, task="token-classification", labelled=False)
    rows = TASK.decode(*predicted(TASK, examples, tokenizer, SAID))
    assert [row["words"] for row in rows] == words
    assert rows[0]["tags"] == ["O", "B-mood", "O", "B-part"]
    assert rows[1] == {"words": [], "tags": [], "entities": []}
    assert rows[2]["entities"] == [
        {"type": "mood", "text": "very weak", "start": 0, "end": 9, "score": 0.5},
        {"type": "mood", "text": "good-bad", "start": 10, "end": 18, "score": 0.5},
    ]
    for row, text in zip(rows, examples.texts, strict=True):
        assert all(text[e["start"] : e["end"]] == e["text"] for e in row["entities"])


@pytest.mark.parametrize(("stride", "max_length"), [(None, 16), (2, 6)])
def test_texts_are_told_in_the_tokenizers_words(tokenizer, stride, max_length):
    text = "A  very, very weak\tfilm; the END.\u00a0"
    task = get_task("token-classification", TaskOptions(stride=stride))
    found = predicted(task, Examples((text, " ")), tokenizer, SAID, max_length)
    first, second = task.decode(*found)
    assert first["words"] == ["A", "very", ",", "very", "weak", "film", ";", "the", "END", "."]
    assert [(e["type"], e["text"], e["start"], e["end"]) for e in first["entities"]] == [
        ("mood", "very", 3, 7), ("mood", "very weak", 9, 18), ("part", "film", 19, 23),
        ("part", "END", 29, 32),
    ]  # fmt: skip
    assert second == {"words": [], "tags": [], "entities": []}


@pytest.mark.parametrize("trim", [False, True])
def test_texts_of_byte_level_tokenizers(trim):
    """Words without the spaces that such tokenizers count to them, or make words of."""
    examples = Examples(("In  naïve York.",))
    encoded = TASK.encode(examples, byte_level(trim=trim), 32)
    rows = [np.zeros(len(encoded.input_ids), np.int32)]
    results = {"tags": rows, "probabilities": [rows[0].astype(np.float32)]}
    config = BertConfig(**task_checks.SHAPE, num_labels=2, id2label=("B-x", "O"))
    (row,) = TASK.decode(config, Predicted(examples, encoded, results))
    assert row["words"] == ["In", "naïve", "York", "."]
    places = [(e["text"], e["start"], e["end"]) for e in row["entities"]]
    assert places == [("In", 0, 2), ("naïve", 4, 9), ("York", 10, 14), (".", 14, 15)]


# Training


@pytest.fixture(scope="module")
def sentences():
    return load_examples(TAGGED)


@pytest.fixture(scope="module")
def programs():
    return {}


def test_windows_are_one_step_however_they_are_laid_out(sentences, tokenizer):
    task = get_task("token-classification", TaskOptions(stride=2))
    tokenized = task.encode(sentences, tokenizer, 8)
    model = network(**task_checks.DROPPING)
    _, count, _ = task_checks.assert_one_step(model, task, tokenized, ("packed",))
    first = tokenized.labels[: tokenized.offsets[8]]
    assert count == (first != IGNORED_LABEL).sum() > 20


@pytest.fixture(scope="module")
def make(sentences, tokenizer, programs):
    def make(output=None, resume=False, dtype="float32", **settings):
        settings = dict(epochs=8, batch_size=4, max_length=16, log_every=1, seed=5) | settings
        config = TrainConfig(optimizer=tiny.ADAMW, **settings)
        return Trainer(
            network(dtype), tokenizer, train=sentences, evaluation=sentences, config=config,
            output=output, resume=resume, progress=False, programs=programs,
        )  # fmt: skip

    return make


def test_a_run_resumes_and_its_model_says_what_it_said(make, sentences, tokenizer, tmp_path):
    trainer = task_checks.assert_resumes(make, tmp_path, at=7)
    run = tiny.run_json(tmp_path / "whole")
    assert (run["task"], run["best"]["metric"]) == (TASK.name, "f1")
    assert run["evaluations"][-1]["loss"] < run["evaluations"][0]["loss"]
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    again = BertForTokenClassification.from_pretrained(tmp_path / "whole")
    predictor = Predictor(again, tokenizer, max_length=16, layout="padded")
    said, before = predictor.predict(sentences), trainer.predict(sentences)
    assert [row["tags"] for row in said] == [row["tags"] for row in before]
    for one, other in zip(said, before, strict=True):
        for mine, theirs in zip(one["entities"], other["entities"], strict=True):
            assert mine == theirs | {"score": pytest.approx(theirs["score"], abs=1e-5)}
    wanted = seqeval.metrics.f1_score(TAGGED["tags"], [row["tags"] for row in said])
    assert predictor.evaluate(sentences)["f1"] == pytest.approx(wanted)


def test_what_is_kept_is_the_best_tag_and_its_probability(make, sentences, tokenizer):
    predictor = make().predictor
    results = predictor.results(sentences)
    with pytest.raises(InputError, match="keeps no logits but probabilities, tags"):
        predictor.logits(sentences)
    keeping = dataclasses.replace(TASK, results=logits_of)
    logits = Predictor(network(), tokenizer, task=keeping, max_length=16).logits(sentences)
    for chances, tags, row in zip(*results.values(), logits, strict=True):
        assert row.shape == (len(tags), len(NAMES))
        np.testing.assert_array_equal(tags, row.argmax(-1))
        shares = np.exp(row.astype(np.float64))
        np.testing.assert_allclose(chances, shares.max(-1) / shares.sum(-1), rtol=1e-4)


def test_sentences_without_a_word_make_no_loss(tokenizer, make):
    nothing = load_examples({"tokens": [[], ["\x07"]], "tags": [[], ["O"]]}, label_names=NAMES)
    scores = make().predictor.evaluate(nothing)
    assert (scores["accuracy"], scores["f1"]) == (1.0, 0.0)


# The command line


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("tags")
    BertModel(BertConfig(**task_checks.SHAPE), rngs=nnx.Rngs(0)).save_pretrained(root / "model")
    (root / "model" / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    rows = [dict(zip(TAGGED, row, strict=True)) for row in zip(*TAGGED.values(), strict=True)]
    (root / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [zip(row["tokens"], row["tags"], strict=True) for row in rows]
    lines = ["".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in pairs]
    (root / "train.conll").write_text("\n".join(lines))
    (root / "torn.conll").write_text("a\tO\nfilm\n")
    (root / "bioes.conll").write_text("a\tO\nfilm\tS-film\n")
    (root / "other.conll").write_text("a\tO\nfilm\tB-film\n")
    return root


def test_the_command_line_end_to_end(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("JAXBERT_CACHE", str(place / "cache"))
    words = ["finetune", "--model", "model", "--train", "train.conll", "--eval", "dev.jsonl"]
    words += ["--output", "run", "--max-length", "16", "--batch-size", "4", "--epochs", "2"]
    assert main([*words, "--dry-run"]) == 0
    assert "token-classification" in capsys.readouterr().out
    assert main(words) == 0
    scores = json.loads((place / "run" / "run.json").read_text())["scores"]["dev"]
    assert list(scores)[2:] == ["f1", "precision", "recall", "accuracy"]
    assert main(["finetune", "--resume", "--output", "run"]) == 0
    capsys.readouterr()
    infer = ["--model", "run", "--max-length", "16"]
    assert main(["evaluate", "dev.jsonl", *infer]) == 0
    assert f"{scores['f1']:.4f}" in capsys.readouterr().out
    assert main(["predict", "dev.jsonl", *infer]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in found] == TAGGED["id"]
    assert [row["given_tags"] for row in found] == TAGGED["tags"]
    assert list(found[0]) == ["tokens", "given_tags", "id", "words", "tags", "entities"]
    lines = b"a good film\n\nthe plot, it is dull\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert main(["predict", *infer]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["words"] for row in found][1:] == [[], ["the", "plot", ",", "it", "is", "dull"]]


# Where the model is not even looked for, there is none.
REFUSED = {
    "--model nowhere --train torn.conll": "torn.conll, line 2: 1 columns where line 1 has 2",
    "--model nowhere --tags-column ner": "no column 'ner' (tags_column)",
    "--model nowhere --tokens-column words": "no column 'words' (tokens_column)",
    "--model nowhere --text-pair-column x": "token-classification has no text_pair_column='x'",
    "--model nowhere --eval other.conll": "tags the model does not know: 'B-film'",
    "--model nowhere --train bioes.conll --scheme strict": "IOB2, which has no 'S-film'",
    "--model nowhere --doc-stride 3": "doc_stride=3 is for question-answering",
    "--model nowhere --scheme iob": "scheme='iob' must be one of conll, strict",
    "--metric beauty": "metric='beauty' is not one of f1, precision, recall, accuracy, loss",
    "--stride 14": "stride=14 must be from 0 to 13",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_mistakes_are_one_line_and_told_before_training(place, capsys, monkeypatch, flags):
    monkeypatch.chdir(place)
    monkeypatch.setenv("JAXBERT_CACHE", str(place / "cache"))
    words = ["finetune", "--model", "model", "--train", "train.conll", "--eval", "dev.jsonl"]
    words += ["--output", "out", "--max-length", "16", "--task", "token-classification"]
    assert main([*words, *flags.split()]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxbert: ")
    assert REFUSED[flags] in line


@pytest.mark.parametrize(
    ("words", "output", "epochs"),
    [
        (["--task", "token-classification"], "runs/demo-token-classification", 6),
        (["--task", "token-classification", "--output", "here"], "here", 6),
        ([], "runs/demo", 3),
    ],
)
def test_the_demo_has_data_for_it(monkeypatch, tmp_path, words, output, epochs):
    monkeypatch.chdir(tmp_path)
    told = []
    files = Demo(Path("m"), Path("train"), Path("dev"), Path("test"), {"other": Path("other")})
    name = "load_tags_demo" if words else "load_demo"
    monkeypatch.setattr(f"jaxbert.data.{name}", lambda: files)
    monkeypatch.setattr("jaxbert.cli.finetune.finetune", lambda options, **_: told.append(options))
    assert main(["demo", *words]) == 0
    (options,) = told
    assert (options.output, options.training.epochs) == (output, epochs)
    assert options.task == ("token-classification" if words else None)
    assert (options.model, options.test) == ("m", ("test", "other"))
