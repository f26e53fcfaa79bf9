"""Every code block of the README runs, and every table is the one its results give."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxbert.data
from jaxbert.cli import _parser
from jaxbert.optim.strategies import strategy_from_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.S | re.M)


@pytest.fixture
def few_examples(monkeypatch):
    """The README's files, cut to what a test has time for."""
    load = jaxbert.data.load_examples

    def load_few(*args, **kwargs):
        examples = load(*args, **kwargs)
        # Every 700th, so that both labels are among them.
        return dataclasses.replace(
            examples, texts=examples.texts[::700], labels=examples.labels[::700]
        )

    monkeypatch.setattr(jaxbert.data, "load_examples", load_few)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.split("\n")[-2][:30])
def test_python_blocks_run(block, few_examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_the_ten_lines_are_ten():
    assert len([line for line in blocks("python")[0].splitlines() if line]) == 10


def shell_commands():
    text = "".join(blocks("sh")).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if line]


@pytest.mark.parametrize("command", shell_commands(), ids=" ".join)
def test_shell_commands_are_understood(command):
    if command[0] == "make":
        assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), flags=re.M)
        return
    assert command[0] == "jaxbert"
    words = command[1:]
    for sign in "<>":
        words = words[: words.index(sign)] if sign in words else words
    _parser().parse_args(words)


def test_toml_blocks_are_strategies():
    for block in blocks("toml"):
        for name, table in tomllib.loads(block).items():
            strategy_from_table(name, table)


def test_modules_that_the_text_calls_exist():
    called = set(re.findall(r"python -m ([\w.]+)", README))
    assert "benchmarks.tables" in called
    for module in called:
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


def test_tables_are_up_to_date():
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.tables", "--check"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
