"""The command line as a user meets it: what it writes, what it prints, how it refuses."""

import io
import json

import numpy as np
import pytest
from flax import nnx

from jaxbert.cli import main
from jaxbert.models import BertConfig, BertForSequenceClassification, BertModel
from jaxbert.training import Trainer

WORDS = "good bad fine awful film plot a the was very".split()  # noqa: SIM905
POSITIVE, NEGATIVE = ("good", "fine"), ("bad", "awful")


def sentences(count, seed):
    """(text, label) pairs in which one word decides."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        word = rng.choice(POSITIVE if i % 2 else NEGATIVE)
        rows.append((f"the {rng.choice(['film', 'plot'])} was very {word}", "np"[i % 2]))
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a tiny model and data files, and the cache beside them."""
    root = tmp_path_factory.mktemp("cli")
    model = root / "model"
    config = BertConfig(
        vocab_size=5 + len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config, rngs=nnx.Rngs(0)).save_pretrained(model)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (model / "vocab.txt").write_text("\n".join(specials + WORDS) + "\n")
    for name, count, seed in (("train", 48, 0), ("dev", 16, 1), ("test", 16, 2)):
        lines = ["text,label", *(",".join(row) for row in sentences(count, seed))]
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(autouse=True)
def _cache(place, monkeypatch):
    monkeypatch.setenv("JAXBERT_CACHE", str(place / "cache"))


