"""What is Linux's alone is not needed: as far as that can be said without a Mac.

A process in which jaxbert finds no /proc, no glibc, no way to ask which cores are its own, and a
system that calls itself darwin. What jax and others ask of theirs is not touched.
"""

import json
import os
import platform
import subprocess
import sys

import pytest

from tests.faults.kills import PLACES, Files

ON_A_MAC = """
import ctypes, json, os, sys
import jax, orbax.checkpoint, transformers  # theirs, as ever
asked = []

def no_proc(event, args):
    if event == "open" and str(args[0]).startswith(("/proc", "/sys")):
        asked.append(str(args[0]))
        raise FileNotFoundError(2, "No such file or directory", str(args[0]))

sys.platform = "darwin"
del os.sched_getaffinity, os.sched_setaffinity
del ctypes.CDLL
sys.addaudithook(no_proc)

from jaxbert.cli import main
status = main(sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps(asked))
sys.exit(status)
"""


def run(root, *argv):
    """(finished process, what it asked of Linux)."""
    asked, places = root / "asked.json", os.pathsep.join(PLACES)
    environment = os.environ | {"PYTHONPATH": places, "JAXBERT_CACHE": str(root / "cache")}
    words = [sys.executable, "-c", ON_A_MAC, str(asked), *map(str, argv)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    return done, json.loads(asked.read_text()) if asked.exists() else None


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("mac").resolve() / "files", "text-classification")


def test_a_run_on_a_system_that_is_not_linux(files, tmp_path):
    output = tmp_path / "out"
    done, asked = run(tmp_path, "finetune", *files.arguments(output))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert asked  # the lock's holder has looked for its boot and start, and gone on without
    assert (output / "model.safetensors").is_file()
    assert not (output / "run.lock").exists()
    done, _ = run(tmp_path, "predict", "--model", output, files.data)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 13


def test_a_held_directory_is_refused_there_too(files, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    holder = {"pid": os.getpid(), "host": platform.node(), "boot": "", "started": "",
              "since": "today"}  # fmt: skip
    (output / "run.lock").write_text(json.dumps(holder))
    done, _ = run(tmp_path, "finetune", *files.arguments(output))
    assert done.returncode != 0
    assert f"is held by process {os.getpid()} on this machine" in done.stderr
