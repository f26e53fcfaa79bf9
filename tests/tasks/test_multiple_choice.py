"""Multiple choice: reading, the loss, training, and what the command line makes of it."""

import json

import every_task
import jax.numpy as jnp
import numpy as np
import pytest
import task_checks
import tiny
from flax import nnx

from jaxbert import InputError, Predictor, TrainConfig, Trainer, load_examples
from jaxbert.cli import main
from jaxbert.models import BertConfig, BertForMultipleChoice, BertModel
from jaxbert.tasks import TASKS, losses
from jaxbert.tasks.multiple_choice import choice_logits
from jaxbert.tasks.task import Predicted

TASK = TASKS["multiple-choice"]
ASKED = every_task.CHOICES


def read(**columns):
    return load_examples(columns, label_column="label")


def network(**config):
    return BertForMultipleChoice(BertConfig(**task_checks.SHAPE, **config), rngs=nnx.Rngs(0))


# Reading


def test_questions_are_read_by_their_columns():
    found = load_examples(ASKED, label_column="label")
    assert (found.task, found.texts, found.pairs) == (TASK.name, tuple(ASKED["question"]), None)
    assert found.choices[3] == ("bad", "good")
    assert found.labels.tolist() == ASKED["label"]
    assert found.reason == (
        "dict of columns: column 'choices' holds choices, dict of columns: column 'label' the "
        "number of the right one"
    )
    assert found.rows(1) == [("a story with", "weak"), ("a story with", "great plot")]
    assert load_examples(ASKED).labels is None


def test_a_question_stands_before_its_choices():
    found = read(context=["a film"], question=["it is"], choices=[["good", "bad"]], label=["B"])
    assert found.rows(0) == [("a film", "it is good"), ("a film", "it is bad")]
    assert found.labels.tolist() == [1]


def test_swags_columns():
    rows = {"sent1": ["a film", "the end"], "sent2": ["it", "is"], "ending0": ["good", "bad"],
            "ending1": ["bad", "fine"], "ending2": ["", "great"], "label": ["1", "2"]}  # fmt: skip
    found = read(**rows)
    assert found.task == TASK.name
    assert found.choices == (("good", "bad"), ("bad", "fine", "great"))
    assert found.rows(0)[1] == ("a film", "it bad")
    assert found.labels.tolist() == [1, 2]
    assert found.reason == (
        "dict of columns: columns 'ending0' to 'ending2' holds choices, dict of columns: column "
        "'label' the number of the right one"
    )


def test_two_columns_of_choices_are_enough_and_one_is_not():
    asked = {"question": ["a"], "choices0": ["good"], "choices1": ["bad"], "label": [1]}
    found = load_examples(asked, label_column="label", task="multiple-choice")
    assert (found.choices, found.labels.tolist()) == ((("good", "bad"),), [1])
    del asked["choices1"]
    with pytest.raises(InputError, match="no column 'choices' "):
        load_examples(asked, label_column="label", task="multiple-choice")


