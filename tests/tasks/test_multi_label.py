"""Several labels for a text, shares of classes, and weights of classes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
import task_checks
import tiny
from flax import nnx

from jaxbert import Examples, InputError, Predictor, TrainConfig, Trainer, load_examples
from jaxbert.cli import main
from jaxbert.models import BertConfig, BertForSequenceClassification, BertModel
from jaxbert.tasks import TASKS, losses
from jaxbert.tasks.metrics import MULTI_LABEL, compute_scores, mean_average_precision
from jaxbert.tasks.multi_label import best_threshold
from jaxbert.tasks.task import Predicted
from jaxbert.weights import pretrained

TASK = TASKS["multi-label-classification"]
NAMES = ("bad", "film", "music")
SETS = [[name for name in NAMES if name in text.split()] for text in tiny.TEXTS]
TABLE = {"text": list(tiny.TEXTS), "label": SETS}
ONES = {name: [int(name in row) for row in SETS] for name in NAMES}
COLUMNS = {"text": list(tiny.TEXTS), **ONES}


def network(**config):
    config = BertConfig(**task_checks.SHAPE, num_labels=3, id2label=NAMES, **config)
    return BertForSequenceClassification(config, rngs=nnx.Rngs(0))


# Reading


def test_lists_and_columns_say_the_same():
    lists = load_examples(TABLE, label_column="label")
    columns = load_examples(COLUMNS, label_columns=NAMES)
    for found in (lists, columns):
        assert (found.task, found.label_names) == (TASK.name, NAMES)
        assert found.labels.dtype == np.float32
        assert found.labels.tolist() == np.array(list(ONES.values())).T.tolist()
    assert lists.reason == "dict of columns: column 'label' holds lists of labels"
    assert columns.reason == "dict of columns: columns 'bad', 'film', 'music' hold 0 and 1"
    assert lists.fingerprint == columns.fingerprint


@pytest.mark.parametrize("values", [["0", "1"], ["0.0", "1.0"], [False, True], ["False", "true"]])
def test_zero_and_one_as_files_have_them(values):
    no, yes = values
    table = {"text": ["a", "b", "c"], "x": [no, yes, yes], "y": [yes, no, no]}
    found = load_examples(table, label_columns=["x", "y"])
    assert found.labels.tolist() == [[0, 1], [1, 0], [1, 0]]
    assert "task text-classification makes classes of them" in found.reason


def test_the_models_labels_give_the_order_and_the_columns():
    known = dict(label_names=("music", "bad", "film"), task=TASK.name, labelled=True)
    found = load_examples(COLUMNS, **known)
    assert found.label_names == ("music", "bad", "film")
    assert found.labels[:, 1].tolist() == ONES["bad"]
    named = load_examples(COLUMNS, label_columns=NAMES, **known)
    np.testing.assert_array_equal(named.labels, found.labels)
    lists = load_examples(TABLE, **known)
    np.testing.assert_array_equal(lists.labels, found.labels)


def test_shares_are_of_classes():
    lists = load_examples({"text": ["a", "b"], "label": [[0.25, 0.75], [1, 0]]},
                          label_column="label")  # fmt: skip
    columns = load_examples(
        {"text": ["a", "b"], "no": ["0.25", "1"], "yes": ["0.75", "0"]},
        label_columns=["no", "yes"], task="text-classification",
    )  # fmt: skip
    for found, names in ((lists, ("0", "1")), (columns, ("no", "yes"))):
        assert (found.task, found.label_names) == ("text-classification", names)
        assert found.labels.tolist() == [[0.25, 0.75], [1, 0]]
        assert "shares that add to 1" in found.reason


def labels(*rows, **options):
    return lambda: load_examples({"text": list("abcdefg"[: len(rows)]), "label": list(rows)},
                                 label_column="label", **options)  # fmt: skip


def columns(options=(), **values):
    table = {"text": ["a", "b"], **values}
    return lambda: load_examples(table, **{"label_columns": list(values), **dict(options)})


TEXT = {"task": "text-classification"}
BAD = {
    "a text among lists": (labels(["x"], "y", 3, **{"task": TASK.name}),
                           "str where a list .* row 2, 3"),
    "none among lists": (labels(["x"], None), r"no list in data row 2 .* write \[\]"),
    "twice": (labels(["x"], ["y", "y"]), "a label twice in data row 2 .* label_columns"),
    "zeros and ones": (labels([0, 0, 1], [1, 1, 0]), "a label twice .* columns of them"),
    "nested": (labels(["x"], [["y"]]), "something else than names of labels in data row 2"),
    "empty name": (labels(["x"], [""]), "without a name in data row 2"),
    "nothing": (labels([], []), "only empty lists"),
    "unknown": (labels(["x"], ["z"], label_names=("x", "y")), "does not know: 'z'"),
    "regression": (labels([0.5, 0.5], task="text-regression"), "list where one label is wanted"),
    "sum": (labels([0.5, 0.5], [0.5, 0.6], [0.5, 0.7]), "add to 1.1 in data row 2, 3"),
    "below 0": (labels([0.5, 0.5], [-0.5, 1.5]), "below 0 in data row 2"),
    "uneven": (labels([0.5, 0.5], [0.5, 0.25, 0.25], [1.0]), "3 numbers where 2 are .* row 2, 3"),
    "no number": (labels([0.5, 0.5], ["x", "y"]), "'x' where a number is wanted in data row 2"),
    "single": (labels([1.0], [1.0]), "one share a row"),
    "a fraction": (columns(x=[0.3, 0.4], y=[1, 1]), "column 'x' has 0.3 where 0 or 1 .* row 1, 2 "
                   ".*name task text-classification"),
    "a word": (columns(x=["maybe", "no"], y=[1, 1]), "'maybe' where a number is .* row 1, 2"),
    "empty": (columns(x=[0, ""], y=[1, 1]), "'' where a number is wanted in data row 2"),
    "column sums": (columns(TEXT, x=[0, 1], y=[1, 1]), "add to 2 in data row 2"),
    "column twice": (columns({"label_columns": ["x", "x"]}, x=[0, 1]), "names one twice"),
    "both": (columns({"label_column": "y"}, x=[0, 1], y=[1, 1]), "both given"),
    "other labels": (columns({"label_names": ("x", "z")}, x=[0, 1], y=[1, 1]), "must be the same"),
    "no column": (columns({"label_columns": ["x", "z"]}, x=[0, 1]), "no column 'z'"),
    "of regression": (columns({"task": "text-regression"}, x=[0, 1]), "has no label_columns"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_labels_that_cannot_be_used(name):
    read, message = BAD[name]
    with pytest.raises(InputError, match=message) as error:
        read()
    assert "\n" not in str(error.value)


# The losses


def test_several_labels_are_so_many_coins():
    logits = jnp.array([[2.0, -1.0], [60.0, -60.0], [1.0, 1.0]], jnp.float32)
    wanted = jnp.array([[1, 1], [1, 0], [0, 1]], jnp.float32)
    total, count = losses.multi_label(logits, wanted, jnp.array([1, 0.5, 0], jnp.float32))
    first = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))) / 2
    assert float(total) == pytest.approx(first, rel=1e-6)  # the second's is 0, not nan
    assert float(count) == 1.5


def test_shares_and_labels_that_are_sure_have_one_loss():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    chosen = jnp.asarray(rng.integers(0, 4, (2, 3)), jnp.int32)
    weights = jnp.asarray(rng.random((2, 3)), jnp.float32)
    for smoothing in (0.0, 0.2):
        hard = losses.classification(logits, chosen, weights, smoothing=smoothing)
        soft = losses.soft_classification(
            logits, jnp.eye(4, dtype=jnp.float32)[chosen], weights, smoothing=smoothing
        )
        np.testing.assert_allclose(soft, hard, rtol=1e-6)


# Scores and thresholds


def test_scores_by_hand():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    guesses = np.array([[1, 0, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0]], bool)
    scores = compute_scores(MULTI_LABEL, labels, guesses)
    assert scores["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
    assert scores["subset_accuracy"] == 2 / 4
    sure = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.5, 0.9, 0], [0.1, 0.2, 0]])
    # Label 0 is found at ranks 1 and 3, label 1 at 1 and 2, and nothing has label 2.
    wanted = ((1 + 2 / 3) / 2 + 1) / 2
    assert mean_average_precision(labels, sure) == pytest.approx(wanted)
    assert mean_average_precision(labels[3:], sure[3:]) == 0


THRESHOLDS = {
    "between two": ([0, 0, 1, 1], [0.1, 0.2, 0.4, 0.45], 0.3),
    "0.5 where it is as good": ([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9], 0.5),
    "above 0.5": ([0, 1, 0, 1], [0.6, 0.7, 0.8, 0.9], 0.65),
    "nearest to 0.5": ([1, 0, 0, 1], [0.45, 0.3, 0.2, 0.1], 0.375),
    "no text has it": ([0, 0, 0], [0.1, 0.6, 0.7], 0.5),
    "all have it": ([1, 1], [0.2, 0.4], 0.1),
    "all have it, and are told": ([1, 1], [0.6, 0.8], 0.5),
    "equal ones are told together": ([1, 0, 1], [0.2, 0.2, 0.3], 0.1),
    "equal to 0": ([1, 0], [0.0, 0.0], 0.0),
}


@pytest.mark.parametrize("name", THRESHOLDS)
def test_thresholds_by_hand(name):
    labels, probabilities, wanted = THRESHOLDS[name]
    found = best_threshold(np.array(labels, np.float32), np.array(probabilities))
    assert found == pytest.approx(wanted, rel=1e-15)


def test_a_threshold_tells_neighbors_apart():
    for low in (0.3, np.nextafter(0.3, 1)):  # half way is rounded to one of them
        pair = np.array([low, np.nextafter(low, 1)])
        found = best_threshold(np.array([0, 1], np.float32), pair)
        assert (pair >= found).tolist() == [False, True]


def test_no_other_threshold_is_better():
    rng = np.random.default_rng(0)
    for _ in range(30):
        found = rng.integers(0, 20, 12) / 20
        labels = (rng.random(12) < 0.4).astype(np.float32)
        labels[0] = 1
        chosen = best_threshold(labels, found)
        f1 = [sklearn.metrics.f1_score(labels, found >= t, zero_division=0)
              for t in (chosen, *np.arange(0, 1.01, 0.025))]  # fmt: skip
        assert f1[0] == pytest.approx(max(f1))


def test_thresholds_decide_and_are_kept(tmp_path):
    config = BertConfig(**task_checks.SHAPE, num_labels=3, id2label=NAMES)
    logits = np.array([[0, 1, -9], [1, 2, -9], [2, -1, -9], [3, -2, -9]], np.float32)
    labels = np.array([[0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]], np.float32)
    predicted = Predicted(Examples(("a",) * 4, labels=labels), Tokens(4), {"logits": logits})
    tuned = TASK.calibrate(config, predicted)
    # At 0.5, which the first text has of the first label: 4 of 4, and 2 that are wrong.
    assert TASK.score(config, predicted)["micro_f1"] == pytest.approx(8 / 10)
    assert TASK.decode(config, predicted)[0]["labels"] == ["bad", "film"]
    assert TASK.score(tuned, predicted)["micro_f1"] == 1
    assert [row["labels"] for row in TASK.decode(tuned, predicted)] == [
        ["film"], ["film"], ["bad"], ["bad"]
    ]  # fmt: skip
    assert dict(tuned.thresholds)["music"] == 0.5
    assert 0.73 < dict(tuned.thresholds)["bad"] < 0.89
    model = network()
    model.config = tuned
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.thresholds == tuned.thresholds
    assert TASK.configured(again.config, Examples(("a",))).thresholds == ()


class Tokens:
    """Each example is a feature."""

    example_of = None

    def __init__(self, count):
        self.features_of = np.arange(count + 1)


# Training


@pytest.fixture(scope="module")
def texts():
    return load_examples(TABLE, label_column="label")


@pytest.fixture(scope="module")
def programs():
    return {}


@pytest.fixture(scope="module")
def make(texts, tokenizer, programs):
    def make(output=None, resume=False, **settings):
        config = TrainConfig(
            epochs=6, batch_size=8, max_length=16, log_every=1, optimizer=tiny.ADAMW, seed=5,
            **settings,
        )  # fmt: skip
        return Trainer(
            network(), tokenizer, train=texts, evaluation=texts, config=config,
            output=output, resume=resume, progress=False, programs=programs,
        )  # fmt: skip

    return make


def test_a_run_resumes_and_its_model_says_what_it_said(make, texts, tokenizer, tmp_path):
    trainer = task_checks.assert_resumes(make, tmp_path, at=7)
    run = tiny.run_json(tmp_path / "whole")
    assert (run["task"], run["best"]["metric"]) == (TASK.name, "micro_f1")
    hf = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert hf["problem_type"] == "multi_label_classification"
    assert list(hf["task_specific_params"]["thresholds"]) == list(NAMES)
    again = BertForSequenceClassification.from_pretrained(tmp_path / "whole")
    predictor = Predictor(again, tokenizer, max_length=16, layout="padded")
    assert predictor.task.name == TASK.name
    scores = predictor.evaluate(texts)
    assert scores["micro_f1"] >= run["best"]["score"]  # at 0.5; with thresholds it is no less
    for one, other in zip(predictor.predict(texts), trainer.predict(texts), strict=True):
        assert one["labels"] == other["labels"]
        assert list(one["probabilities"]) == list(NAMES)
        np.testing.assert_allclose(
            [*one["probabilities"].values()], [*other["probabilities"].values()], atol=1e-5
        )
    # Whoever trains it further has other thresholds.
    assert Trainer(again, tokenizer, train=texts, progress=False,
                   config=TrainConfig(max_length=16)).model.config.thresholds == ()  # fmt: skip


def test_thresholds_are_written_without_the_weights(make, tmp_path, monkeypatch):
    written, write = [], pretrained.write_checkpoint
    monkeypatch.setattr(
        pretrained, "write_checkpoint", lambda *args: (written.append(args), write(*args))
    )
    run = make(tmp_path / "run").fit()
    scores = [found["micro_f1"] for found in run["evaluations"]]
    better = [score > max(scores[:i], default=-1) for i, score in enumerate(scores)]
    assert len(written) == sum(better)
    hf = json.loads((tmp_path / "run" / "config.json").read_text())
    assert list(hf["task_specific_params"]["thresholds"]) == list(NAMES)


def test_what_has_no_meaning_is_refused(make):
    with pytest.raises(InputError, match=r"label_smoothing=0.1 has no meaning for multi-label"):
        make(label_smoothing=0.1)
    with pytest.raises(InputError, match="'accuracy' is not one of micro_f1, macro_f1, subset"):
        make(metric="accuracy")


# The command line


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("labels")
    BertModel(BertConfig(**task_checks.SHAPE), rngs=nnx.Rngs(0)).save_pretrained(root / "model")
    (root / "model" / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]
    sets = [row | {"label": names} for row, names in zip(rows, SETS, strict=True)]
    text = "".join(json.dumps(row) + "\n" for row in sets)
    (root / "train.jsonl").write_text(text)
    lines = [",".join(map(str, row.values())) for row in rows]
    (root / "train.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return root


def test_the_command_line_end_to_end(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("JAXBERT_CACHE", str(place / "cache"))
    settings = ["--max-length", "16", "--batch-size", "8", "--epochs", "1", "--param-dtype",
                "bfloat16"]  # fmt: skip
    words = ["finetune", "--model", "model", *settings, "--output", "run"]
    named = [word for name in NAMES for word in ("--label-columns", name)]
    csv = ["--train", "train.csv", "--eval", "train.csv", *named]
    assert main([*words, *csv, "--dry-run"]) == 0
    assert TASK.name in capsys.readouterr().out
    assert main([*words, *csv]) == 0
    scores = json.loads((place / "run" / "run.json").read_text())["scores"]["train"]
    assert main(["finetune", "--resume", "--output", "run"]) == 0  # which reads the columns again
    capsys.readouterr()
    for data in ("train.csv", "train.jsonl"):  # columns called as the labels, and lists
        assert main(["evaluate", data, "--model", "run", "--max-length", "16"]) == 0
        header, row = capsys.readouterr().out.splitlines()
        assert header.split()[1:] == ["examples", "loss", *TASK.metrics]
        assert row.split()[3] == f"{scores['micro_f1']:.4f}"
    assert main(["predict", "train.jsonl", "--model", "run", "--max-length", "16"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert list(found[0]) == ["text", *NAMES, "label", "labels", "probabilities"]
