"""Question answering from end to end: the step, the run, the command line."""

import json
import math

import jax
import numpy as np
import pytest
import task_checks
import tiny
from every_task import questions
from flax import nnx
from tolerance import assert_close

import jaxbert
from jaxbert import InputError, TrainConfig, Trainer, load_examples
from jaxbert.cli import main
from jaxbert.models import BertConfig, BertForQuestionAnswering, BertModel, Compute, split_model
from jaxbert.tasks import TaskOptions, get_task, task_of
from jaxbert.tasks.losses import span
from jaxbert.training import Predictor

TASK = get_task("question-answering", TaskOptions(doc_stride=2))
FIRST = load_examples(questions(13, sentences=2))
SECOND = load_examples(questions(13, unanswered=4))


def model(seed=0, dtype="float32", **config):
    config = BertConfig(**task_checks.SHAPE | config)
    return BertForQuestionAnswering(config, rngs=nnx.Rngs(seed), compute=Compute(dtype=dtype))


PROGRAMS = {}


def trainer(tokenizer, output=None, resume=False, train=SECOND, evaluation=SECOND, **settings):
    own = {k: settings.pop(k) for k in ("task", "network") if k in settings}
    config = dict(epochs=2, batch_size=4, max_length=16, log_every=1, seed=5)
    return Trainer(
        own.get("network") or model(**task_checks.DROPPING), tokenizer, train=train,
        evaluation=evaluation, task=own.get("task", TASK), output=output, resume=resume,
        config=TrainConfig(**config | {"optimizer": tiny.ADAMW} | settings), progress=False,
        programs=PROGRAMS,
    )  # fmt: skip


# The loss


def test_the_loss_by_hand():
    """Two segments, the second without tokens in its softmax from the first; a third is absent."""
    start = np.array([[1.0, 2, 3, 0, 5, 9]], np.float32)
    end = np.array([[0.0, 0, 1, 2, 2, 9]], np.float32)
    segments = np.array([[1, 1, 1, 2, 2, 0]], np.int32)
    labels = np.array([[[0, 2], [4, 3], [0, 0]]], np.int32)
    weights = np.array([[1.0, 0.5, 0]], np.float32)
    start, end, segments, labels, weights = map(
        jax.numpy.asarray, (start, end, segments, labels, weights)
    )

    def cross_entropy(values, chosen):
        return math.log(sum(math.exp(v) for v in values)) - values[chosen]

    first = cross_entropy([1, 2, 3], 0) + cross_entropy([0, 0, 1], 2)
    second = cross_entropy([0, 5], 1) + cross_entropy([2, 2], 0)
    total, count = span(start, end, segments, labels, weights)
    assert float(total) == pytest.approx(first / 2 + second / 2 * 0.5, rel=1e-6)
    assert float(count) == 1.5
    with jax.debug_nans(True):  # on the way either
        gradient = jax.grad(lambda s: span(s, end, segments, labels, weights)[0])(start)
    assert gradient[0, 5] == 0
    by_segment = [float(gradient[0, :3].sum()), float(gradient[0, 3:5].sum())]
    assert by_segment == pytest.approx([0, 0], abs=1e-6)


# The step and the run


def test_a_resumed_run_is_the_uninterrupted_one(tokenizer, tmp_path):
    whole = task_checks.assert_resumes(
        lambda output, resume: trainer(tokenizer, output, resume), tmp_path, at=5
    )
    runs = [tiny.run_json(tmp_path / name) for name in ("whole", "stopped")]
    assert runs[0]["evaluations"] == runs[1]["evaluations"]
    configs = [
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("whole", "stopped")
    ]
    assert configs[0] == configs[1]
    assert whole.task.name == "question-answering"


@pytest.fixture(scope="module")
def finished(tokenizer, tmp_path_factory):
    output = tmp_path_factory.mktemp("qa") / "run"
    examples = load_examples(questions(48, seed=1, unanswered=16))
    with pytest.MonkeyPatch.context():
        done = trainer(
            tokenizer, output, train=examples, evaluation=examples, network=model(),
            epochs=16, batch_size=16,
            optimizer=jaxbert.OptimizerConfig(learning_rate=1e-2, layer_decay=0.9),
        )  # fmt: skip
        return done, done.fit()


def test_training_learns_to_answer_and_not_to(finished):
    _, run = finished
    first, last = run["evaluations"][0], run["evaluations"][-1]
    assert last["loss"] < first["loss"] / 2
    assert run["best"]["metric"] == "f1"
    assert last["f1"] > 80
    assert last["NoAns_f1"] > 50
    assert set(last) >= {"exact_match", "HasAns_f1", "NoAns_exact", "best_f1", "best_f1_thresh"}


