"""One run in a directory at a time: who is refused, what is told, which locks are of the dead."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import threading
import time

import pytest
import tiny

from jaxbert.errors import InputError
from jaxbert.training import lock
from jaxbert.training.lock import Holder, RunLock, held

HOLD = """
import pathlib, sys, time
from jaxbert.training.lock import RunLock
hold = RunLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """A live process that holds tmp_path/out; it dies when its input ends."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def leave(directory, **changes):
    """A lock that somebody else has left."""
    directory.mkdir(exist_ok=True)
    holder = dataclasses.replace(Holder.me(), **changes)
    (directory / "run.lock").write_text(json.dumps(dataclasses.asdict(holder)))


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
def test_a_live_run_is_left_alone(tokenizer, other, tmp_path, how):
    output = tmp_path / "out"
    (output / "run.json").write_text('{"status": "running"}')
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(InputError, match=rf"process {other.pid} on this machine, since 2.*: wait"):
        tiny.trainer(tokenizer, output=output, **how)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_the_lock_of_a_killed_process_is_taken_over(other, tmp_path):
    other.kill()
    while lock._started(other.pid):  # until then it cannot be told from a live one
        time.sleep(0.01)
    assert (tmp_path / "out" / "run.lock").exists()
    with held(tmp_path / "out"):  # though nobody has waited for it yet: it is a zombie
        assert lock._read(tmp_path / "out" / "run.lock").pid == os.getpid()


STALE = {"ended": {"pid": 2**22 + 1}, "restarted": {"boot": "before"}, "reused": {"started": "1"}}


@pytest.mark.parametrize("changes", STALE.values(), ids=STALE)
def test_a_stale_lock_is_taken_over(tmp_path, changes):
    leave(tmp_path, **changes)
    with held(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_another_machine_cannot_be_judged(tmp_path):
    leave(tmp_path, host="far-away", pid=7)
    with pytest.raises(InputError, match=r"process 7 on far-away.*delete .*run\.lock if it has en"):
        RunLock(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"pid": 3}', '{"pid', "[" * 10**5])
def test_a_lock_that_says_nothing_is_named(tmp_path, content):
    (tmp_path / "run.lock").write_text(content)
    with pytest.raises(InputError, match=r"run\.lock does not say by whom: delete that file if"):
        RunLock(tmp_path)
    assert (tmp_path / "run.lock").read_text() == content


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path):
    leave(tmp_path, pid=2**22 + 1)
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    many = [subprocess.Popen(words, **pipes) for _ in range(4)]
    assert sorted(process.stdout.readline() for process in many) == [b"", b"", b"", b"held\n"]
    for process in many:
        process.communicate()


def test_within_a_process_it_is_held_as_often_as_wanted(tmp_path):
    with held(tmp_path / "out"):
        with held(tmp_path / "out"):
            pass
        assert (tmp_path / "out" / "run.lock").exists()
    assert not (tmp_path / "out").exists()  # nothing was put into it


def test_but_not_beside_a_fit(tmp_path):
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    with first.busy():
        for ask in (lambda: RunLock(tmp_path), second.busy().__enter__):
            with pytest.raises(InputError, match="held by a fit\\(\\) of this very process"):
                ask()
    first.release()
    first.release()
    assert (tmp_path / "run.lock").exists()
    second.release()
    assert not (tmp_path / "run.lock").exists()


def test_where_there_are_no_links_it_is_made_once_all_the_same(tmp_path, monkeypatch):
    def unknown(*_):
        raise PermissionError("links")

    monkeypatch.setattr(os, "link", unknown)
    found = []

    def take():
        try:
            lock._take(tmp_path / "run.lock", tmp_path)
            found.append("held")
        except InputError:
            found.append("refused")

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["held"] + ["refused"] * 7


@pytest.mark.parametrize("links", [True, False])
def test_a_lock_for_which_there_is_no_room_is_named_and_leaves_nothing(tmp_path, links):
    path = tmp_path / "run.lock"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*run\.lock'"):
            lock._create(path) if links else lock._create_exclusively(path, 100 * "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_trainer_holds_its_directory_until_it_has_fitted_or_is_gone(tokenizer, tmp_path):
    trainer = tiny.trainer(tokenizer, output=tmp_path / "a", epochs=1)
    assert (tmp_path / "a" / "run.lock").exists()
    trainer.fit()
    assert not (tmp_path / "a" / "run.lock").exists()
    trainer = tiny.trainer(tokenizer, output=tmp_path / "b", epochs=1)
    trainer._run._lock.release()
    assert not (tmp_path / "b" / "run.lock").exists()