def finetune(place, output, *more):
    return main(
        ["finetune", "--model", str(place / "model"), "--train", str(place / "train.csv"),
         "--eval", str(place / "dev.csv"), "--test", str(place / "test.csv"),
         "--output", str(output), "--epochs", "8", "--batch-size", "8", "--max-length", "16",
         "--learning-rate", "1e-2", *more]
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(place):
    """A finished run; its output is the directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXBERT_CACHE", str(place / "cache"))
        assert finetune(place, place / "run") == 0
    return place / "run"


def test_a_run_learns_and_leaves_everything(run, capsys):
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["scores"]["test"] == record["scores"]["test"] | {"examples": 16, "accuracy": 1.0}
    assert record["strategy"] == "discriminative"
    assert record["config"]["optimizer"]["learning_rate"] == 1e-2
    for name in ("config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl"):
        assert (run / name).is_file(), name
    assert list((run / "tensorboard").iterdir())
    model = BertForSequenceClassification.from_pretrained(run)
    assert model.config.id2label == ("n", "p")


def test_two_files_of_one_name_are_two_rows(place, tmp_path, capsys):
    other = tmp_path / "other" / "test.csv"
    other.parent.mkdir()
    other.write_text("text,label\nthe film was very bad,n\n")
    files = [str(place / "test.csv"), str(other)]
    assert finetune(place, tmp_path / "run", "--epochs", "1", "--test", files[1]) == 0
    scores = json.loads((tmp_path / "run" / "run.json").read_text())["scores"]
    assert {name: row["examples"] for name, row in scores.items()} == {
        "dev": 16, files[0]: 16, files[1]: 1,
    }  # fmt: skip


def test_the_saved_configuration_runs_again(place, run, tmp_path):
    settings = str(run / "finetune.json")
    assert main(["finetune", "--config", settings, "--output", str(tmp_path / "again")]) == 0
    first, second = (json.loads((d / "run.json").read_text()) for d in (run, tmp_path / "again"))
    assert first["scores"] == second["scores"]
    assert first["config"] == second["config"]
    ours, theirs = ((d / "model.safetensors").read_bytes() for d in (run, tmp_path / "again"))
    assert ours == theirs


def test_flags_win_over_the_file_and_a_toml_file_is_read(place, tmp_path, capsys):
    (tmp_path / "plan.toml").write_text(
        f'model = "{place / "model"}"\ntrain = "{place / "train.csv"}"\nstrategy = "uniform"\n'
        "[training]\nepochs = 1\nbatch_size = 8\nmax_length = 16\n"
        "[training.optimizer]\nlearning_rate = 1e-3\nlayer_decay = 0.5\n"
    )
    output = tmp_path / "out"
    arguments = ["--config", str(tmp_path / "plan.toml"), "--output", str(output)]
    assert main(["finetune", *arguments, "--layer-decay", "0.7"]) == 0
    optimizer = json.loads((output / "finetune.json").read_text())["training"]["optimizer"]
    assert (optimizer["learning_rate"], optimizer["layer_decay"]) == (1e-3, 0.7)
    assert optimizer["schedule"] == "linear"  # of the strategy


def test_evaluate_prints_the_scores_of_the_run(place, run, capsys):
    arguments = ["--model", str(run), "--max-length", "16"]
    assert main(["evaluate", str(place / "test.csv"), *arguments]) == 0
    header, row = capsys.readouterr().out.splitlines()
    scores = json.loads((run / "run.json").read_text())["scores"]["test"]
    assert header.split() == ["data", *scores]
    assert row.split()[1:3] == ["16", f"{scores['loss']:.4f}"]


def test_predict_from_a_file_and_from_standard_input(place, run, tmp_path, capsys, monkeypatch):
    arguments = ["--model", str(run), "--max-length", "16"]
    text = "the film was very good\nthe plot was very awful\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(["predict", *arguments]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in printed] == ["p", "n"]
    assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-6 for row in printed)

    (tmp_path / "texts.jsonl").write_text('{"text": "the film was very good"}\n' * 3)
    output = tmp_path / "out.jsonl"
    command = ["predict", str(tmp_path / "texts.jsonl"), *arguments, "--output", str(output)]
    assert main(command) == 0
    assert [json.loads(line)["label"] for line in output.read_text().splitlines()] == ["p"] * 3
    assert main(command) == 2
    assert "is there already; add --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_embed_writes_mean_vectors(place, tmp_path, capsys):
    output = tmp_path / "vectors.npy"
    command = ["embed", str(place / "test.csv"), "--model", str(place / "model"), "--output"]
    assert main([*command, str(output), "--max-length", "16", "--normalise"]) == 0
    vectors = np.load(output)
    assert vectors.shape == (16, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert main([*command, str(tmp_path / "vectors.txt")]) == 2


def test_lr_prints_every_group(place, capsys):
    command = ["lr", "--model", str(place / "model"), "--strategy", "electra"]
    assert main([*command, "--learning-rate", "1e-3", "--freeze", "embeddings"]) == 0
    out = capsys.readouterr().out
    assert "strategy electra, adamw, linear, 3000 steps" in out
    groups = [line.split()[0] for line in out.splitlines()[2:-1]]
    assert groups == ["embeddings", "layer_0", "layer_1", "pooler", "head"]
    # ELECTRA as released: the head 1, layer i of n d^(n + 1 - i); and what is frozen never moves.
    rows = {line.split()[0]: line.split() for line in out.splitlines()[2:-1]}
    assert [rows[name][2] for name in groups] == ["0", "0.512", "0.64", "1", "1"]
    assert [rows[name][4] for name in groups] == ["0", "0.000512", "0.00064", "0.001", "0.001"]
    assert rows["embeddings"][-1] == "never"


def test_regression_from_a_label_column_with_floats(place, tmp_path, capsys):
    rows = [f"{text},{1.5 if label == 'p' else -0.5}" for text, label in sentences(24, 3)]
    (tmp_path / "scores.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    files = ["--train", str(tmp_path / "scores.csv"), "--test", str(tmp_path / "scores.csv")]
    assert main(
        ["finetune", "--model", str(place / "model"), *files, "--output", str(tmp_path / "out"),
         "--max-length", "16", "--batch-size", "8", "--epochs", "1"]
    ) == 0  # fmt: skip
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "regression"
    main(["predict", str(tmp_path / "scores.csv"), "--model", str(tmp_path / "out"),
          "--max-length", "16"])  # fmt: skip
    assert "score" in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_strategy_of_your_own(place, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text("[gentle]\nlearning_rate = 1e-5\nlayer_decay = 0.5\n")
    command = ["lr", "--model", str(place / "model"), "--strategy", "gentle"]
    assert main([*command, "--strategy-file", str(path)]) == 0
    assert "strategy gentle" in capsys.readouterr().out


REFUSALS = {
    "missing column": (["--text-column", "txt"], "no column 'txt'"),
    "unknown strategy": (["--strategy", "best"], "strategy='best' must be one of"),
    "bad values": (["--epochs", "0", "--layer-decay", "2"], "layer_decay=2.0"),
    "unknown setting": (["--set", "training.foo=1"], "unknown foo"),
    "no assignment": (["--set", "foo"], "want PLACE=VALUE"),
    "too long": (["--max-length", "17"], "more than the model's 16 positions"),
    "no such file": (["--eval", "nowhere.csv"], "no such file"),
    "no such config": (["--config", "nowhere.toml"], "nowhere.toml"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_gets_one_line_and_status_2(case, place, tmp_path, capsys):
    arguments, message = REFUSALS[case]
    assert finetune(place, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("jaxbert: ")
    assert message in error
    assert not (tmp_path / "out" / "run.json").exists()


def test_files_that_are_no_input(place, tmp_path, capsys):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"text,label\n\xff\xfe,p\n")
    (tmp_path / "unknown.csv").write_text("text,label\nthe film,maybe\n")
    cases = {
        "empty.csv": "is empty",
        "binary.csv": "is not UTF-8",
        "unknown.csv": "labels the model does not know: 'maybe'",
    }
    for name, message in cases.items():
        assert finetune(place, tmp_path / "out", "--test", str(tmp_path / name)) == 2
        assert message in capsys.readouterr().err
    assert main(["predict", "--model", str(tmp_path)]) == 2
    assert "is no model" in capsys.readouterr().err


def test_a_model_that_was_never_fine_tuned_predicts_nothing(place, capsys):
    assert main(["predict", str(place / "test.csv"), "--model", str(place / "model")]) == 2
    assert "is not fine-tuned: it lacks classifier/bias" in capsys.readouterr().err


def test_a_run_is_neither_overwritten_nor_mixed_up(place, run, tmp_path, capsys):
    before = (run / "run.json").read_bytes()
    assert finetune(place, run) == 2
    assert "holds another run" in capsys.readouterr().err
    assert (run / "run.json").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    assert finetune(place, tmp_path) == 2
    assert main(["finetune", "--resume", "--output", str(tmp_path)]) == 2
    assert "no run to resume" in capsys.readouterr().err


def test_divergence_has_a_status_of_its_own(place, tmp_path, capsys):
    command = ["--strategy", "high", "--set", "training.optimizer.clip_norm=null"]
    assert finetune(place, tmp_path / "out", *command, "--learning-rate", "1e30") == 3
    assert "learning rate is too high" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on(place, tmp_path, capsys, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", stop)
        assert finetune(place, tmp_path / "out") == 130
    assert f"--resume --output {tmp_path / 'out'}" in capsys.readouterr().err
