"""A few cases of every target; `python -m tests.fuzz` tries as many as one likes."""

import logging
import re

import pytest

from jaxbert.errors import InputError
from tests.fuzz.cases import Bench, Target
from tests.fuzz.targets import TARGETS

CASES = 2  # times the target's share


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


# A checkpoint's is orbax's native code, in many threads: it has died of one, and is for a process
# of its own. What there is to say of damaged checkpoints, tests/training/test_checkpoints.py tries.
@pytest.mark.parametrize("name", [name for name in TARGETS if name != "checkpoint"])
def test_a_changed_file_is_read_or_refused(name, tmp_path):
    bench = Bench(name, TARGETS[name], tmp_path / "files")
    found = [bench.case(5, number) for number in range(CASES * TARGETS[name].share)]
    assert set(found) <= {"read", "refused"}


# --- and what is seen, if it happens


def write(directory):
    (directory / "a.txt").write_text("good")


def complain(words):
    raise InputError(words)


BAD = {
    "error": (lambda path: [][1], "IndexError at : list index out of range"),
    "lines": (lambda path: complain("one\ntwo"), "no single line: 'one\\ntwo'"),
    "memory": (lambda path: bytes(2**27), "it took 128 MiB"),
    "changed": (lambda path: path.write_text("bad"), "it changed the directory"),
    "made": (lambda path: path.with_name("b").touch(), "it changed the directory"),
    "deleted": (lambda path: path.unlink(), "it changed the directory"),
    "list": (lambda path: complain("one\n  two"), "refused"),
    "nothing": (lambda path: None, "read"),
}


@pytest.mark.parametrize(("read", "seen"), BAD.values(), ids=BAD)
def test_what_must_not_be_is_seen(tmp_path, read, seen):
    def tried(path):
        return read(path) if path.read_text() != "good" else None

    target = Target(write, tried, lambda content, rng: b"changed")
    bench = Bench("one", target, tmp_path / "files")
    assert bench.case(0, 0) == seen
    assert (tmp_path / "files" / "a.txt").read_text() == "good"


def test_a_hang_is_seen(tmp_path, monkeypatch):
    def wait(path):
        changed = path.read_text() != "good"
        while changed:  # not reading: the alarm would leave a file open
            pass

    monkeypatch.setattr("tests.fuzz.cases.SECONDS", 1)
    bench = Bench("one", Target(write, wait, lambda content, rng: b"bad"), tmp_path / "files")
    assert re.fullmatch("it took over 1 s", bench.case(0, 0))
