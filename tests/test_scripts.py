"""The scripts: sound shell, and commands that are there and take what they are given."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jaxbert import cli

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
GIVEN = ["--model", "some model", "--train", "t.csv", "--batch-size", "256", "--mesh", "fsdp=2"]


def dry_run(name, output, **environment):
    run = subprocess.run(
        ["bash", SCRIPTS / name, output, *GIVEN],
        env={"PATH": os.environ["PATH"], "DRY_RUN": "1", **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *_, last = run.stdout.splitlines()
    words = shlex.split(last)
    if "gcloud" in words:
        words = shlex.split(next(w for w in words if w.startswith("--command=")).partition("=")[2])
    return words


TPU = dict(TPU="slice", ZONE="zone")
RECIPES = {"gpu_node.sh": {}, "slurm_gpus.sh": {}, "tpu_pod.sh": TPU}


CHECK = "gpu_check.sh"


def test_every_script_is_tested():
    assert {path.name for path in SCRIPTS.glob("*.sh")} == {*RECIPES, CHECK}
    assert all(os.access(path, os.X_OK) for path in SCRIPTS.glob("*.sh"))


@pytest.mark.parametrize(("name", "environment"), RECIPES.items())
@pytest.mark.parametrize("resume", [False, True])
def test_a_recipe_calls_what_there_is(tmp_path, name, environment, resume):
    if resume:
        (tmp_path / "finetune.json").write_text("{}")
        environment = environment | {"RESUME": "1"}
    words = dry_run(name, tmp_path, **environment)
    (start,) = [i for i, word in enumerate(words) if word.endswith("jaxbert")]
    args = cli.make_parser().parse_args(words[start + 1 :])
    assert args.output == str(tmp_path)
    assert args.resume == resume
    assert args.distributed == (name != "gpu_node.sh")
    if not resume:
        assert getattr(args, "training.parallel") == "mesh"
        assert args.model == "some model"


def check(output, **environment):
    """The GPU check's run, whatever became of it."""
    return subprocess.run(
        ["bash", SCRIPTS / CHECK, output],
        env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_the_gpu_check_calls_what_there_is(tmp_path, monkeypatch, device):
    run = check(tmp_path, DRY_RUN="1", DEVICE=device, PYTHON=sys.executable)
    assert run.returncode == 0, run.stderr
    modules = []
    for line in run.stdout.splitlines():
        words = shlex.split(line)
        words = words[words.index(sys.executable) :]
        assert words[1] == "-m"
        modules.append(words[2])
        if words[2] == "pytest":
            files = [word for word in words if word.startswith("tests/")]
            assert files
            assert all((ROOT / name).exists() for name in files)
            continue
        module = importlib.import_module(words[2])
        monkeypatch.setattr(sys, "argv", words[2:])
        parsed = module.parser().parse_args(words[3:])
        assert str(parsed.results).startswith(str(tmp_path))
    assert modules[0] == "benchmarks.device_checks"
    assert modules.count("benchmarks.compare") == (3 if device == "gpu" else 1)
    assert not list(tmp_path.iterdir())


def interpreter(tmp_path, lines):
    """A program in Python's place, that does as these lines of shell say."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return str(path)


def parts(output):
    return (output / "cpu" / "parts.txt").read_text().splitlines()[1:]


def test_a_part_that_fails_is_told_and_the_next_begun(tmp_path):
    fake = interpreter(tmp_path, 'echo "$2"; [ "$2" != benchmarks.parity ] || exit 3')
    run = check(tmp_path / "out", DEVICE="cpu", PYTHON=fake)
    assert run.returncode == 1
    told = {line.partition(":")[0]: line for line in parts(tmp_path / "out")}
    assert list(told) == ["checks", "parity", "compare-smoke", "profile", "tests"]
    assert "failed with status 3" in told.pop("parity")
    assert all(": done, " in line for line in told.values())
    log = (tmp_path / "out" / "cpu" / "log.txt").read_text().splitlines()
    assert log[:3] == ["== checks", "benchmarks.device_checks", "== parity"]


def test_time_is_limited(tmp_path):
    fake = interpreter(tmp_path, "exec sleep 60")
    run = check(tmp_path / "out", DEVICE="cpu", PYTHON=fake, SECONDS_IN_ALL="2")
    assert run.returncode == 1
    first, *others = parts(tmp_path / "out")
    assert re.match(r"checks: stopped after [12] s", first)
    assert len(others) == 4
    assert all(": no time left" in line for line in others)


def test_without_a_gpu_the_check_says_so(tmp_path):
    run = check(tmp_path, DEVICE="abacus")
    assert (run.returncode, run.stderr) == (2, "DEVICE=abacus: want gpu or cpu\n")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    run = check(tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert run.returncode == 2
    assert "no GPU" in run.stderr
