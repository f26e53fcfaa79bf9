"""Studies and sweeps on a tiny model: what is run, what is shared, what is resumed."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny

from jaxbert.errors import InputError
from jaxbert.lab import run as lab_run
from jaxbert.lab.by_example import unpack
from jaxbert.lab.data import Data, load_data, sample
from jaxbert.lab.journal import finished
from jaxbert.lab.making import Size, parse_sizes
from jaxbert.lab.metric import FIRST
from jaxbert.lab.run import Laboratory
from jaxbert.lab.study import Study, Sweep, run_study, run_sweep
from jaxbert.models import BertConfig, BertModel, split_model
from jaxbert.optim import Strategy, load_strategies
from jaxbert.training import TrainConfig

GENTLE = Strategy("gentle", "", "", {"learning_rate": 1e-3, "layer_decay": 0.5})
STEEP = Strategy("steep", "", "", {"learning_rate": 2e-3, "schedule": "cosine", "warmup": 2})
# SGD without clipping, so that the rate decides whether numbers stay finite.
WILD = Strategy(
    "wild", "", "",
    {"learning_rate": 1e30, "schedule": "constant", "optimizer": "sgd", "clip_norm": None},
    tuned=False,
)  # fmt: skip
FROZEN = Strategy("still", "", "", {"learning_rate": 1e-2, "frozen": ["embeddings", "layer_0"]})


@pytest.fixture(scope="module", autouse=True)
def _compile_cheaply():
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    from flax import nnx

    model = tmp_path_factory.mktemp("model")
    config = BertConfig(**tiny.SHAPE, hidden_dropout_prob=0.1)
    BertModel(config, rngs=nnx.Rngs(0)).save_pretrained(model)
    (model / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    other = dataclasses.replace(tiny.CLASSES, labels=1 - tiny.LABELS)
    data = Data(tiny.CLASSES, tiny.CLASSES, tiny.CLASSES, {"other": other}, tiny.CLASSES)
    return Laboratory(model, data, TrainConfig(batch_size=4, max_length=16), "float32")


def make_study(**fields):
    given = dict(
        strategies={s.name: s for s in (GENTLE, STEEP, WILD)},
        control="gentle",
        sizes=(Size(8, 2), Size(None, 1)),
        seeds=(0, 1),
        rates=(1e-3, 1e-2),
    )
    return Study(**(given | fields))


def journal(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(directory):
    """Every journal without its times."""
    found = {}
    for path in sorted(directory.rglob("*.jsonl")):
        lines = journal(path)
        lines[-1].pop("seconds")
        found[str(path.relative_to(directory))] = lines
    return found


@pytest.fixture(scope="module")
def whole(laboratory, tmp_path_factory):
    """A study that nothing interrupted."""
    directory = tmp_path_factory.mktemp("study")
    run_study(laboratory, make_study(), directory, show=False)
    return directory


def test_every_cell_has_its_journal(whole):
    names = {str(path.relative_to(whole)) for path in whole.rglob("*.jsonl")}
    runs = {
        f"runs/{size}/{name}/{seed}.jsonl"
        for size in ("8", "full")
        for name in ("gentle", "steep", "wild")
        for seed in (0, 1)
    }
    grid = {
        f"grid/{size}/{name}/{rate}-100.jsonl"
        for size in ("8", "full")
        for name in ("gentle", "steep")  # the rate of `wild` is its claim
        for rate in ("0.001", "0.01")
    }
    assert names == runs | grid


def test_a_journal_tells_the_run(whole):
    start, *middle, end = journal(whole / "runs/full/steep/1.jsonl")
    chosen = json.loads((whole / "study.json").read_text())["grid"]["chosen"]["full"]["steep"]
    assert start["event"] == "start"
    assert (start["strategy"], start["size"], start["seed"]) == ("steep", "full", 1)
    assert start["learning_rate"] == chosen
    assert (start["total_steps"], start["steps_per_epoch"]) == (4, 4)
    assert start["peak_rates"] == dict.fromkeys(
        ["embeddings", "layer_0", "layer_1", "pooler", "head"], chosen
    )
    train = [line for line in middle if line["event"] == "train"]
    assert [line["step"] for line in train] == [1, 2, 3, 4]
    # Cosine after two steps of warm-up.
    rates = [line["learning_rate"]["head"] / chosen for line in train]
    np.testing.assert_allclose(rates, [0, 0.5, 1, 0.5], rtol=1e-5)
    norms = train[0]["grad_norms"]
    assert train[0]["grad_norm"] == pytest.approx(np.hypot.reduce([*norms.values()]), rel=1e-4)
    evaluations = [line["step"] for line in middle if line["event"] == "eval"]
    assert evaluations == [2, 4]
    assert end["status"] == "finished"
    assert list(end["scores"]) == ["development", "test", "other"]
    # The same sentences with opposite labels.
    accuracies = [end["scores"][name]["accuracy"] for name in ("test", "other")]
    assert sum(accuracies) == pytest.approx(1)
    assert end["scores"]["development"] == end["scores"]["test"]
    assert set(end["drift"]) == {"embeddings", "layer_0", "layer_1", "pooler"}
    assert 0 <= end["neighbour_overlap"] <= 1
    # What is kept of every example says what the scores say.
    assert set(end["by_example"]) == {"test", "other"}
    hits = {name: unpack(kept["correct"], 13) for name, kept in end["by_example"].items()}
    for name, found in hits.items():
        assert found.mean() == pytest.approx(end["scores"][name]["accuracy"], abs=1e-6)
    assert (hits["test"] != hits["other"]).all()


def test_a_journal_names_the_pretrained_network(laboratory, whole, tmp_path):
    starts = {journal(path)[0]["network"] for path in whole.rglob("*.jsonl")}
    assert starts == {laboratory.network}
    _, params = split_model(laboratory._stage.model(seed=0))
    encoder = params["encoder"]
    assert lab_run._digest(encoder) == laboratory.network
    # Pooler and head are drawn where a checkpoint has none.
    _, params = split_model(laboratory._stage.model(seed=1))
    assert lab_run._digest(params["encoder"] | {"pooler": {}}) == laboratory.network
    words = encoder["embeddings"]["word_embeddings"]["embedding"]
    encoder["embeddings"]["word_embeddings"]["embedding"] = words.at[0, 0].add(1e-6)
    assert lab_run._digest(encoder) != laboratory.network


def test_a_run_that_diverges_is_a_result(whole):
    *_, end = journal(whole / "runs/8/wild/0.jsonl")
    assert end["status"] == "diverged"
    assert "nan" in end["why"] or "inf" in end["why"]
    assert end["scores"] is end["drift"] is end["similarity"] is None


def test_the_grid_takes_the_best_on_the_development_set(whole):
    chosen = json.loads((whole / "study.json").read_text())["grid"]["chosen"]
    for size in ("8", "full"):
        for name in ("gentle", "steep"):
            accuracy = {}
            for rate in (1e-3, 1e-2):
                end = journal(whole / f"grid/{size}/{name}/{rate:g}-100.jsonl")[-1]
                assert list(end["scores"]) == ["development"]  # it has seen nothing else
                accuracy[rate] = end["scores"]["development"]["accuracy"]
            assert accuracy[chosen[size][name]] == max(accuracy.values())


def test_a_seed_means_the_same_examples_and_head_for_every_strategy(whole):
    first = {
        name: journal(whole / f"runs/8/{name}/0.jsonl")[1]["loss"]
        for name in ("gentle", "steep", "wild")
    }
    assert len(set(first.values())) == 1  # of the first batch, before any update
    assert first["gentle"] != journal(whole / "runs/8/gentle/1.jsonl")[1]["loss"]


def test_runs_share_their_programs(laboratory, whole):
    # Two: AdamW's at any rate, schedule and decay, and plain SGD's; and that of evaluation.
    assert len(laboratory._programs) == 2 + 1


def test_an_interrupted_study_ends_like_one_that_was_not(laboratory, whole, tmp_path, monkeypatch):
    calls, real = [], Laboratory.run

    def dies(self, *args, **kwargs):
        calls.append(args[1])
        if len(calls) == 6:
            args[1].parent.mkdir(parents=True, exist_ok=True)
            args[1].write_text('{"event": "start"}\n{"event": "tra')  # killed in a line
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(lab_run.Laboratory, "run", dies)
    with pytest.raises(KeyboardInterrupt):
        run_study(laboratory, make_study(), tmp_path, show=False)
    run_study(laboratory, make_study(), tmp_path, show=False)
    assert contents(tmp_path) == contents(whole)
    assert (tmp_path / "study.json").read_text() == (whole / "study.json").read_text()
    assert len(calls) == 6 + 20 - 5  # what was finished is not run again
    run_study(laboratory, make_study(), tmp_path, show=False)
    assert len(calls) == 21


def test_another_study_is_not_mixed_in(laboratory, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "study")
    other = make_study(seeds=(0, 1, 2), rates=(1e-3,))
    with pytest.raises(ValueError, match=r"another study: seeds, grid differ; give the same"):
        run_study(laboratory, other, tmp_path / "study", show=False)


def test_a_study_of_a_time_before_tasks_goes_on(laboratory, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "study")
    path = tmp_path / "study" / "study.json"
    about = json.loads(path.read_text())
    assert {name: about[name] for name in FIRST} == dict(FIRST)
    path.write_text(json.dumps({name: v for name, v in about.items() if name not in FIRST}))
    run_study(laboratory, make_study(), tmp_path / "study", show=False)


def test_a_frozen_group_drifts_by_nothing_and_keeps_its_meaning(laboratory, tmp_path):
    end = laboratory.run(FROZEN.config(), tmp_path / "j.jsonl", {}, examples=None, epochs=2, seed=0)
    assert end["drift"]["embeddings"] == end["drift"]["layer_0"] == 0
    assert end["drift"]["layer_1"] > 0
    assert end["similarity"]["cka"]["layer_0"] == pytest.approx(1)
    assert end["similarity"]["cka"]["layer_1"] < 1 - 1e-4


def test_a_strategy_from_a_file(laboratory, tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[mine]\nlearning_rate = 3e-3\nlayer_decay = 0.5\nschedule = "constant"\ntuned = false\n'
    )
    strategies = load_strategies(tmp_path / "mine.toml")
    study = make_study(
        strategies={"mine": strategies["mine"], "gentle": GENTLE}, sizes=(Size(8, 1),), seeds=(0,)
    )
    run_study(laboratory, study, tmp_path / "out", show=False)
    start, *_, end = journal(tmp_path / "out/runs/8/mine/0.jsonl")
    assert end["status"] == "finished"
    assert start["peak_rates"]["layer_1"] == pytest.approx(1.5e-3)
    assert not (tmp_path / "out/grid/8/mine").exists()


@pytest.mark.parametrize("content", [b'{"kind"', b"\xff\xfe", b"3"])
def test_a_damaged_description_is_named(laboratory, tmp_path, content):
    (tmp_path / "study.json").write_bytes(content)
    with pytest.raises(InputError, match=r"study\.json .*; put it back, or give another --output"):
        run_study(laboratory, make_study(), tmp_path, show=False)


def test_a_journal_that_is_no_text_is_named(tmp_path):
    (tmp_path / "0.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"0\.jsonl is no journal: .*; delete it to run it again"):
        finished(tmp_path / "0.jsonl")
    (tmp_path / "0.jsonl").write_text("[]")
    assert finished(tmp_path / "0.jsonl") is None


def test_a_sweep_runs_every_rate_with_every_decay(laboratory, tmp_path, monkeypatch):
    sweep = Sweep(
        strategy=GENTLE, rates=(1e-3, 1e-2), decays=(1.0, 0.5), size=Size(8, 1), seeds=(0,)
    )
    for _ in range(2):  # the second time there is nothing left to do
        run_sweep(laboratory, sweep, tmp_path, show=False)
    peaks = {}
    for path in tmp_path.rglob("*.jsonl"):
        *_, rate, decay, _ = path.parts
        peaks[rate, decay] = journal(path)[0]["peak_rates"]["layer_1"]
    assert peaks == {
        ("0.001", "1"): 1e-3, ("0.001", "0.5"): 5e-4, ("0.01", "1"): 1e-2, ("0.01", "0.5"): 5e-3,
    }  # fmt: skip
    assert json.loads((tmp_path / "sweep.json").read_text())["rates"] == [1e-3, 1e-2]
    (tmp_path / "runs/0.01/0.5/0.jsonl").unlink()
    monkeypatch.setattr(laboratory, "network", "b1")
    with pytest.raises(InputError, match="and this is b1"):
        run_sweep(laboratory, sweep, tmp_path, show=False)


def test_what_makes_no_study():
    with pytest.raises(ValueError, match=r"control='none' is not among .*grid rates=.* positive"):
        make_study(control="none", rates=(0.0,))
    for name in ("../out", "a/b", "", ".."):
        with pytest.raises(ValueError, match="want names of letters, digits"):
            make_study(strategies={"gentle": GENTLE, name: STEEP})
    with pytest.raises(ValueError, match="must be different"):
        make_study(sizes=(Size(8, 1), Size(8, 2)))
    with pytest.raises(ValueError, match="not those of the grid"):
        make_study(seeds=(0, 100))


def test_sizes_by_name():
    assert parse_sizes(["200", "full"], [10, 1]) == (Size(200, 10), Size(None, 1))
    assert parse_sizes(["200", "full"], [3]) == (Size(200, 3), Size(None, 3))
    with pytest.raises(ValueError, match="train sizes many, 0: want full, or a number"):
        parse_sizes(["many", "0"], [1])
    with pytest.raises(ValueError, match="2 numbers of epochs for 3 train sizes"):
        parse_sizes(["1", "2", "3"], [1, 2])


def test_a_sample_is_drawn_once_and_whole():
    drawn = sample(tiny.CLASSES, 5, seed=3)
    assert len(set(drawn.texts)) == 5
    wanted = {text: label for text, label in zip(tiny.TEXTS, tiny.LABELS, strict=True)}
    assert [wanted[text] for text in drawn.texts] == drawn.labels.tolist()
    assert sample(tiny.CLASSES, 5, seed=3).texts == drawn.texts
    assert sample(tiny.CLASSES, None, seed=3) is tiny.CLASSES
    with pytest.raises(ValueError, match=r"films.csv: 14 examples wanted, there are 13"):
        sample(tiny.CLASSES, 14, seed=0)


def test_data_are_of_one_task(tmp_path):
    unlabelled = dataclasses.replace(tiny.CLASSES, labels=None, task=None)
    with pytest.raises(
        ValueError,
        match=r"on, text-classification; these are not: test \(text-regression\), other \(no lab",
    ):
        Data(tiny.CLASSES, tiny.CLASSES, tiny.NUMBERS, {"other": unlabelled}, tiny.CLASSES)
    (tmp_path / "a.csv").write_text("text,label\nfine,good\ndull,bad\n")
    (tmp_path / "plain.csv").write_text("text\nsome words\n")
    files = [str(tmp_path / "a.csv")] * 3
    columns = dict(text_column="text", text_pair_column=None, label_column="label")
    data = load_data(*files, {"b": files[0]}, str(tmp_path / "plain.csv"), **columns)
    assert data.neutral.texts == ("some words",)
    assert list(data.describe()) == ["train", "development", "test", "b", "neutral"]
    assert load_data(*files, {}, None, **columns).neutral.texts == ("fine", "dull")
    rows = "".join(f"text {i},good\n" for i in range(1001))
    (tmp_path / "a.csv").write_text(f"text,label\nfine,bad\n{rows}")
    texts = load_data(*files, {}, None, **columns).neutral.texts
    assert len(texts) == len(set(texts)) == 500
    assert (texts[0], texts[-1]) == ("fine", "text 1000")


def test_the_grid_goes_beyond_its_edge(laboratory, tmp_path):
    """The best of two rates is on the edge, whichever it is."""
    study = make_study(strategies={"gentle": GENTLE}, sizes=(Size(8, 1),), seeds=(0,), extensions=1)
    run_study(laboratory, study, tmp_path, show=False)
    about = json.loads((tmp_path / "study.json").read_text())
    assert about["grid"]["extensions"] == 1
    tried = {float(path.stem.rpartition("-")[0]) for path in (tmp_path / "grid").rglob("*.jsonl")}
    assert tried in ({1e-3, 1e-2, 1e-1}, {1e-3, 1e-2, 1e-4})
    assert about["grid"]["chosen"]["8"]["gentle"] in tried


def test_only_the_runs_that_are_wanted(laboratory, tmp_path):
    def wanted(size, strategy, seed):
        return (size, strategy) == ("8", "steep") and seed in (None, 1)

    run_study(laboratory, make_study(), tmp_path, show=False, wanted=wanted)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jsonl")}
    grid = {f"grid/8/steep/{rate}-100.jsonl" for rate in ("0.001", "0.01")}
    assert names == {"runs/8/steep/1.jsonl"} | grid
    # Another time the rest; the rate that was chosen stays.
    chosen = json.loads((tmp_path / "study.json").read_text())["grid"]["chosen"]
    run_study(laboratory, make_study(), tmp_path, show=False)
    after = json.loads((tmp_path / "study.json").read_text())["grid"]["chosen"]
    assert after["8"]["steep"] == chosen["8"]["steep"]
    assert len(list(tmp_path.rglob("*.jsonl"))) == 8 + 12


def test_half_a_journal_is_no_result(tmp_path):
    path = tmp_path / "j.jsonl"
    assert finished(path) is None
    for text in ("", '{"event": "train"}\n', '{"event": "end", "sta'):
        path.write_text(text)
        assert finished(path) is None
    path.write_text('{"event": "train"}\n{"event": "end", "status": "finished"}\n')
    assert finished(path) == {"event": "end", "status": "finished"}
