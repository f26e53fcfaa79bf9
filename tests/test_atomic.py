"""A file is the old one or the new one, and on the disk, whatever happens on the way."""

import errno
import multiprocessing
import os
import signal
import stat
import threading

import pytest

from jaxbert.atomic import replacing, write_text


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("old")
    return path


def names(file):
    return sorted(path.name for path in file.parent.iterdir())


def test_the_new_file_takes_the_place_of_the_old(file):
    with replacing(file) as temporary:
        temporary.write_text("new")
        assert temporary.parent == file.parent  # a rename goes no further than a file system
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert names(file) == ["run.json"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_in_the_middle_leaves_the_old_file_and_no_other(file, error):
    def fail():
        with replacing(file) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(error):
        fail()
    assert file.read_text() == "old"
    assert names(file) == ["run.json"]


def test_a_rename_that_fails_leaves_the_old_file_and_no_other(file):
    (file.parent / "directory").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_text(file.parent / "directory", "new")
    assert names(file) == ["directory", "run.json"]


def _die_writing(path):
    with replacing(path) as temporary:
        temporary.write_text("ne")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_writing_leaves_the_old_file(file):
    process = multiprocessing.get_context("forkserver").Process(target=_die_writing, args=(file,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert file.read_text() == "old"
    write_text(file, "new")  # what the dead has left is in nobody's way
    assert file.read_text() == "new"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_are_those_of_any_new_file(file, umask):
    file.chmod(0o600)
    before = os.umask(umask)
    try:
        with replacing(file) as temporary:
            temporary.write_text("new")
            temporary.chmod(0o400)  # as the library for safetensors does, in its way
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


def test_the_file_is_on_the_disk_before_its_name_and_then_the_name(file, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor):
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        size = os.fstat(descriptor).st_size
        done.append((kind, size) if kind == "file" else kind)
        sync(descriptor)

    def renamed(*paths):
        done.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_text(file, "newer")
    assert done == [("file", 5), "rename", "directory"]


@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_directory_that_cannot_be_synced_is_no_failure(file, monkeypatch, number, passes):
    sync = os.fsync

    def refuse_directories(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    if passes:
        write_text(file, "new")
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            write_text(file, "new")
    assert file.read_text() == "new"


def test_writers_at_the_same_time_do_not_meet(file):
    both, texts = threading.Barrier(2), ["a" * 9, "b" * 7]

    def write(text):
        with replacing(file) as temporary:
            both.wait(10)
            temporary.write_text(text)
            both.wait(10)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() in texts
    assert names(file) == ["run.json"]