def test_every_layer_has_its_rate(finished):
    done, _ = finished
    optimizer = jaxbert.OptimizerConfig(layer_decay=0.5)
    plan = jaxbert.RatePlan.make(optimizer, split_model(done.model)[1], 10, 5)
    assert plan.peaks["head"] == 2 * plan.peaks["layer_0"] == 4 * plan.peaks["embeddings"]
    assert "pooler" not in plan.peaks


def test_what_is_saved_answers_as_before(finished, tokenizer):
    done, _ = finished
    again = BertForQuestionAnswering.from_pretrained(done.output)
    tuned = dict(again.config.thresholds)
    assert tuned == dict(done.predictor.config.thresholds)
    assert tuned.keys() == {"null"}
    assert task_of(done.output).name == "question-answering"
    examples = load_examples(questions(48, seed=1, unanswered=16))
    predictor = Predictor(again, tokenizer, task=TASK, max_length=16)
    rows = predictor.predict(examples)
    # Rows of other shapes: the same sums, rounded in another order.
    for row, other in zip(rows, done.predict(examples), strict=True):
        assert row == other | {"score": pytest.approx(other["score"], abs=1e-5)}
    assert [row["id"] for row in rows] == list(examples.ids)
    assert any(row["answer"] == "" for row in rows)
    for row, context in zip(rows, examples.pairs, strict=True):
        if row["answer"]:
            assert context[row["start"] : row["end"]] == row["answer"]
    scores = predictor.evaluate(examples)
    assert scores == pytest.approx(done.evaluate(examples), rel=1e-5)
    # The threshold lies between two questions: no other does better on these.
    assert scores["f1"] == pytest.approx(scores["best_f1"])


def test_results_are_those_of_each_text_alone(finished, tokenizer):
    done, _ = finished
    examples = load_examples(questions(5, sentences=2))
    found = done.predictor.results(examples)
    encoded = TASK.encode(examples, tokenizer, 16)
    assert set(found) == {"start_logits", "end_logits"}
    for i in range(len(encoded)):
        at = encoded.of_feature(i)
        alone = done.model(
            encoded.input_ids[None, at], token_type_ids=encoded.token_type_ids[None, at]
        )
        assert_close(found["start_logits"][i], alone.start_logits[0], terms=1000, limit=1e-4)
        assert_close(found["end_logits"][i], alone.end_logits[0], terms=1000, limit=1e-4)
    with pytest.raises(InputError, match="keeps no logits but end_logits, start_logits"):
        done.predictor.logits(examples)


def test_what_has_no_meaning_is_refused_before_training(tokenizer):
    with pytest.raises(InputError, match="metric='em' is not one of f1, exact_match, loss"):
        trainer(tokenizer, metric="em")
    with pytest.raises(InputError, match=r"label_smoothing=0.1 has no meaning for question-answ"):
        trainer(tokenizer, label_smoothing=0.1)
    with pytest.raises(InputError, match=r"films\.csv are for text-classification"):
        trainer(tokenizer, train=tiny.CLASSES, evaluation=None)
    with pytest.raises(InputError, match="dict of columns: training needs labels"):
        trainer(tokenizer, train=FIRST.unlabelled(), evaluation=None)
    predictor = Predictor(model(), tokenizer, max_length=16)
    assert predictor.task.name == "question-answering"
    with pytest.raises(InputError, match="memory: questions without contexts"):
        predictor.predict(["film"])
    with pytest.raises(InputError, match=r"films\.csv .*are for text-classification"):
        predictor.evaluate(tiny.CLASSES)


# The command line


