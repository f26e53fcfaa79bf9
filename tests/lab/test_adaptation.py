"""Masked LM on the training texts before they are fine-tuned on: what is kept, shared, counted."""

import json

import every_task
import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxbert import BertForMaskedLM
from jaxbert.data import Examples
from jaxbert.errors import InputError
from jaxbert.lab.adaptation import NAME, Adaptation, strategy, texts_of
from jaxbert.lab.data import Data
from jaxbert.lab.making import Size
from jaxbert.lab.report import write_report
from jaxbert.lab.run import Adapted, Laboratory
from jaxbert.lab.study import Study, run_study
from jaxbert.models import BertConfig, BertModel, split_model
from jaxbert.optim import DEFAULT_STRATEGY, Strategy, get_strategy
from jaxbert.tasks import TASKS
from jaxbert.training import TrainConfig

GENTLE = Strategy("gentle", "", "", {"learning_rate": 1e-3})
HOW = Adaptation(epochs=8, learning_rate=1e-2)


@pytest.fixture(scope="module", autouse=True)
def _compile_cheaply():
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    BertModel(BertConfig(**every_task.SHAPE), rngs=nnx.Rngs(0)).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    data = Data(tiny.CLASSES, tiny.CLASSES, tiny.CLASSES, {}, tiny.CLASSES)
    config = TrainConfig(batch_size=4, max_length=16, layout="padded")
    return Laboratory(directory, data, config, "float32")


def make_study(**fields):
    given = dict(
        strategies={"gentle": GENTLE, NAME: strategy()},
        control="gentle",
        sizes=(Size(8, 1),),
        seeds=(0, 1),
        rates=(1e-3, 1e-2),
        adaptations={NAME: HOW},
    )
    return Study(**(given | fields))


