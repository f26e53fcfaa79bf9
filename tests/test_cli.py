"""The command line as a user meets it: what it writes, what it prints, how it refuses."""

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

import jaxbert
from jaxbert import errors
from jaxbert.cli import main, make_parser
from jaxbert.cli.flags import GROUPS, flags_of
from jaxbert.cli.options import FinetuneOptions, resolve
from jaxbert.data import load_tokenizer
from jaxbert.errors import InputError
from jaxbert.models import BertConfig, BertForSequenceClassification, BertModel, Compute
from jaxbert.training import TrainConfig, Trainer

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


# What is imported before a command runs.


def loaded(code):
    """The packages that some lines of Python leave imported."""
    code += "\nimport sys\nprint('loaded', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded ")[2].split())


HEAVY = {"jax", "flax", "optax", "numpy", "transformers", "datasets", "huggingface_hub"}
COMMANDS = ["finetune", "evaluate", "predict", "embed", "lr", "lr-find", "plan", "demo",
            "lab run", "lab sweep", "lab report"]  # fmt: skip


def test_importing_the_package_imports_nothing_heavy():
    assert not HEAVY & loaded("import jaxbert")


def test_parsing_the_command_line_imports_nothing_heavy():
    code = (
        "from jaxbert.cli import make_parser\n"
        "make_parser().parse_args(['finetune', '--model', 'm', '--epochs', '3', '--beta1', '.5'])"
    )
    assert not HEAVY & loaded(code)


def test_a_run_s_tokenizer_comes_without_pytorch(run):
    code = f"from jaxbert import load_tokenizer\nload_tokenizer({str(run)!r})"
    assert "transformers" in (found := loaded(code))
    assert "torch" not in found


# What the flags are.


