"""`jaxbert lab run`, `sweep`, `report` and `jaxbert lr-find` as a user meets them."""

import gzip
import json

import jax
import pytest
import tiny
from flax import nnx

from jaxbert.cli import main
from jaxbert.models import BertConfig, BertModel


@pytest.fixture(scope="module", autouse=True)
def _compile_cheaply():
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab")
    BertModel(BertConfig(**tiny.SHAPE), rngs=nnx.Rngs(0)).save_pretrained(root / "model")
    (root / "model" / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    names = ("bad", "good")
    rows = [f"{t},{names[i]}" for t, i in zip(tiny.TEXTS, tiny.LABELS, strict=True)]
    (root / "films.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return root


@pytest.fixture(autouse=True)
def _cache(place, monkeypatch):
    monkeypatch.setenv("JAXBERT_CACHE", str(place / "cache"))


def lab(place, command, *more):
    films = str(place / "films.csv")
    words = ["lab", command, "--model", str(place / "model"), "--train", films, "--eval", films]
    words += ["--test", films, "--out-of-domain", f"mail={films}", "--batch-size", "4"]
    return main([*words, "--max-length", "16", "--epochs", "1", *more])


def test_run_and_report(place, capsys):
    study = str(place / "study")
    run = ["--strategies", "uniform,discriminative", "--seeds", "2", "--grid", "1e-3,1e-2"]
    assert lab(place, "run", "--output", study, "--train-sizes", "8,full", *run) == 0
    printed = capsys.readouterr().out
    assert printed.count("discriminative") >= 2
    assert "macro-F1" in printed
    assert f"jaxbert lab report {study}" in printed
    journals = list((place / "study").rglob("*.jsonl"))
    assert len(journals) == 2 * 2 * 2 + 2 * 2 * 2
    ages = {path: path.stat().st_mtime_ns for path in journals}
    assert lab(place, "run", "--output", study, "--train-sizes", "8,full", *run) == 0
    assert {path: path.stat().st_mtime_ns for path in journals} == ages

    assert lab(place, "run", "--output", study, "--train-sizes", "8", *run) == 2
    assert "is of another study: sizes differ" in capsys.readouterr().err

    assert main(["lab", "report", study]) == 0
    page = place / "study" / "report" / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    assert "<h2>The five claims</h2>" in page.read_text()


PLAN = """
control = "uniform"
strategies = ["uniform", "high"]
sizes = { 8 = 1 }
seeds = { first = 2, most = 2 }
training = { batch_size = 4, max_length = 16 }
[models.tiny]
model = "{place}/model"
[tasks.films]
train = "{place}/films.csv"
eval = "{place}/films.csv"
test = "{place}/films.csv"
out_of_domain = ["mail={place}/films.csv"]
"""


def test_a_plan(place, capsys):
    (place / "mine.toml").write_text(PLAN)
    out = place / "planned"
    run = ["lab", "run", "--plan", str(place / "mine.toml"), "--output", str(out)]
    assert main([*run, "--directory", f"place={place}", "--only", "films/tiny/8/high/1"]) == 0
    printed = capsys.readouterr().out
    assert "claim" in printed
    assert [path.stem for path in out.rglob("runs/8/*/*.jsonl")] == ["1"]
    with gzip.open(out / "films--tiny" / "journals.jsonl.gz", "rt") as file:
        (line,) = file
    row = json.loads(line)
    assert row["place"] == "runs/8/high/1"
    assert set(row["events"][-1]["by_example"]) == {"test", "mail"}

    refused = {
        (): "--directory place=DIR",
        ("--directory", "x"): "--directory x: want NAME=DIR",
        ("--only", "a/b/c/d/e/f"): "want TASK/MODEL/SIZE/STRATEGY/SEED",
        ("--only", "books"): "task 'books' is not among films",
        ("--model", "m", "--seeds", "9"): "leave out --seeds --model",
    }
    for words, message in refused.items():
        assert main([*run, *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["lab", "run", "--output", "x", "--only", "films"]) == 2
    assert "--only: of a plan, which --plan FILE gives" in capsys.readouterr().err


def test_another_task_and_masked_lm_before_it(place, capsys):
    scores = place / "scores.csv"
    rows = [f"{t},{i + 0.5}" for t, i in zip(tiny.TEXTS, tiny.LABELS, strict=True)]
    scores.write_text("\n".join(["text,label", *rows]) + "\n")
    words = ["lab", "run", "--model", str(place / "model"), "--output", str(place / "numbers")]
    for role in ("--train", "--eval", "--test"):
        words += [role, str(scores)]
    words += ["--task", "text-regression", "--stride", "2", "--metric", "spearman"]
    words += ["--strategies", "uniform,task-adaptive", "--adaptation-epochs", "1", "--seeds", "1"]
    assert main([*words, "--batch-size", "8", "--max-length", "16", "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "task-adaptive" in printed
    assert "macro-F1" not in printed
    about = json.loads((place / "numbers" / "study.json").read_text())
    assert (about["task"], about["metric"]) == ("text-regression", "spearman")
    assert about["task_options"] == {"stride": 2}
    assert about["strategies"]["task-adaptive"]["adaptation"]["epochs"] == 1


def test_sweep(place, capsys):
    sweep = str(place / "sweep")
    grid = ["--rates", "1e-3,1e-2", "--decays", "1,0.5", "--train-size", "8"]
    assert lab(place, "sweep", "--output", sweep, *grid) == 0
    assert "rate \\ decay" in capsys.readouterr().out
    assert len(list((place / "sweep").rglob("*.jsonl"))) == 4
    assert json.loads((place / "sweep" / "sweep.json").read_text())["decays"] == [1, 0.5]


def test_lr_find(place, capsys):
    words = ["lr-find", "--model", str(place / "model"), "--train", str(place / "films.csv")]
    words += ["--batch-size", "4", "--max-length", "16"]
    assert main([*words, "--steps", "20", "--repeats", "2"]) == 0
    printed = capsys.readouterr().out
    assert "strategy discriminative, 13 examples, 20 steps a rise" in printed
    assert printed.count("rise ") >= 2
    assert "suggest" in printed


def test_what_is_refused(place, capsys):
    out = str(place / "no")
    refused = {
        ("lab", "run", "--output", out, "--model", "m"): "missing: --train, --eval, --test",
        ("lab", "run", "--output", out, "--control", "x"): "control='x' is not among",
        ("lab", "run", "--output", out, "--strategies", "mine"): "strategy='mine' must be one of",
        ("lab", "run", "--output", out, "--train-sizes", "few"): "train sizes few: want full",
        ("lab", "run", "--output", out, "--task", "masked-lm"): "no data for task masked-lm",
        ("lab", "run", "--output", out, "--adaptation-epochs", "0"): "adaptation: epochs=0 must",
        ("lab", "report", str(place)): "holds neither a study nor a sweep",
        ("lr-find", "--model", "m"): "missing: --train",
    }
    for words, message in refused.items():
        assert main(list(words)) == 2
        assert message in capsys.readouterr().err
    assert lab(place, "run", "--output", out, "--out-of-domain", "mail") == 2
    assert "--out-of-domain mail: want NAME=FILE" in capsys.readouterr().err
    assert lab(place, "run", "--output", out, "--train-sizes", "14") == 2
    assert "train size 14: the training set has 13 examples" in capsys.readouterr().err
    assert not (place / "no").exists()