CHOICES = [["good", "bad"], ["1", "2", "0"]]
ANSWERS = {
    "numbers": ([1, 2], [1, 2], "the number"),
    "numbers as text": (["1", "0"], None, "number from 0"),
    "floats, as pandas has whole numbers with gaps": ([1.0, 2.0], [1, 2], "the number"),
    "letters": (["b", "A"], [1, 0], "the letter"),
    "texts": (["bad", "2"], [1, 1], "the text"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_right_choice_is_said_in_several_ways(name):
    labels, wanted, how = ANSWERS[name]
    asked = {"question": ["a", "b"], "choices": CHOICES, "label": labels}
    if wanted is None:
        asked["choices"] = [["0", "1"], ["1", "0"]]
        with pytest.raises(InputError, match=r"can be the number or the text .* in data row 2"):
            read(**asked)
        return
    found = read(**asked)
    assert found.labels.tolist() == wanted
    assert how in found.reason


def test_names_that_come_with_the_choices():
    choices = [{"text": ["in trees", "in water"], "label": ["1", "2"]}] * 2
    assert read(question=["a", "b"], choices=choices, label=["2", "1"]).labels.tolist() == [1, 0]


BAD = {
    "one choice": (dict(choices=[["a", "b"], ["a"]], label=[0, 0]), "fewer than two .* row 2"),
    "no list": (dict(choices=["a b", 3], label=[0, 0]), "str where choices .* row 1, 2"),
    "nan": (dict(choices=[["a", "b"]] * 2, label=[0.0, float("nan")]), "no label in data row 2"),
    "half": (dict(choices=[["a", "b"]] * 2, label=[0.0, 0.5]), "has 0.5, which .* row 2"),
    "no text": (dict(choices=[["a", "b"], ["a", 3]], label=[0, 0]), "no text in data row 2"),
    "surrogate": (dict(choices=[["a", "b"], ["a", "\ud800"]], label=[0, 0]), "surrogate .* row 2"),
    "the last": (dict(choices=[["a", "b"], ["a", "\udfff"]], label=[0, 0]), "surrogate .* row 2"),
    "far": (dict(choices=[["a", "b"]] * 2, label=[0, 2]), "has 2, which is no choice's .* row 2"),
    "from 1": (dict(choices=[["a", "b"]] * 2, label=[1, 2]), "number from 0"),
    "unknown text": (dict(choices=[["a", "b"]] * 2, label=["a", "x"]), "has 'x'.* data row 2"),
    "twice": (dict(choices=[["x", "y"], ["x", "x"]], label=["y", "x"]), "'x', .* row 2"),
    "true": (dict(choices=[["x", "y"]] * 2, label=[True, 0]), "has True"),
    "none": (dict(choices=[["a", "b"]] * 2, label=[0, None]), "no label in data row 2"),
    "hidden": (dict(choices=[["a", "b"]] * 2, label=[0, -1]), "no label in data row 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_questions_that_cannot_be_used(name):
    columns, message = BAD[name]
    with pytest.raises(InputError, match=message) as error:
        read(question=["q", "q"], **columns)
    assert "\n" not in str(error.value)


def test_columns_that_are_not_there():
    with pytest.raises(InputError, match=r"no column 'answers' .*'label'"):
        load_examples(ASKED, choices_column="answers", label_column="label")
    with pytest.raises(InputError, match="neither a column 'question' nor a column 'context'"):
        load_examples({"choices": [["a", "b"]]}, task="multiple-choice")
    with pytest.raises(InputError, match="multiple-choice has no text_column='x'"):
        load_examples(ASKED, text_column="x", task="multiple-choice")


def test_fingerprints_and_parts_know_the_choices():
    found = load_examples(ASKED, label_column="label")
    some = found.take(np.array([3, 0]))
    assert some.choices == (found.choices[3], found.choices[0])
    assert some.labels.tolist() == [1, 0]
    first = load_examples({"question": ["a", "b"], "choices": [["c", "d"], ["e", "f", "g"]]})
    for others in ([["c", "d", "e"], ["f", "g"]], [["cd", ""], ["e", "f", "g"]]):
        other = load_examples({"question": ["a", "b"], "choices": others})
        assert other.fingerprint != first.fingerprint


def test_each_choice_is_a_feature_and_a_question_a_unit(tokenizer):
    encoded = TASK.encode(read(question=["a", "b"], choices=CHOICES, label=[1, 2]), tokenizer, 16)
    assert encoded.features_of.tolist() == [0, 2, 5]
    assert encoded.example_of.tolist() == [0, 0, 1, 1, 1]
    assert (encoded.labels.tolist(), encoded.label_layout) == ([1, 2], "choice")


def test_what_is_told_of_logits_by_hand(tokenizer):
    asked = read(question=["a", "b"], choices=CHOICES, label=[1, 2])
    logits = np.array([0, 2, 1, 1, -1], np.float32)
    predicted = Predicted(asked, TASK.encode(asked, tokenizer, 16), {"logits": logits})
    np.testing.assert_array_equal(choice_logits(predicted), [[0, 2, -np.inf], [1, 1, -1]])
    assert TASK.score(None, predicted) == {"accuracy": 0.5}
    first, second = TASK.decode(None, predicted)
    assert (first["choice"], first["text"], second["choice"], second["text"]) == (1, "bad", 0, "1")
    assert first["probabilities"] == pytest.approx([1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))])
    assert len(second["probabilities"]) == 3


# The loss


def negative_log_p(logits, label):
    return np.log(np.exp(np.asarray(logits, np.float64)).sum()) - logits[label]


def test_the_loss_is_the_cross_entropy_of_a_questions_choices():
    logits = jnp.array([[1.0, 2.0, 9.0, -1.0, 0.5, 3.0], [7.0] * 6], jnp.float32)
    weights = jnp.array([[1, 1, 0, 1, 1, 1], [0] * 6], jnp.float32)
    labels = jnp.array([[0, 2], [-1, -1]], jnp.int32)
    for smoothing in (0.0, 0.3):
        total, count = losses.choice(logits, labels, weights, smoothing=smoothing)
        wanted = 0.0
        for row, label in (([1.0, 2.0], 0), ([-1.0, 0.5, 3.0], 2)):
            each = [negative_log_p(row, i) for i in range(len(row))]
            wanted += (1 - smoothing) * each[label] + smoothing * np.mean(each)
        assert float(total) == pytest.approx(wanted, rel=1e-6)
        assert float(count) == 2


# Training


@pytest.fixture(scope="module")
def questions():
    return load_examples(ASKED, label_column="label")


@pytest.fixture(scope="module")
def programs():
    return {}


@pytest.fixture(scope="module")
def make(questions, tokenizer, programs):
    def make(output, resume):
        config = TrainConfig(
            epochs=8, batch_size=4, max_length=16, log_every=1, optimizer=tiny.ADAMW, seed=5
        )
        return Trainer(
            network(), tokenizer, train=questions, evaluation=questions, config=config,
            output=output, resume=resume, progress=False, programs=programs,
        )  # fmt: skip

    return make


def test_a_run_resumes_and_its_model_says_what_it_said(make, questions, tokenizer, tmp_path):
    trainer = task_checks.assert_resumes(make, tmp_path, at=7)
    run = tiny.run_json(tmp_path / "whole")
    assert (run["task"], run["best"]["metric"]) == (TASK.name, "accuracy")
    assert run["evaluations"][-1]["loss"] < run["evaluations"][0]["loss"]
    again = BertForMultipleChoice.from_pretrained(tmp_path / "whole")
    predictor = Predictor(again, tokenizer, max_length=16, layout="padded")
    said = predictor.predict(questions)
    for one, other, choices in zip(said, trainer.predict(questions), questions.choices,
                                   strict=True):  # fmt: skip
        assert one["text"] == choices[one["choice"]] == other["text"]
        np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=1e-5)
        assert len(one["probabilities"]) == len(choices)
        assert one["choice"] == np.argmax(one["probabilities"])
        assert sum(one["probabilities"]) == pytest.approx(1)
    right = [one["choice"] == label for one, label in zip(said, questions.labels, strict=True)]
    assert predictor.evaluate(questions)["accuracy"] == pytest.approx(np.mean(right))


def test_texts_alone_are_no_questions(tokenizer):
    predictor = Predictor(network(), tokenizer, max_length=16)
    with pytest.raises(InputError, match="takes questions with choices, not texts"):
        predictor.predict(["a good film"])


# The command line


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("choices")
    BertModel(BertConfig(**task_checks.SHAPE), rngs=nnx.Rngs(0)).save_pretrained(root / "model")
    (root / "model" / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    rows = [dict(zip(ASKED, row, strict=True), id=i)
            for i, row in enumerate(zip(*ASKED.values(), strict=True))]  # fmt: skip
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_the_command_line_end_to_end(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("JAXBERT_CACHE", str(place / "cache"))
    words = ["finetune", "--model", "model", "--train", "train.jsonl", "--eval", "train.jsonl"]
    words += ["--output", "run", "--max-length", "16", "--batch-size", "4", "--epochs", "2"]
    words += ["--dtype", "bfloat16"]
    assert main([*words, "--dry-run"]) == 0
    assert "multiple-choice" in capsys.readouterr().out
    assert main([*words, "--metric", "beauty"]) == 2
    assert "accuracy, loss (multiple-choice)" in capsys.readouterr().err
    assert main([*words, "--stride", "3", "--task", "multiple-choice"]) == 2
    assert "stride=3 is for text-classification" in capsys.readouterr().err
    assert main(words) == 0
    scores = json.loads((place / "run" / "run.json").read_text())["scores"]["train"]
    assert main(["finetune", "--resume", "--output", "run"]) == 0
    capsys.readouterr()
    assert (
        main(
            [
                "evaluate",
                "train.jsonl",
                "--model",
                "run",
                "--max-length",
                "16",
                "--dtype",
                "bfloat16",
            ]
        )
        == 0
    )
    assert f"{scores['accuracy']:.4f}" in capsys.readouterr().out
    assert (
        main(
            [
                "predict",
                "train.jsonl",
                "--model",
                "run",
                "--max-length",
                "16",
                "--dtype",
                "bfloat16",
            ]
        )
        == 0
    )
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in found] == [0, 1, 2, 3, 4, 5]
    assert list(found[0]) == ["question", "choices", "label", "id", "choice", "text",
                              "probabilities"]  # fmt: skip
    monkeypatch.setattr("sys.stdin", None)  # nobody is kept waiting for it
    assert main(["predict", "--model", "run", "--max-length", "16", "--dtype", "bfloat16"]) == 2
    assert "takes more than texts: give a file with the columns" in capsys.readouterr().err
