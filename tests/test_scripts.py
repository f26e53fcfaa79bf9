"""The recipes in scripts/: sound shell, and commands that jaxbert's command line takes."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from jaxbert import cli

SCRIPTS = Path(__file__).parent.parent / "scripts"
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


def test_every_recipe_is_tested():
    assert {path.name for path in SCRIPTS.glob("*.sh")} == set(RECIPES)
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
