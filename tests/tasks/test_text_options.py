"""Weights of classes, shares of classes, and long texts in windows."""

import dataclasses
import json

import numpy as np
import pytest
import task_checks
import tiny
from flax import nnx
from sklearn.utils.class_weight import compute_class_weight

from jaxbert import Examples, InputError, Predictor, load_examples
from jaxbert.cli import main
from jaxbert.data import load_tokenizer, tokenize
from jaxbert.models import BertConfig, BertForSequenceClassification, BertModel
from jaxbert.tasks import TASKS, TaskOptions, get_task, load_model
from jaxbert.tasks.task import Predicted
from jaxbert.tasks.text_classification import pooled_logits

TEXT, NUMBER, SETS = "text-classification", "text-regression", "multi-label-classification"
LENGTH, STRIDE = 8, 2
MANY = dataclasses.replace(tiny.CLASSES, labels=np.arange(13, dtype=np.int32) % 2)
SHARES = np.random.default_rng(0).dirichlet(np.ones(2), 13).astype(np.float32)


def weigh(text, labels, names=("a", "b", "c")):
    task = get_task(TEXT, TaskOptions(class_weights=text))
    examples = Examples(("",) * len(labels), labels=np.array(labels, np.int32), label_names=names)
    return task.weigh(examples).weights


# Weights of classes


def test_balanced_weights_are_scikit_learns():
    labels = [0, 0, 0, 0, 1, 2, 2, 0, 0]
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(weigh("balanced", labels), wanted[labels], rtol=1e-6)
    assert weigh("balanced", labels).mean() == pytest.approx(1)
    assert weigh("balanced", [0, 0, 2]).tolist() == [0.75, 0.75, 1.5]  # of a class without texts


def test_weights_by_name():
    assert weigh("c=2,a=0.5", [0, 1, 2]).tolist() == [0.5, 1, 2]
    assert weigh(" x=y = 3", [0, 1], ("x=y", "z")).tolist() == [3, 1]
    assert weigh("1=3", [0, 1], ("LABEL_0", "LABEL_1")).tolist() == [1, 3]


WEIGHTS = {
    "heavy": "want balanced, or NAME=WEIGHT",
    "a=much": "want balanced, or NAME=WEIGHT",
    "a=-1": "want balanced, or NAME=WEIGHT",
    "a=nan": "want balanced, or NAME=WEIGHT",
    "a=1e999": "want balanced, or NAME=WEIGHT",
    "=1": "want balanced, or NAME=WEIGHT",
    "a=1,a=2": "names 'a' twice",
    "d=2": r"class_weights has labels the model does not know: 'd'; it knows 'a', 'b', 'c'",
    "a=0,b=0": "0 for every text",
}


@pytest.mark.parametrize("text", WEIGHTS)
def test_weights_that_cannot_be(text):
    with pytest.raises(InputError, match=WEIGHTS[text]):
        weigh(text, [0, 1])