def help_of(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_headings_and_names_no_places(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = help_of(command, capsys)
    headings = [line.rstrip(":") for line in text.splitlines() if line.endswith(":")]
    order = [heading for heading in headings if heading in GROUPS]
    assert order == sorted(order, key=GROUPS.index)
    assert order
    assert "TRAINING" not in text
    assert "COMPUTE" not in text
    assert "==SUPPRESS==" not in text
    assert "normalise" not in text


def test_help_shows_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    lines = {
        line.split()[0]: line for line in help_of("finetune", capsys).splitlines() if "--" in line
    }
    assert "(default: 32)" in lines["--batch-size"]
    assert "(default: the strategy's, else 0.9)" in lines["--beta1"]
    assert "{jit,pmap,mesh}" in lines["--parallel"]
    assert "(default: no)" in help_of("finetune", capsys)
    assert "(default: bfloat16)" in help_of("plan", capsys)


def test_every_flag_has_a_name_of_its_own_and_help():
    flags = list(flags_of(FinetuneOptions))
    assert len({flag.name for flag in flags}) == len(flags)
    assert all(flag.field.metadata["help"] for flag in flags)
    places = {flag.place for flag in flags}
    assert {f"training.{field.name}" for field in dataclasses.fields(TrainConfig)} - places == {
        "training.optimizer"
    }


def options(*words):
    needed = ["--model", "m", "--train", "t.csv", "--output", "o"]
    args = make_parser().parse_args(["finetune", *needed, *words])
    return resolve(FinetuneOptions, vars(args), args.config)


def test_flags_reach_their_places():
    found = options(
        "--epochs", "5", "--beta1", "0.5", "--clip-norm", "none", "--freeze", "embeddings",
        "--freeze", "layer_0", "--no-bias-correction", "--gradient-checkpointing", "--test", "a",
        "--test", "b", "--reinitialize-layers", "2", "--text-pair-column", "second",
        "--train-split", "train", "--param-dtype", "bfloat16", "--task", "text-regression",
        "--unfreezing", "1", "--eval-every", "10", "--set", "training.optimizer.beta2=0.98",
    )  # fmt: skip
    optimizer = found.training.optimizer
    assert (found.training.epochs, found.training.eval_every) == (5, 10)
    assert (optimizer.beta1, optimizer.beta2, optimizer.clip_norm) == (0.5, 0.98, None)
    assert optimizer.frozen == ("embeddings", "layer_0")
    assert not optimizer.bias_correction
    assert (optimizer.reinitialize_layers, optimizer.unfreezing) == (2, 1)
    assert optimizer.layer_decay == 0.9  # of the strategy
    assert found.compute == Compute(param_dtype="bfloat16", gradient_checkpointing=True)
    assert found.columns.text_pair_column == "second"
    assert found.splits.train_split == "train"
    assert found.test == ("a", "b")
    assert found.task == "text-regression"


def test_options_survive_their_file(tmp_path):
    found = options("--epochs", "5", "--test", "a", "--dtype", "bfloat16", "--strategy", "lp-ft")
    (tmp_path / "finetune.json").write_text(found.to_json())
    assert resolve(FinetuneOptions, {}, tmp_path / "finetune.json") == found
    again = resolve(
        FinetuneOptions, {"compute.gradient_checkpointing": True}, tmp_path / "finetune.json"
    )
    assert again.compute == Compute(dtype="bfloat16", gradient_checkpointing=True)


def test_a_file_of_an_earlier_version_is_read(tmp_path):
    path = tmp_path / "finetune.json"
    old = {
        "model": "m", "train": "t.csv", "output": "o", "eval": None, "test": ["a"],
        "revision": None, "text_column": "sentence", "text_pair_column": None,
        "label_column": "label", "strategy": "zhang2020", "strategy_file": None,
        "dtype": "bfloat16", "param_dtype": "float32", "gradient_checkpointing": False,
        "training": {"epochs": 2, "optimizer": {"reinitialise_layers": 3}},
    }  # fmt: skip
    path.write_text(json.dumps(old))
    found = options("--config", str(path), "--label-column", "mark")
    assert (found.columns.text_column, found.columns.label_column) == ("sentence", "mark")
    assert found.compute.dtype == "bfloat16"
    assert found.training.optimizer.reinitialize_layers == 3
    found = options("--config", str(path), "--reinitialize-layers", "1", "--set", "dtype=float16")
    assert found.training.optimizer.reinitialize_layers == 1
    assert found.compute.dtype == "float16"


TABLES = {
    "training = 5": "training=5",
    "[training]\noptimizer = 5": "training.optimizer=5",
    "columns = 'text'": "columns='text'",
    "compute = 1": "compute=1",
}


@pytest.mark.parametrize("text", TABLES)
@pytest.mark.parametrize(
    "words", [[], ["--epochs", "3", "--beta1", "0.5", "--text-column", "x", "--dtype", "float32"]]
)
def test_a_value_where_settings_are_wanted_is_refused_by_name(text, words, tmp_path):
    (tmp_path / "plan.toml").write_text(text + "\n")
    with pytest.raises(InputError, match=f"{TABLES[text]}: .* holds settings by name"):
        options("--config", str(tmp_path / "plan.toml"), *words)


def test_such_a_value_from_the_command_line_is_refused_too():
    for words in (["--set", "training=5"], ["--epochs", "3", "--set", "training=5"]):
        with pytest.raises(InputError, match="training=5: training is no single value"):
            options(*words)


WRONG = {
    "test = 3": "test=3 must be a text",
    "revision = 1": "revision=1 must be a text",
    "strategy = ['a']": "strategy=.* must be a text",
    "task = 'text'": "task='text' must be one of text-classification, text-regression",
    "compute = {dtype = 'int8'}": "dtype='int8' must be one of float32, bfloat16, float16",
    "compute = {gradient_checkpointing = 1}": "gradient_checkpointing=1 must be true or false",
    "colour = 1": "settings: unknown colour; known are model, ",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_value_in_a_file_is_named(text, tmp_path):
    (tmp_path / "plan.toml").write_text(text + "\n")
    with pytest.raises(InputError, match=WRONG[text]):
        options("--config", str(tmp_path / "plan.toml"))


def test_rows_in_a_file_and_on_the_command_line(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text('{"training": {"optimizer": {"multipliers": [["pooler", 2.0]]}}}')
    config = ["--config", str(path)]
    assert options(*config).training.optimizer.multipliers == (("pooler", 2.0),)
    place = "training.optimizer.multipliers"
    found = options(*config, "--set", f"{place}.head=3", "--set", f"{place}.pooler=1.5")
    assert found.training.optimizer.multipliers == (("head", 3), ("pooler", 1.5))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "plan.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is no TOML file"):
        options("--config", str(tmp_path / "plan.toml"))


# How commands end.


STATUSES = {
    errors.InputError: 2,
    errors.DoesNotFit: 2,
    FileNotFoundError: 2,
    ModuleNotFoundError: 2,
    errors.DivergedError: 3,
    errors.LostProcessError: 4,
    errors.Interrupted: 130,
    KeyboardInterrupt: 130,
    errors.Preempted: 143,
}


@pytest.mark.parametrize("error", STATUSES)
def test_a_failure_that_is_expected_is_one_line(error, place, monkeypatch, capsys):
    monkeypatch.setattr("jaxbert.optim.group_table", failing(error("what is wrong")))
    assert main(["lr", "--model", str(place / "model")]) == STATUSES[error]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxbert: ")
    assert "Interrupt" in error.__name__ or error is errors.Preempted or "what is wrong" in line


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize("error", [ValueError, TypeError, RuntimeError, KeyError])
def test_a_failure_that_nobody_expects_keeps_its_traceback(error, place, monkeypatch):
    monkeypatch.setattr("jaxbert.optim.group_table", failing(error("shapes (2,) and (3,)")))
    with pytest.raises(error, match="shapes"):
        main(["lr", "--model", str(place / "model")])


def test_the_traceback_of_an_expected_failure_can_be_seen(place, monkeypatch, capsys):
    monkeypatch.setattr("jaxbert.optim.group_table", failing(errors.DivergedError("is wrong")))
    assert main(["--traceback", "lr", "--model", str(place / "model")]) == 3
    *lines, last = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert last == "jaxbert: is wrong"


def test_only_a_process_of_its_own_is_started_again(place, monkeypatch, capsys):
    again = []
    module = sys.modules["jaxbert.cli.main"]
    monkeypatch.setattr(module, "restart_with_allocator", lambda *args: again.append(args))
    words = ["lr", "--model", str(place / "model")]
    assert main(words) == 0
    assert not again
    monkeypatch.setattr("sys.argv", ["jaxbert", *words])
    assert main() == 0
    assert again == [("jaxbert", words)]


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


def printed_by_predict(text, run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(["predict", "--model", str(run), "--max-length", "16"]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("good\u2028film\x0cplot\x85the\x1cvery", 1),
        ("good\nbad", 2),
        ("good\r\nbad\r\n", 2),
        ("good\n\nbad\n", 3),
        ("good\rbad\n", 1),
    ],
)
def test_a_line_is_what_ends_with_a_newline(text, count, run, capsys, monkeypatch):
    assert len(printed_by_predict(text, run, capsys, monkeypatch)) == count


def test_a_carriage_return_is_no_part_of_a_text(run, capsys, monkeypatch):
    with_return = printed_by_predict("very good\r\n", run, capsys, monkeypatch)
    assert with_return == printed_by_predict("very good\n", run, capsys, monkeypatch)


@pytest.fixture(scope="module")
def broken(run, tmp_path_factory):
    """A fine-tuned model that computes no numbers."""
    directory = tmp_path_factory.mktemp("broken") / "model"
    shutil.copytree(run, directory, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    model = BertForSequenceClassification.from_pretrained(run)
    graphdef, params = nnx.split(model)
    params = jax.tree.map(lambda leaf: leaf * np.float32(1e36), params)  # finite, as it is read
    nnx.merge(graphdef, params).save_pretrained(directory)
    return directory


def test_no_number_is_no_success(broken, place, tmp_path, capsys):
    words = [str(place / "test.csv"), "--model", str(broken), "--max-length", "16"]
    assert main(["predict", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "test.csv: what the model computes for text 1 (counted from 1) is no finite" in err
    assert main(["predict", *words, "--output", str(tmp_path / "labels.jsonl")]) == 2
    assert main(["embed", *words, "--output", str(tmp_path / "vectors.npy")]) == 2
    assert not list(tmp_path.iterdir())
    assert main(["evaluate", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "test.csv: loss nan" in err


@pytest.mark.parametrize("spelling", ["--normalize", "--normalise"])
def test_embed_writes_mean_vectors(spelling, place, tmp_path, capsys):
    output = tmp_path / "vectors.npy"
    command = ["embed", str(place / "test.csv"), "--model", str(place / "model"), "--output"]
    assert main([*command, str(output), "--max-length", "16", spelling]) == 0
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


def test_lr_says_what_is_more_than_a_rate(place, capsys):
    command = ["lr", "--model", str(place / "model"), "--strategy", "lora"]
    assert main([*command, "--lora-rank", "4", "--set", "training.optimizer.ema_decay=0.9"]) == 0
    out = capsys.readouterr().out
    header = "strategy lora, adamw, linear, 3000 steps, ema_decay 0.9, lora_rank 4"
    assert out.splitlines()[0] == header
    assert main([*command, "--mixout", "0.5"]) == 2
    assert "lora_rank and mixout do not go together" in capsys.readouterr().err


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


def test_a_task_decides_where_labels_could_be_either(place, run, tmp_path, capsys):
    rows = [f"{text},{int(label == 'p')}" for text, label in sentences(24, 3)]
    data = tmp_path / "scores.csv"
    data.write_text("\n".join(["text,label", *rows]) + "\n")
    words = ["finetune", "--model", str(place / "model"), "--train", str(data), "--max-length",
             "16", "--batch-size", "8", "--epochs", "1", "--output"]  # fmt: skip
    assert main([*words, str(tmp_path / "values"), "--task", "text-regression"]) == 0
    config = json.loads((tmp_path / "values" / "config.json").read_text())
    assert config["problem_type"] == "regression"
    score = ["evaluate", str(data), "--max-length", "16", "--model"]
    assert main([*score, str(tmp_path / "values"), "--task", "text-regression"]) == 0
    assert main([*score, str(run), "--task", "text-regression"]) == 2
    assert "--task text-regression" in capsys.readouterr().err


@pytest.fixture
def hub(monkeypatch):
    """A data set on the hub with a split for each part."""
    import datasets

    parts = {"train": (48, 0), "validation": (16, 1), "test": (14, 2)}

    def load(name, config=None, split=None, **options):
        if name != "owner/films":
            raise FileNotFoundError(name)
        columns = {
            part: dict(
                zip(("text", "label"), zip(*sentences(*parts[part]), strict=True), strict=True)
            )
            for part in parts
        }
        found = {part: datasets.Dataset.from_dict(c) for part, c in columns.items()}
        return datasets.DatasetDict(found) if split is None else found[split]

    monkeypatch.setattr(datasets, "load_dataset", load)
    return "owner/films"


def test_splits_of_a_hub_data_set(hub, place, tmp_path, capsys):
    words = ["finetune", "--model", str(place / "model"), "--max-length", "16", "--epochs", "1",
             "--batch-size", "8", "--train", hub, "--eval", hub, "--test", hub]  # fmt: skip
    assert main([*words, "--output", str(tmp_path / "no")]) == 2
    assert "has the splits train, validation, test" in capsys.readouterr().err
    output = tmp_path / "run"
    splits = ["--train-split", "train", "--eval-split", "validation", "--test-split", "test"]
    assert main([*words, *splits, "--output", str(output)]) == 0
    record = json.loads((output / "run.json").read_text())
    assert {name: row["examples"] for name, row in record["scores"].items()} == {
        "owner/films[validation]": 16, "owner/films[test]": 14,
    }  # fmt: skip
    model = ["--model", str(output), "--max-length", "16", "--split", "test"]
    assert main(["evaluate", hub, *model]) == 0
    capsys.readouterr()
    assert main(["predict", hub, *model]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 14


def test_lr_find_takes_the_settings_it_offers(place, monkeypatch, capsys):
    seen = []

    def losses(self, rates):
        seen.append((self.config.seed, self.config.optimizer.frozen, self.model))
        return np.geomspace(1, 0.5, len(rates)).tolist()

    monkeypatch.setattr(Trainer, "rate_losses", losses)
    words = ["lr-find", "--model", str(place / "model"), "--train", str(place / "train.csv"),
             "--max-length", "16", "--repeats", "2", "--steps", "20"]  # fmt: skip
    assert main([*words, "--seed", "5", "--param-dtype", "bfloat16", "--gradient-checkpointing",
                 "--dtype", "bfloat16", "--freeze", "embeddings"]) == 0  # fmt: skip
    assert [seed for seed, _, _ in seen] == [5, 6]
    for _, frozen, model in seen:
        assert frozen == ("embeddings",)
        assert model.compute.dtype == model.compute.param_dtype == "bfloat16"
        assert model.compute.gradient_checkpointing
    heads = [jax.tree.leaves(nnx.state(model.head)) for _, _, model in seen]
    assert any((a != b).any() for a, b in zip(*heads, strict=True))


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
    assert "is not fine-tuned: it lacks head/classifier/bias" in capsys.readouterr().err


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


def test_the_tasks_that_flags_offer_are_those_there_are():
    from jaxbert import tasks
    from jaxbert.cli import options

    assert tuple(tasks.TASKS) == options.TASKS


def test_tokens_that_were_added_need_rows_and_get_them(place, tmp_path, capsys):
    model, train = tmp_path / "model", tmp_path / "train.csv"
    shutil.copytree(place / "model", model)
    tokenizer = load_tokenizer(model)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(model)
    train.write_text("text,label\nthe zebra was good,p\n" + "the film was bad,n\n" * 5)
    words = ["finetune", "--model", str(model), "--train", str(train), "--max-length", "16",
             "--batch-size", "2", "--epochs", "1", "--output"]  # fmt: skip
    assert main([*words, str(tmp_path / "no")]) == 2
    error = capsys.readouterr().err
    assert "data row 1 (counted from 1) has token id 15 ('zebra')" in error
    assert "--resize-token-embeddings" in error
    assert not (tmp_path / "no").exists()
    output = tmp_path / "run"
    assert main([*words, str(output), "--resize-token-embeddings"]) == 0
    assert json.loads((output / "config.json").read_text())["vocab_size"] == 16
    capsys.readouterr()
    assert main(["predict", str(train), "--model", str(output), "--max-length", "16"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_a_cache_that_cannot_be_written_is_done_without(place, run, tmp_path, monkeypatch, caplog):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("JAXBERT_CACHE", str(tmp_path / "cache"))
    words = ["finetune", "--model", str(place / "model"), "--train", str(place / "train.csv"),
             "--output", str(tmp_path / "out"), "--epochs", "1", "--max-length", "16"]  # fmt: skip
    assert main(words) == 0
    told = [message for message in caplog.messages if "JAXBERT_CACHE can name another" in message]
    assert len(told) == 2
    assert "programs cannot be written" in told[0]


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"jaxbert {jaxbert.__version__}\n"


def test_the_process_ends_when_all_is_done():
    """What others do at the end is done, and no object is taken apart."""
    code = """
import atexit, sys
from jaxbert.cli import command

class Object:
    def __del__(self):
        print("taken apart")

def main():
    atexit.register(print, "theirs")
    print("ours")
    return 3

sys.modules["jaxbert.cli.main"].main, kept = main, Object()
sys.exit(command())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "ours\ntheirs\n", "")


def test_no_tpu_is_asked_for_where_there_is_none():
    """libtpu, where it is installed, says six lines on standard error."""
    code = (
        "import sys; from jaxbert.cli import main; sys.exit(main(['lr', '--model', 'bert-tiny']))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")


def test_predict_keeps_the_columns_and_says_how_many(place, run, tmp_path, capsys, caplog):
    caplog.set_level("INFO", "jaxbert")
    rows = [
        {"id": 7, "text": "the film was very good", "label": "n", "mark": float("nan")},
        {"id": 8, "text": "the plot was very bad", "label": None, "mark": [1.5, {"a": 2}]},
    ]
    data = tmp_path / "films.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["predict", str(data), "--model", str(run), "--max-length", "16"]
    assert main(words) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(row) for row in found] == [
        ["id", "text", "given_label", "mark", "label", "probabilities"]
    ] * 2
    assert [row["id"] for row in found] == [7, 8]
    assert [row["given_label"] for row in found] == ["n", None]
    assert [row["mark"] for row in found] == [None, [1.5, {"a": 2}]]
    assert [row["label"] for row in found] == ["p", "n"]
    assert caplog.messages[-1] == "2 lines written"
    output = tmp_path / "out.jsonl"
    assert main([*words, "--output", str(output)]) == 0
    assert [json.loads(line) for line in output.read_text().splitlines()] == found
    assert caplog.messages[-1] == f"2 lines written to {output}"


def test_a_dry_run_says_what_would_be_done_and_does_nothing(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", failing(AssertionError("it trains")))
    output = tmp_path / "run"
    assert finetune(place, output, "--dry-run", "--freeze", "embeddings") == 0
    text = capsys.readouterr().out
    found = dict(line.split(maxsplit=1) for line in text.splitlines()[:6])
    assert found["task"] == "text-classification"
    assert found["examples"] == "train 48, dev 16, test 16"
    assert found["steps"] == "48: 8 epochs of 6, 8 examples each"
    assert "x 16" in found["shapes"]
    assert "4,786 parameters, 4,226 of them trainable" in text
    assert "MiB" in found["memory"]
    assert "layer_1" in text
    assert not output.exists()
    # What a run refuses it refuses as well.
    (tmp_path / "other.csv").write_text("text,label\ngood,maybe\n")
    assert finetune(place, output, "--dry-run", "--test", str(tmp_path / "other.csv")) == 2
    assert finetune(place, output, "--dry-run", "--freeze", "nothing") == 2
    assert finetune(place, place / "train.csv", "--dry-run") == 2
