"""What a trainer trains, evaluates, keeps and predicts."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import tiny
from tiny import CLASSES, NUMBERS
from tolerance import assert_close, network_terms

from jaxbert.data import Examples
from jaxbert.models import BertForSequenceClassification, split_model
from jaxbert.optim import OptimizerConfig
from jaxbert.tasks import TEXT_CLASSIFICATION
from jaxbert.tasks.text_classification import probabilities
from jaxbert.training import TrainConfig, Trainer, pace
from jaxbert.training.assemble import initial_params
from jaxbert.training.engines import Compiled
from jaxbert.training.predictor import Predictor


def scripted(monkeypatch, scores):
    """Evaluation says these accuracies, one after the other."""
    scores = iter(scores)

    def scorer(self, examples):
        return lambda params: {"loss": 1.0, "accuracy": next(scores)}

    monkeypatch.setattr(Predictor, "scorer", scorer)


@pytest.fixture(scope="module")
def finished(tokenizer, tmp_path_factory):
    """A whole run with evaluation: (trainer, output directory, what fit returned)."""
    output = tmp_path_factory.mktemp("run") / "out"
    trainer = tiny.trainer(tokenizer, output=output, evaluation=CLASSES, eval_every=5)
    return trainer, output, trainer.fit()


def test_a_run_leaves_its_evidence(finished):
    trainer, output, run = finished
    assert tiny.run_json(output) == run
    assert (run["status"], run["step"], run["total_steps"]) == ("finished", 12, 12)
    assert [e["step"] for e in run["evaluations"]] == [5, 10, 12]
    assert run["config"]["batch_size"] == 4
    assert run["data"]["train"]["fingerprint"] == CLASSES.fingerprint
    lines = tiny.lines(output)
    steps = [line["step"] for line in lines if line["event"] == "train"]
    assert steps == list(range(1, 13))
    rates = lines[0]["learning_rate"]
    assert rates["layer_1"] == pytest.approx(0.9 * rates["head"])
    assert list((output / "tensorboard").iterdir())
    kept = {path.name for path in (output / "checkpoints").iterdir()}
    assert kept == {"10", "12", str(run["best"]["step"])}
    assert trainer.task.name == run["task"] == "text-classification"


def test_the_saved_model_says_what_it_is_for(finished):
    trainer, output, _ = finished
    saved = BertForSequenceClassification.from_pretrained(output)
    assert saved.config.problem_type == "single_label_classification"
    assert saved.config.id2label == ("bad", "good")
    tiny.assert_equal(split_model(saved)[1], split_model(trainer.model)[1])
    assert trainer.model.config == saved.config


def test_the_callers_model_is_left_alone(tokenizer):
    network = tiny.model()
    before, config = jax.tree.map(np.array, split_model(network)[1]), network.config
    tiny.trainer(tokenizer, network=network, epochs=1).fit()
    tiny.assert_equal(before, split_model(network)[1])
    assert network.config is config
    assert config.problem_type is None


@pytest.mark.parametrize("layout", ["packed", "bucketed", "padded"])
def test_no_more_programs_than_shapes(tokenizer, layout):
    trainer = tiny.trainer(
        tokenizer, layout=layout, accumulation=2, evaluation=CLASSES, epochs=2, programs={}
    )
    run = trainer.fit()
    possible = {(s.rows, s.length) for s in trainer._train.shapes}
    assert set(map(tuple, run["compilation"]["train_shapes"])) <= possible
    assert len(run["compilation"]["train_shapes"]) <= run["compilation"]["possible_shapes"]
    known = possible | {(s.rows, s.length) for s in trainer.predictor.batches(CLASSES).shapes}
    compiled = trainer.predictor.step.shapes
    assert len(compiled) == len(set(compiled))
    assert set(compiled) <= known


@pytest.mark.parametrize(("platform", "first"), [("cpu", "step"), ("tpu", "prepared")])
def test_on_cpus_the_first_program_has_all_cores(tokenizer, monkeypatch, platform, first):
    """What is compiled beside the steps is begun after it, and for training before the rest."""
    told = []
    prepare, call = Compiled.prepare, Compiled.__call__

    def name(what, compiled):
        return told.append((what, compiled is not trainer.predictor.step))

    monkeypatch.setattr(Compiled, "prepare", lambda self, *args: (
        name("prepared", self), prepare(self, *args)))  # fmt: skip
    monkeypatch.setattr(Compiled, "__call__", lambda self, *args: (
        name("step", self), call(self, *args))[1])  # fmt: skip
    trainer = tiny.trainer(tokenizer, evaluation=CLASSES, epochs=1)
    monkeypatch.setattr(trainer.engine, "platform", platform)
    trainer.fit()
    assert told[0] == (first, True)
    begun = [trains for what, trains in told if what == "prepared"]
    assert begun == sorted(begun, reverse=True)
    assert set(begun) == {True, False}
    assert told.index(("step", True)) == (0 if platform == "cpu" else len(begun))
    assert told.index(("prepared", False)) < told.index(("step", False))


def test_a_run_of_one_step(tokenizer):
    trainer = tiny.trainer(tokenizer, evaluation=CLASSES, epochs=1, batch_size=len(CLASSES))
    assert trainer.fit()["step"] == 1


def test_evaluation_counts_each_example_once(finished):
    """Thirteen examples in fours: the last batch has one."""
    trainer, _, _ = finished
    batches = trainer.predictor.batches(CLASSES)
    assert len(CLASSES) % batches.batch_size == 1
    found, loss = trainer.predictor.run(split_model(trainer.model)[1], batches)
    one_by_one = np.concatenate([trainer.logits([text]) for text in CLASSES.texts])
    assert_close(found["logits"], one_by_one, terms=network_terms(trainer.model.config, 16))
    p = probabilities(one_by_one)[np.arange(13), CLASSES.labels]
    scores = trainer.evaluate(CLASSES)
    # That is in another order, of which a float32 sum knows.
    assert scores["loss"] == pytest.approx(loss, abs=1e-6)
    assert loss == pytest.approx(-np.log(p).mean(), abs=1e-5)
    assert scores["accuracy"] == (one_by_one.argmax(-1) == CLASSES.labels).mean()


def test_predictions_come_in_the_order_of_the_texts(finished):
    trainer, _, _ = finished
    texts = CLASSES.texts[::-1]
    predictions = trainer.predict(texts)
    for text, prediction in zip(texts, predictions, strict=True):
        alone = trainer.predict([text])[0]
        assert list(prediction["probabilities"]) == ["bad", "good"]
        assert prediction["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
        assert sum(prediction["probabilities"].values()) == pytest.approx(1)
        best = max(prediction["probabilities"], key=prediction["probabilities"].get)
        assert prediction["label"] == alone["label"] == best
    assert len({p["probabilities"]["good"] for p in predictions}) == 13


@pytest.mark.parametrize("written", [True, False])
def test_the_best_model_is_kept(tokenizer, tmp_path, monkeypatch, written):
    seen = []
    accuracies = iter([0.5, 0.9, 0.9, 0.2])  # the second is best: an equal one is no better

    def scorer(self, examples):
        def score(params):
            seen.append(jax.tree.map(np.array, params))
            return {"loss": 1.0, "accuracy": next(accuracies)}

        return score

    monkeypatch.setattr(Predictor, "scorer", scorer)
    trainer = tiny.trainer(
        tokenizer,
        output=tmp_path / "out" if written else None,
        evaluation=CLASSES,
        eval_every=3,
    )
    run = trainer.fit()
    assert run["best"] == {"metric": "accuracy", "score": 0.9, "step": 6}
    assert len(seen) == 4
    tiny.assert_equal(split_model(trainer.model)[1], seen[1])
    if written:
        saved = BertForSequenceClassification.from_pretrained(tmp_path / "out")
        tiny.assert_equal(split_model(saved)[1], seen[1])


def test_less_is_better_for_the_loss(tokenizer, monkeypatch):
    losses = iter([0.5, 0.9, 0.3])
    monkeypatch.setattr(Predictor, "scorer", lambda *_: lambda params: {"loss": next(losses)})
    run = tiny.trainer(tokenizer, evaluation=CLASSES, metric="loss").fit()
    assert run["best"] == {"metric": "loss", "score": 0.3, "step": 12}


def test_early_stopping(tokenizer, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.5, 0.6, 0.6, 0.4])
    trainer = tiny.trainer(
        tokenizer, output=tmp_path / "out", evaluation=CLASSES, eval_every=1, patience=2
    )
    run = trainer.fit()
    assert (run["status"], run["step"]) == ("finished", 4)
    assert run["best"]["step"] == 2
    again = tiny.trainer(
        tokenizer, output=tmp_path / "out", evaluation=CLASSES, eval_every=1, patience=2,
        resume=True,
    )  # fmt: skip
    assert again.fit()["step"] == 4  # nothing left to do
    tiny.assert_equal(split_model(again.model)[1], split_model(trainer.model)[1])


def test_without_evaluation_the_last_model_is_kept(tokenizer, tmp_path):
    trainer = tiny.trainer(tokenizer, output=tmp_path / "out", epochs=1)
    run = trainer.fit()
    assert run["best"]["score"] is None
    saved = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    tiny.assert_equal(split_model(saved)[1], split_model(trainer.model)[1])
    start = tiny.leaves(split_model(tiny.model())[1])
    end = tiny.leaves(split_model(trainer.model)[1])
    assert not any(np.array_equal(start[k], end[k]) for k in start if k.endswith("kernel"))


def test_training_lowers_the_loss(tokenizer, tmp_path):
    fast = dataclasses.replace(tiny.ADAMW, learning_rate=0.01)
    # With so few examples as these, a third of the seeds need more than eight epochs.
    trainer = tiny.trainer(tokenizer, epochs=30, optimizer=fast)
    before = trainer.evaluate(CLASSES)["loss"]
    trainer.fit()
    assert trainer.evaluate(CLASSES)["loss"] < before / 2


def test_regression(tokenizer, tmp_path):
    network = tiny.model(1)
    trainer = tiny.trainer(
        tokenizer, NUMBERS, tmp_path / "out", evaluation=NUMBERS, network=network, epochs=1
    )
    run = trainer.fit()
    assert run["best"]["metric"] == "mse"
    values = np.array([p["score"] for p in trainer.predict(NUMBERS.texts)])
    scores = trainer.evaluate(NUMBERS)
    assert scores["mse"] == pytest.approx(np.square(values - NUMBERS.labels).mean(), rel=1e-5)
    assert scores["loss"] == pytest.approx(scores["mse"], rel=1e-5)
    saved = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert saved.config.problem_type == "regression"


def test_reinitialized_layers_start_afresh_and_alone(tokenizer):
    anew = dataclasses.replace(tiny.ADAMW, reinitialize_layers=1)
    trainer = tiny.trainer(tokenizer, optimizer=anew, network=tiny.model(seed=9))
    old = tiny.leaves(split_model(tiny.model(seed=9))[1])
    start = tiny.leaves(initial_params(trainer._model, trainer.config))
    fresh = {k for k in old if not np.array_equal(old[k], start[k])}
    assert fresh
    assert all(k.startswith(("encoder/layers/1/", "encoder/pooler/")) for k in fresh)
    drawn = {k for k in old if k.startswith(("encoder/layers/1/", "encoder/pooler/"))}
    assert {k for k in drawn if k.endswith("kernel")} <= fresh
    again = tiny.trainer(tokenizer, optimizer=anew, network=tiny.model(seed=9))
    tiny.assert_equal(
        initial_params(trainer._model, trainer.config), initial_params(again._model, again.config)
    )


def test_frozen_embeddings_rest_through_a_run(tokenizer):
    frozen = OptimizerConfig(learning_rate=1e-3, frozen=("embeddings",))
    trainer = tiny.trainer(tokenizer, optimizer=frozen, epochs=1)
    trainer.fit()
    after, before = split_model(trainer.model)[1], split_model(tiny.model())[1]
    tiny.assert_equal(after["encoder"]["embeddings"], before["encoder"]["embeddings"])


OTHER_NAMES = dataclasses.replace(CLASSES, label_names=("good", "bad"), source="other.csv")
UNLABELLED = Examples(CLASSES.texts, source="plain.csv")
REFUSED = {
    "no labels": (dict(train=UNLABELLED), "plain.csv: training needs labels"),
    "unlabelled evaluation": (dict(evaluation=UNLABELLED), "plain.csv: evaluation needs labels"),
    "other kind": (dict(evaluation=NUMBERS), "labels of scores.csv are for text-regression"),
    "other order": (
        dict(evaluation=OTHER_NAMES),
        r"other.csv numbers its labels good, bad, the model bad, good; .*label_names=",
    ),
    "too long": (dict(max_length=17), "max_length=17 is more than the model's 16 positions"),
    "wide regression": (
        dict(train=NUMBERS, network=tiny.model(2)),
        "regression needs num_labels=1, the model has 2",
    ),
    "smoothed numbers": (
        dict(train=NUMBERS, network=tiny.model(1), label_smoothing=0.1),
        "label_smoothing=0.1 has no meaning for text-regression",
    ),
    "another task": (
        dict(task="text-regression", network=tiny.model(1)),
        "task text-regression, but the labels of films.csv are for text-classification",
    ),
    "narrow": (dict(network=tiny.model(1)), "has 2 labels .* num_labels=1"),
    "nothing to evaluate": (
        dict(patience=2, metric="accuracy"),
        "metric, patience set without evaluation examples",
    ),
    "metric": (dict(metric="f1", evaluation=CLASSES), "metric='f1' is not one of accuracy"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tokenizer, tmp_path, settings, message
):
    with pytest.raises(ValueError, match=message):
        tiny.trainer(tokenizer, output=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_fit_wants_examples_and_one_call(tokenizer, finished):
    with pytest.raises(ValueError, match="needs training examples"):
        tiny.trainer(tokenizer, None).fit()
    with pytest.raises(ValueError, match="make a new Trainer"):
        finished[0].fit()


def test_a_task_of_another_loss_has_programs_of_its_own(tokenizer):
    """Also where it has the name of the one that it was made from."""

    def loss(*args):
        total, count = TEXT_CLASSIFICATION.loss(*args)
        return 2 * total, count

    doubled = dataclasses.replace(TEXT_CLASSIFICATION, loss=loss)
    programs = {}
    once, twice = (
        Predictor(tiny.model(), tokenizer, task=task, max_length=16, programs=programs).evaluate(
            CLASSES
        )["loss"]
        for task in (TEXT_CLASSIFICATION, doubled)
    )
    assert twice == pytest.approx(2 * once)


@pytest.mark.parametrize(("progress", "lines"), [(None, 3), (False, 0)])
def test_progress_in_lines_where_there_is_no_terminal(
    tokenizer, tmp_path, monkeypatch, caplog, progress, lines
):
    caplog.set_level("INFO", "jaxbert")
    monkeypatch.setattr(pace, "SECONDS_BETWEEN_LINES", 0.0)
    config = TrainConfig(epochs=3, batch_size=4, max_length=16, log_every=100, optimizer=tiny.ADAMW)
    Trainer(tiny.model(), tokenizer, train=tiny.CLASSES, config=config, progress=progress).fit()
    told = [message for message in caplog.messages if "left" in message]
    assert len(told) == lines
    for message, step in zip(told, (4, 8, 12), strict=False):
        pattern = rf"step {step} of 12: loss \d\.\d{{4}}, \d+\.\d\d steps/s, 0:00:\d\d left"
        assert re.fullmatch(pattern, message), message
    monkeypatch.setattr(pace, "SECONDS_BETWEEN_LINES", 1000.0)
    caplog.clear()
    Trainer(tiny.model(), tokenizer, train=tiny.CLASSES, config=config).fit()
    assert not [message for message in caplog.messages if "left" in message]