def squad(rows):
    """The rows of a table as a file of SQuAD has them."""
    asked = []
    for values in zip(*rows.values(), strict=True):
        row = dict(zip(rows, values, strict=True))
        pairs = zip(*row["answers"].values(), strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
        question = {"id": row["id"], "question": row["question"], "answers": answers}
        asked.append({"context": row["context"], "qas": [question]})
    return {"version": "v2.0", "data": [{"title": "films", "paragraphs": asked}]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("qa-cli")
    BertModel(BertConfig(**task_checks.SHAPE), rngs=nnx.Rngs(0)).save_pretrained(root / "model")
    (root / "model" / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    (root / "train.json").write_text(json.dumps(squad(questions(24, unanswered=6))))
    (root / "dev.json").write_text(json.dumps(squad(questions(8, seed=2, unanswered=2))))
    (root / "first.json").write_text(json.dumps(squad(questions(4, seed=3))))
    return root


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("JAXBERT_CACHE", str(tmp_path_factory.getbasetemp() / "qa-cache"))


def finetune(place, *more):
    return main(
        ["finetune", "--model", str(place / "model"), "--train", str(place / "train.json"),
         "--eval", str(place / "dev.json"), "--test", str(place / "first.json"),
         "--output", str(place / "run"), "--epochs", "1", "--batch-size", "8",
         "--max-length", "16", "--doc-stride", "2", *more]
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    """What a finished run leaves in run.json."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXBERT_CACHE", str(tmp_path_factory.getbasetemp() / "qa-cache"))
        assert finetune(place) == 0
    return tiny.run_json(place / "run")


def test_the_command_line_from_end_to_end(place, run, capsys):
    assert run["task"] == "question-answering"
    kept = json.loads((place / "run" / "config.json").read_text())
    assert kept["architectures"] == ["BertForQuestionAnswering"]
    assert list(kept["task_specific_params"]["thresholds"]) == ["null"]

    arguments = ["--model", str(place / "run")]  # which says the rest itself
    assert kept["task_specific_params"]["settings"] == {"max_length": 16, "doc_stride": 2}
    files = [str(place / "dev.json"), str(place / "first.json")]
    assert main(["evaluate", *files, *arguments]) == 0
    header, dev, first = map(str.split, capsys.readouterr().out.splitlines())
    assert header == ["data", *run["scores"]["dev"]]
    assert header[:5] == ["data", "examples", "loss", "f1", "exact_match"]
    assert "NoAns_f1" in header
    assert float(dev[3]) == pytest.approx(run["scores"]["dev"]["f1"], abs=1e-3)
    assert first[5:] == ["-"] * (len(header) - 5)  # all are answered there

    assert main(["predict", files[0], *arguments, "--n-best", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(8)]
    names = ["id", "title", "context", "question", "answers"]
    assert list(rows[0]) == [*names, "answer", "score", "start", "end", "n_best"]
    assert [len(row["n_best"]) for row in rows] == [2] * 8
    never = [*arguments, "--null-threshold", "1e9"]
    assert main(["predict", files[0], *never, "--output", str(place / "said.jsonl")]) == 0
    said = [json.loads(line) for line in (place / "said.jsonl").read_text().splitlines()]
    assert all(row["answer"] for row in said)


def test_a_dry_run_says_what_it_would_be(place, capsys):
    assert finetune(place, "--dry-run", "--output", str(place / "dry")) == 0
    printed = capsys.readouterr().out
    assert "question-answering" in printed.splitlines()[0]
    assert "train 24, dev 8, first 4" in printed
    assert not (place / "dry").exists()


def test_a_run_that_is_stopped_is_resumed(place, run, capsys):
    with tiny.stopped_after(2):
        assert finetune(place, "--output", str(place / "stopped")) == 130
    assert main(["finetune", "--resume", "--output", str(place / "stopped")]) == 0
    assert tiny.run_json(place / "stopped")["scores"] == run["scores"]
    ours, theirs = ((place / n / "model.safetensors").read_bytes() for n in ("stopped", "run"))
    assert ours == theirs


MISTAKES = {
    ("--train", "torn.json"): "torn.json: column 'answers', data row 1",
    ("--train", "table.json"): "no column 'answers' (answers_column",
    ("--context-column", "passage"): "no column 'passage' (context_column",
    ("--doc-stride", "13"): "doc_stride=13 must be below",
    ("--doc-stride", "-1"): "doc_stride=-1 must be at least 0",
    ("--n-best", "0"): "n_best=0 must be at least 1",
    ("--max-answer-length", "0"): "max_answer_length=0 must be at least 1",
    ("--metric", "em"): "metric='em' is not one of f1, exact_match, loss",
    ("--stride", "2"): "stride=2 is for text-classification",
    ("--text-column", "question"): "has no text_column='question'",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line(place, words, capsys, monkeypatch):
    monkeypatch.chdir(place)
    torn = squad(questions(2))
    torn["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += 1
    (place / "torn.json").write_text(json.dumps(torn))
    (place / "table.json").write_text('[{"question": "film", "context": "dull"}]')
    more = ["--output", "out", "--task", "question-answering", *words]
    assert finetune(place, *more) == 2
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("jaxbert: ")
    ]
    assert MISTAKES[words] in line
    assert not (place / "out").exists()