def journal(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(laboratory, tmp_path_factory):
    directory = tmp_path_factory.mktemp("study")
    run_study(laboratory, make_study(), directory, show=False)
    return directory


def test_it_is_the_default_strategy_under_another_name():
    assert strategy().config() == get_strategy(DEFAULT_STRATEGY).config()
    assert HOW.optimizer.layer_decay == 1
    with pytest.raises(InputError, match=r"epochs=0 must .*learning_rate=-1 must be a positive"):
        Adaptation(epochs=0, learning_rate=-1)


def test_texts_are_those_of_the_examples_once_each():
    pairs = Examples(("a", "b", "a"), ("b", "c", " "), source="pairs.csv")
    found = texts_of(pairs)
    assert (found.texts, found.task, found.source) == (("a", "b", "c"), "masked-lm", "pairs.csv")
    sentences = texts_of(every_task.examples("token-classification"))
    assert sentences.texts == tiny.TEXTS
    asked = every_task.examples("question-answering")
    assert set(texts_of(asked).texts) == {*asked.texts, *asked.pairs}
    chosen = every_task.examples("multiple-choice")
    words = {*chosen.texts, *(choice for choices in chosen.choices for choice in choices)}
    assert set(texts_of(chosen).texts) == words


def test_it_is_made_once_for_a_size_and_a_seed_and_counted(whole):
    made = sorted(path.name for path in (whole / "adapted/8" / NAME).iterdir())
    assert made == ["0", "1", "100"]  # 100 is the grid's, of two rates
    about = json.loads((whole / "study.json").read_text())["strategies"]
    assert about[NAME]["adaptation"] == {"epochs": 8, "learning_rate": 1e-2}
    assert "adaptation" not in about["gentle"]
    for seed in ("0", "1"):
        start, *lines, end = journal(whole / "adapted/8" / NAME / seed / "journal.jsonl")
        assert (start["seed"], start["epochs"], end["status"]) == (int(seed), 8, "finished")
        assert end["step"] == 8 * 2  # 8 texts in batches of 4
        rates = [line["learning_rate"]["layer_0"] for line in lines]
        assert len(rates) == 16
        assert max(rates) == pytest.approx(1e-2)
        assert rates[-1] < 1e-3
        cost = journal(whole / f"runs/8/{NAME}/{seed}.jsonl")[-1]["adaptation"]
        assert cost == {"step": end["step"], "seconds": end["seconds"]}
    assert "adaptation" not in journal(whole / "runs/8/gentle/0.jsonl")[-1]


def test_the_report_says_what_it_cost(whole, tmp_path):
    text = write_report(whole, tmp_path).read_text()
    assert (
        f"{NAME} begins with masked LM on the training texts, 8 epochs with a peak of 0.01" in text
    )
    assert "in 2 runs 32 updates and" in text
    assert "beside 4 updates and" in text
    assert "--adaptation-rate 0.01 --adaptation-epochs 8" in text


def test_a_study_that_is_there_is_not_run_again(laboratory, whole):
    ages = {path: path.stat().st_mtime_ns for path in (whole / "adapted").rglob("*")}
    (whole / f"runs/8/{NAME}/1.jsonl").unlink()
    run_study(laboratory, make_study(), whole, show=False)
    assert {path: path.stat().st_mtime_ns for path in (whole / "adapted").rglob("*")} == ages
    assert journal(whole / f"runs/8/{NAME}/1.jsonl")[-1]["status"] == "finished"
    other = make_study(adaptations={NAME: Adaptation(epochs=3)})
    with pytest.raises(InputError, match="is of another study: strategies differ"):
        run_study(laboratory, other, whole, show=False)


def test_the_encoder_is_the_adapted_one_and_the_rest_is_kept(laboratory, whole):
    directory = whole / "adapted/8" / NAME / "0"
    plain = laboratory._stage.model(seed=0)
    found = tiny.leaves(split_model(laboratory._adapter.adapted(plain, directory))[1])
    before = tiny.leaves(split_model(plain)[1])
    other = tiny.leaves(split_model(BertForMaskedLM.from_pretrained(directory))[1])
    assert found.keys() == before.keys()
    for path, leaf in found.items():
        comes_from = before if path.startswith(("head/", "encoder/pooler/")) else other
        np.testing.assert_array_equal(leaf, comes_from[path], err_msg=path)
    moved = [path for path, leaf in found.items() if not np.array_equal(leaf, before[path])]
    assert "encoder/layers/0/attention/query/kernel" in moved
    assert "encoder/embeddings/word_embeddings/embedding" in moved


def test_drift_is_counted_from_before_it(laboratory, whole, tmp_path):
    still = Strategy("still", "", "", {"learning_rate": 1e-2, "frozen": ["embeddings", "layer_0"]})
    begins = {"plain": None, "adapted": Adapted(HOW, whole / "adapted/8" / NAME / "0")}
    drift = {}
    for name, adapted in begins.items():
        end = laboratory.run(still.config(), tmp_path / name, {}, examples=8, epochs=1, seed=0,
                             adapted=adapted)  # fmt: skip
        drift[name] = end["drift"]
    assert drift["plain"]["embeddings"] == drift["plain"]["layer_0"] == 0
    assert min(drift["adapted"][group] for group in ("embeddings", "layer_0")) > 0


def test_an_adaptation_that_diverges_is_a_result(laboratory, tmp_path):
    wild = Adapted(Adaptation(epochs=2, learning_rate=1e30), tmp_path / "adapted")
    laboratory.run(GENTLE.config(), tmp_path / "j", {}, examples=8, epochs=1, seed=0,
                   adapted=wild)  # fmt: skip
    start, last = journal(tmp_path / "j")
    assert (last["status"], last["scores"]) == ("diverged", None)
    assert last["why"].startswith(f"{NAME}: ")
    assert start["peak_rates"]["head"] == 1e-3  # what a report reads is there
    assert last["step"] == 0
    assert not (tmp_path / "adapted" / "config.json").exists()


def test_masked_lm_is_not_adapted_to_itself(tmp_path):
    class Lab:
        task = TASKS["masked-lm"]

    with pytest.raises(InputError, match="task masked-lm is what task-adaptive would begin with"):
        run_study(Lab(), make_study(), tmp_path, show=False)
    with pytest.raises(InputError, match=r"adaptations of \['x'\], which are not among"):
        make_study(adaptations={"x": HOW})
