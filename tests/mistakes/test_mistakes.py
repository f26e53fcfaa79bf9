"""Every mistake gets its status and one line that says what is wrong; nothing else changes."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys

import commands
import jax
import pytest
import world

from jaxbert.cli import main
from jaxbert.training.lock import Holder, _started


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Where the commands are run; a live process holds run-held."""
    directory = tmp_path_factory.mktemp("mistakes")
    world.build(directory)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        holder = dataclasses.replace(Holder.me(), pid=other.pid, started=_started(other.pid))
        (directory / "run-held" / "run.lock").write_text(json.dumps(dataclasses.asdict(holder)))
        yield directory
        other.kill()


@pytest.fixture(autouse=True)
def _there(root, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("JAXBERT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(os, "_exit", sys.exit)  # one of several processes ends at once


@pytest.fixture(autouse=True)
def _no_hang():
    """A mistake that takes so long is no mistake that is told: in time of a processor, since others
    may want it too, and, if it waits, by the clock."""
    with _ends_after(signal.SIGPROF, signal.ITIMER_PROF, 10), \
         _ends_after(signal.SIGALRM, signal.ITIMER_REAL, 120):  # fmt: skip
        yield


@contextlib.contextmanager
def _ends_after(number, timer, seconds):
    def stop(*_):
        raise TimeoutError(f"nothing was said in {seconds} seconds")

    before = signal.signal(number, stop)
    signal.setitimer(timer, seconds)
    yield
    signal.setitimer(timer, 0)
    signal.signal(number, before)


@pytest.fixture(scope="module", autouse=True)
def _compile_cheaply():
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


def snapshot(directory):
    """{path: what is there}, folders too."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(directory.rglob("*"))
    }


def run(words):
    """The status of a command."""
    try:
        return main(words)
    except SystemExit as end:  # as argparse does
        return end.code


def assert_one_line(error, words, more=False):
    """One line, without control characters, that holds the words; more only where it is a list."""
    lines = error.splitlines()
    assert len(lines) == 1 or (more and all(line.startswith("  ") for line in lines[1:])), error
    assert lines[0].startswith("jaxbert: "), error
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", lines[0])
    missing = [word for word in words.split() if word not in lines[0]]
    assert not missing, lines[0]


@pytest.mark.parametrize(("command", "words"), commands.COMMANDS)
def test_a_mistake_is_one_line_and_changes_nothing(root, command, words, capsys):
    before = snapshot(root)
    assert run(shlex.split(command)) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert_one_line(error, words, command.endswith(commands.LISTS))
    assert snapshot(root) == before


def test_there_are_many():
    assert len(set(commands.COMMANDS)) == len(commands.COMMANDS) >= 150
