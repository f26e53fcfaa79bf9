"""Studies of every task: what is measured, and by which score rates are chosen."""

import json

import every_task
import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxbert import Examples
from jaxbert.errors import InputError
from jaxbert.lab.data import Data, demo_data, load_data, sample
from jaxbert.lab.journals import read
from jaxbert.lab.making import Size
from jaxbert.lab.metric import Metric
from jaxbert.lab.run import Laboratory
from jaxbert.lab.study import Study, _chosen, run_study
from jaxbert.models import BertConfig, BertModel
from jaxbert.optim import Strategy
from jaxbert.tasks import TASKS, TaskOptions
from jaxbert.training import TrainConfig

GENTLE = Strategy("gentle", "", "", {"learning_rate": 1e-3})
OTHERS = [name for name in TASKS if name != "text-classification"]  # which test_study has


@pytest.fixture(scope="module", autouse=True)
def _compile_cheaply():
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    BertModel(BertConfig(**every_task.SHAPE), rngs=nnx.Rngs(0)).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    return directory


def laboratory(model, name, **settings):
    found = every_task.examples(name)
    data = Data(found, found, found, {"other": found.take(np.arange(5))}, found)
    length = every_task.MAX_LENGTH.get(name, 16)
    config = TrainConfig(batch_size=8, max_length=length, layout="padded", **settings)
    return Laboratory(model, data, config, "float32", every_task.OPTIONS.get(name))


def journal(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", OTHERS)
def test_a_study_of_every_task(model, tmp_path, name):
    lab = laboratory(model, name)
    study = Study(strategies={"gentle": GENTLE}, control="gentle", sizes=(Size(9, 1),), seeds=(0,),
                  rates=(1e-3,))  # fmt: skip
    run_study(lab, study, tmp_path, show=False)
    about = json.loads((tmp_path / "study.json").read_text())
    metric, more = next(iter(TASKS[name].metrics.items()))
    assert (about["task"], about["metric"]) == (name, metric)
    assert about["higher_is_better"] is more
    options = every_task.OPTIONS.get(name)
    assert about["task_options"] == ({} if options is None else options.given())

    start, *middle, end = journal(tmp_path / "runs/9/gentle/0.jsonl")
    assert end["status"] == "finished"
    drawn = sample(lab.data.train, 9, seed=0)
    windows = len(TASKS[name].encode(drawn, lab._setup.tokenizer, lab.config.max_length))
    if name not in ("question-answering", "multiple-choice"):  # several a question
        assert windows == 9
        assert start["total_steps"] == lab.steps(9, 1) == 2
    assert end["step"] == start["total_steps"]
    assert [line["step"] for line in middle if line["event"] == "eval"][-1] == end["step"]
    assert list(end["scores"]) == ["development", "test", "other"]
    wanted = {"loss", *TASKS[name].metrics}
    assert all(wanted <= set(scores) for scores in end["scores"].values())
    assert end["drift"]["layer_0"] > 0
    assert end["similarity"]["cka"]["layer_0"] > 0.5
    assert 0 < end["neighbour_overlap"] <= 1

    run = read(tmp_path).cell("9", "gentle")[0]
    score = end["scores"]["test"][metric]
    assert run.score("test") == score / (100 if name == "question-answering" else 1)
    assert run.failed == (more and score <= 0)  # an F1 of nothing found
    if name != OTHERS[0]:
        return
    with pytest.raises(InputError, match="is of another study: metric"):
        run_study(laboratory(model, name, metric="loss"), study, tmp_path, show=False)


def test_class_weights_count(model):
    found = every_task.examples("text-classification")
    data = Data(found, found, found, {}, found)
    config = TrainConfig(batch_size=13, max_length=16, layout="padded")
    lab = Laboratory(model, data, config, "float32", TaskOptions(class_weights="good=9"))
    batch = next(lab._stage.batches(found, seed=0).epoch(0))
    np.testing.assert_array_equal(batch["weights"], np.where(batch["labels"] == 1, 9, 1))


def test_thresholds_are_tuned_on_the_development_set(model, tmp_path):
    lab = laboratory(model, "multi-label-classification")
    end = lab.run(GENTLE.config(), tmp_path / "j", {}, examples=None, epochs=1, seed=0)
    # The same examples: with thresholds that suit them no label is told worse.
    assert end["scores"]["test"]["macro_f1"] > end["scores"]["development"]["macro_f1"]
    assert end["scores"]["test"]["loss"] == pytest.approx(end["scores"]["development"]["loss"])
    assert lab._stage.predictor.config.thresholds == ()  # of the next run nothing is known


def test_of_losses_the_least_is_the_best_and_a_diverged_one_is_none():
    class Run:
        about = {"strategy": "s"}  # noqa: RUF012

        def __init__(self, rate):
            self.optimizer = GENTLE.config(learning_rate=rate)

    ends = [{"scores": s and {"development": {"mse": s}}} for s in (0.3, 0.2, None, 0.25)]
    runs = [Run(rate) for rate in (1e-4, 2e-4, 3e-4, 4e-4)]
    assert _chosen(runs, ends, Metric("mse", False)) == {"s": 2e-4}
    assert _chosen(runs, ends, Metric("mse")) == {"s": 1e-4}
    assert _chosen(runs[2:], ends[2:], Metric("mse", False)) == {"s": 4e-4}


def test_the_metric_is_checked_before_the_model_is_loaded(tmp_path):
    found = every_task.examples("masked-lm")
    data = Data(found, found, found, {}, found)
    with pytest.raises(InputError, match="metric='f1' is not one of perplexity, loss"):
        Laboratory(tmp_path / "nothing", data, TrainConfig(metric="f1"), "float32")


def test_neutral_text_needs_no_task(tmp_path):
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(dict(zip(every_task.CHOICES, row, strict=True))) + "\n"
                for row in zip(*every_task.CHOICES.values(), strict=True))
    )  # fmt: skip
    (tmp_path / "plain.txt").write_text("a line\nanother\n")
    files = [str(tmp_path / "train.jsonl")] * 3
    data = load_data(*files, {}, str(tmp_path / "plain.txt"))
    assert data.task == "multiple-choice"
    assert data.neutral.texts == ("a line", "another")
    assert load_data(*files, {}, None).neutral.plain() == Examples(
        tuple(q for q, c in zip(*list(every_task.CHOICES.values())[:2], strict=True) for _ in c),
        tuple(choice for choices in every_task.CHOICES["choices"] for choice in choices),
        source=data.train.source,
    )


def test_the_demo_is_of_two_tasks():
    with pytest.raises(InputError, match="the demo has no data for task masked-lm: give a model"):
        demo_data("masked-lm")