def test_weights_are_refused_before_a_model_is_loaded(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # and no weights
    task = get_task(TEXT, TaskOptions(class_weights="great=2"))
    with pytest.raises(InputError, match="class_weights has labels"):
        load_model(task, tmp_path, examples=tiny.CLASSES)
    soft = dataclasses.replace(tiny.CLASSES, labels=SHARES)
    with pytest.raises(InputError, match="the labels are shares of classes"):
        get_task(TEXT, TaskOptions(class_weights="balanced")).weigh(soft)


# Labels and the model's


def labelled(*names, labels=None):
    return Examples(("",), labels=labels, label_names=names or None, source="films.csv")


def configuration(width, names=None):
    return BertConfig(**task_checks.SHAPE, num_labels=width, id2label=names)


@pytest.mark.parametrize(("names", "theirs", "wanted"), [
    (None, ("a", "b"), ("a", "b")),
    (None, ("a",), None),  # of two, so nobody knows what the other is
    (None, (), None),
    (("a", "b"), ("a",), ("a", "b")),
    (("a", "b"), ("a", "b"), ("a", "b")),
])  # fmt: skip
def test_a_model_takes_the_names_that_it_has_not(names, theirs, wanted):
    shares = np.full((1, 2), 0.5, np.float32)
    for labels in (None, np.zeros(1, np.int32), shares):
        found = TASKS[TEXT].configured(configuration(2, names), labelled(*theirs, labels=labels))
        assert found.id2label == wanted


@pytest.mark.parametrize(("names", "theirs", "labels", "message"), [
    (None, ("a", "b", "c"), None, r"films.csv has 3 labels \(a, b, c ...\), .* num_labels=2"),
    (None, ("a",), np.ones((1, 1), np.float32), "a number for each of 1 labels, .* num_labels=2"),
    (("a", "b"), ("b", "a"), None, "numbers its labels b, a, the model a, b; load the examples"),
])  # fmt: skip
def test_labels_that_are_not_the_models(names, theirs, labels, message):
    with pytest.raises(InputError, match=message):
        TASKS[TEXT].configured(configuration(2, names), labelled(*theirs, labels=labels))


def test_a_number_wants_one_output():
    assert TASKS[NUMBER].configured(configuration(1), labelled()).num_labels == 1
    with pytest.raises(InputError, match="regression needs num_labels=1, the model has 2"):
        TASKS[NUMBER].configured(configuration(2), labelled())


# Windows


class Told:
    """Of two texts, the second of which has two windows."""

    example_of = np.array([0, 1, 1])


def test_what_is_told_of_windows_by_hand():
    logits = np.array([[1, 3], [2, 0], [4, 1]], np.float32)
    for labels in (np.array([1, 1], np.int32), np.array([[0.2, 0.8], [0.4, 0.6]], np.float32)):
        examples = dataclasses.replace(tiny.CLASSES.take(np.arange(2)), labels=labels)
        predicted = Predicted(examples, Told(), {"logits": logits})
        assert TASKS[TEXT].score(configuration(2), predicted)["accuracy"] == 0.5
        np.testing.assert_array_equal(pooled_logits(predicted), [[1, 3], [3, 0.5]])
        told = TASKS[TEXT].decode(configuration(2, ("a", "b")), predicted)
        assert [row["label"] for row in told] == ["b", "a"]
        chance = 1 / (1 + np.exp(-2))
        assert told[0]["probabilities"] == pytest.approx({"a": 1 - chance, "b": chance})
        (first, _) = TASKS[TEXT].decode(configuration(2), predicted)
        assert first["label"] == "1"  # of labels without names their numbers
    numbers = predicted._replace(results={"logits": logits[:, :1]})
    assert TASKS[NUMBER].decode(configuration(1), numbers) == [{"score": 1.0}, {"score": 3.0}]
    scored = numbers._replace(examples=dataclasses.replace(examples, labels=np.array([0.0, 1.0])))
    assert TASKS[NUMBER].score(configuration(1), scored)["mse"] == (1 + 4) / 2


def windows(examples, tokenizer):
    return tokenize(examples, tokenizer, LENGTH, stride=STRIDE)


def test_nothing_is_cut(tokenizer):
    found = windows(tiny.CLASSES, tokenizer)
    whole = tokenize(tiny.CLASSES, tokenizer, 16)
    assert found.truncated == 0
    assert len(found) > 13
    for example in range(13):
        features = np.flatnonzero(found.example_of == example)
        ids = [found.input_ids[found.of_feature(i)][1:-1].tolist() for i in features]
        joined = ids[0] + [token for more in ids[1:] for token in more[STRIDE:]]
        assert joined == whole.input_ids[whole.of_feature(example)][1:-1].tolist()
        assert found.weights[features] == pytest.approx(1 / len(features))


def test_no_pair_of_places_of_two_long_texts_is_cut(tokenizer):
    words = tiny.WORDS[5:]
    pair = Examples((" ".join(words[:9]),), (" ".join(words[9:20]),))
    found = tokenize(pair, tokenizer, 11, stride=1)
    seen = set()
    for i in range(len(found)):
        part = found.of_feature(i)
        second = found.token_type_ids[part] == 1
        ids = found.input_ids[part]
        seen |= {(a, b) for a in ids[~second] for b in ids[second]}
    assert all((a, b) in seen for a in range(5, 14) for b in range(14, 25))
    with pytest.raises(InputError, match="from 0 to 3, below what max_length=11 leaves for each"):
        tokenize(pair, tokenizer, 11, stride=4)


KINDS = {
    TEXT: (MANY, 2),
    "shares": (dataclasses.replace(tiny.CLASSES, labels=SHARES), 2),
    NUMBER: (tiny.NUMBERS, 1),
    SETS: (dataclasses.replace(tiny.CLASSES, labels=np.eye(2, dtype=np.float32)[MANY.labels],
                               task=SETS), 2),
}  # fmt: skip


@pytest.fixture(scope="module")
def programs():
    return {}


def predictor_of(kind, tokenizer, programs, stride=STRIDE, **options):
    examples, width = KINDS[kind]
    task = get_task(TEXT if kind == "shares" else kind, TaskOptions(stride=stride))
    return examples, Predictor(
        network(width), tokenizer, task=task, max_length=LENGTH, programs=programs, **options
    )


def network(width, **config):
    config = BertConfig(**task_checks.SHAPE, num_labels=width, **config)
    return BertForSequenceClassification(config, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("kind", [TEXT, NUMBER, SETS])
def test_a_long_texts_prediction_is_the_mean_of_its_windows(kind, tokenizer, programs):
    examples, predictor = predictor_of(kind, tokenizer, programs)
    said, logits = predictor.predict(examples), predictor.logits(examples)
    tokenized = predictor.encode(examples)
    assert len(logits) == len(tokenized) > 13
    # Each window as a text of its own.
    texts = [
        tokenizer.decode(tokenized.input_ids[tokenized.of_feature(i)][1:-1])
        for i in range(len(tokenized))
    ]
    _, alone = predictor_of(kind, tokenizer, programs, stride=None, layout="padded")
    single = alone.logits(texts)
    np.testing.assert_allclose(logits, single, atol=1e-5)
    for example in range(13):
        mean = single[tokenized.example_of == example].mean(axis=0)
        if kind == NUMBER:
            assert said[example]["score"] == pytest.approx(mean[0], abs=1e-5)
            continue
        shares = np.exp(mean) / np.exp(mean).sum() if kind == TEXT else 1 / (1 + np.exp(-mean))
        assert [*said[example]["probabilities"].values()] == pytest.approx(shares, abs=1e-5)
    scores = predictor.evaluate(examples)
    assert set(scores) == {"loss", *predictor.task.metrics}


def test_scores_are_of_texts_and_the_loss_counts_each_once(tokenizer, programs):
    examples, predictor = predictor_of(TEXT, tokenizer, programs)
    tokenized, logits = predictor.encode(examples), predictor.logits(examples)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -log_p[np.arange(len(logits)), examples.labels[tokenized.example_of]]
    per_text = [losses[tokenized.example_of == i].mean() for i in range(13)]
    scores = predictor.evaluate(examples)
    assert scores["loss"] == pytest.approx(np.mean(per_text), rel=1e-5)
    means = np.stack([logits[tokenized.example_of == i].mean(0) for i in range(13)])
    assert scores["accuracy"] == pytest.approx((means.argmax(-1) == examples.labels).mean())


def test_the_mean_is_over_a_texts_windows_only():
    class Windows:
        example_of = np.array([0, 0, 1])

    logits = np.array([[1.0, 2.0], [3.0, 6.0], [5.0, 7.0]], np.float32)
    found = pooled_logits(Predicted(Examples(("a", "b")), Windows(), {"logits": logits}))
    assert found.tolist() == [[2, 4], [5, 7]]


def test_one_step_however_it_is_computed(tokenizer):
    examples, width = KINDS["shares"]
    data = windows(examples, tokenizer)
    data = dataclasses.replace(data, weights=data.weights * np.float32(1.5))
    model = network(width, **task_checks.DROPPING)
    _, count, _ = task_checks.assert_one_step(model, TASKS[TEXT], data, ("accumulated",))
    assert count == pytest.approx(data.weights[:8].sum())


def test_an_absurd_stride_is_one_line(tokenizer):
    with pytest.raises(InputError, match="stride=6 must be from 0 to 5, below what max_length=8"):
        tokenize(tiny.CLASSES, tokenizer, 8, stride=6)
    with pytest.raises(InputError, match="stride=-1 must be at least 0"):
        TaskOptions(stride=-1)
    with pytest.raises(InputError, match="class_weights='balanced' is for text-classification"):
        get_task(NUMBER, TaskOptions(class_weights="balanced"))


# The command line


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    BertModel(BertConfig(**task_checks.SHAPE), rngs=nnx.Rngs(0)).save_pretrained(root / "model")
    (root / "model" / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    rows = [{"text": text, "label": ["bad", "good"][label]}
            for text, label in zip(tiny.TEXTS, tiny.LABELS.tolist(), strict=True)]  # fmt: skip
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_the_command_line_end_to_end(place, capsys, monkeypatch, caplog):
    monkeypatch.chdir(place)
    monkeypatch.setenv("JAXBERT_CACHE", str(place / "cache"))
    shape = ["--max-length", "8", "--batch-size", "8"]
    words = ["finetune", "--model", "model", "--train", "train.jsonl", "--test", "train.jsonl",
             "--output", "run", *shape, "--epochs", "1", "--layout", "padded"]  # fmt: skip
    assert main([*words, "--class-weights", "great=2"]) == 2
    assert "class_weights has labels the model does not know" in capsys.readouterr().err
    weighted = [*words, "--class-weights", "bad=2", "--stride", "2"]
    assert main([*weighted, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    count = len(tokenize(tiny.CLASSES, load_tokenizer("model"), LENGTH, stride=STRIDE))
    assert f"train 13 (in {count} windows), train 13" in printed
    assert "3: 1 epochs of 3, 8 windows each" in printed
    assert main(weighted) == 0
    assert "0 examples were cut" in capsys.readouterr().out
    run = json.loads((place / "run" / "run.json").read_text())
    assert run["total_steps"] == 3  # of windows
    assert run["task_options"]["class_weights"] == "bad=2"
    assert main(["finetune", "--resume", "--output", "run", "--class-weights", "balanced"]) == 2
    assert "differs in class_weights" in capsys.readouterr().err
    assert not any("were cut" in message for message in caplog.messages)
    said = {}
    for more in ("", "--stride 2 --max-length 8", "--stride none"):
        caplog.clear()
        command = ["predict", "train.jsonl", "--model", "run", "--batch-size", "8"]
        assert main([*command, *more.split()]) == 0
        said[more] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(said[more]) == 13
        told = [m for m in caplog.messages if m.startswith("as in the training of run: ")]
        wanted = {"": "max_length=8, stride=2", "--stride none": "max_length=8"}
        assert told == [f"as in the training of run: {wanted[more]}" for _ in range(more in wanted)]
    windows, cut = said[""], said["--stride none"]
    assert windows == said["--stride 2 --max-length 8"]
    short, long = 0, 4
    first, second = ([*rows[short]["probabilities"].values()] for rows in (windows, cut))
    assert first == pytest.approx(second, abs=1e-5)
    assert windows[long]["probabilities"] != cut[long]["probabilities"]
    assert any("were cut to 8 tokens" in message for message in caplog.messages)
    assert main(["evaluate", "train.jsonl", "--model", "run", "--batch-size", "8"]) == 0
    assert f"{run['scores']['train']['accuracy']:.4f}" in capsys.readouterr().out


SETTINGS = {
    '{"strid": 2}': "config.json: settings: unknown strid; known are max_length, stride",
    '{"stride": "far"}': "run was trained with max_length=16, stride=far: stride='far' must be",
    '{"max_length": 2}': "run was trained with max_length=2: training: max_length=2 must be",
    "[2]": "config.json: settings must be plain values by name, got [2]",
}


@pytest.mark.parametrize("given", SETTINGS)
def test_settings_that_cannot_be(given, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = network(2)
    model.config = dataclasses.replace(model.config, settings=(("max_length", 16),))
    model.save_pretrained("run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    settings = json.loads(given)
    if given != "[2]" and "max_length" not in settings:
        settings = config["task_specific_params"]["settings"] | settings
    config["task_specific_params"]["settings"] = settings
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert main(["predict", "texts.txt", "--model", "run"]) == 2
    assert SETTINGS[given] in capsys.readouterr().err


def test_shares_train_and_classes_score(tmp_path, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("JAXBERT_CACHE", str(place / "cache"))
    rows = [{"text": t, "label": s} for t, s in zip(tiny.TEXTS, SHARES.tolist(), strict=True)]
    (place / "shares.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hard = [f"{text},{share.argmax()}" for text, share in zip(tiny.TEXTS, SHARES, strict=True)]
    (place / "hard.csv").write_text("\n".join(["text,label", *hard]) + "\n")
    words = ["finetune", "--model", "model", "--train", "shares.jsonl", "--eval", "shares.jsonl",
             "--test", "hard.csv", "--output", str(tmp_path / "run"), "--max-length", "16",
             "--batch-size", "8", "--epochs", "1"]  # fmt: skip
    assert main(words) == 0
    scores = json.loads((tmp_path / "run" / "run.json").read_text())["scores"]
    assert scores["shares"]["accuracy"] == scores["hard"]["accuracy"]
    assert scores["shares"]["loss"] != scores["hard"]["loss"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification"
    assert load_examples(rows, label_column="label").task == TEXT
    # A file without a header, whose columns are called by their numbers.
    (place / "bare.csv").write_text("\n".join(hard) + "\n")
    command = ["bare.csv", "--model", str(tmp_path / "run"), "--max-length", "16", "--no-header",
               "--text-column", "1"]  # fmt: skip
    capsys.readouterr()
    assert main(["evaluate", *command, "--label-column", "2"]) == 0
    assert f"{scores['hard']['loss']:.4f}" in capsys.readouterr().out
    assert main(["predict", *command]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["1"] for row in found] == list(tiny.TEXTS)
