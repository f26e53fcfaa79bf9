"""A disk that is full at every write of a run in turn: one line, and the last good model loads.

Writes of Python's are refused one by one. Those of orbax and safetensors are native: the system
refuses them, by a limit on the size of files. JAXBERT_FAULTS=all tries every one.
"""

import builtins
import errno
import gc
import io
import os
import resource
import shutil

import pytest
import tiny

from jaxbert.models import BertForSequenceClassification, split_model

# A file whose last write is refused when it is closed is left to the collection of garbage.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
EVERY = 1 if os.environ.get("JAXBERT_FAULTS") == "all" else 9
SEED = 4
SETTINGS = dict(evaluation=tiny.CLASSES, epochs=1, batch_size=8, checkpoint_every=1)


@pytest.fixture(autouse=True)
def _collect():
    yield
    gc.collect()


class Disk:
    """Counts the writes to a directory, and refuses one of them, or all from one on."""

    def __init__(self, directory, patch):
        self.directory, self.refused, self.done = os.path.realpath(directory), None, []
        for name in ("replace", "rename", "link", "fsync"):
            patch.setattr(os, name, self._counted(name, getattr(os, name)))
        opened = io.open
        for module in (builtins, io):
            patch.setattr(module, "open", lambda *a, **k: self._open(opened, *a, **k))

    def count(self, what, path):
        if not os.path.realpath(path).startswith(self.directory):
            return
        event = (what, str(path))
        if "tfevents" in str(path) and self.done.count(event) > 3:
            return  # one is a dozen writes to a buffer
        self.done.append(event)
        if self.refused is not None and len(self.done) > self.refused:
            named = (str(path),) if what in ("replace", "rename", "link") else ()  # as Python does
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *named)

    def _counted(self, name, function):
        def counted(*args, **kwargs):
            path = f"/proc/self/fd/{args[0]}" if name == "fsync" else args[0]
            self.count(name, path)
            return function(*args, **kwargs)

        return counted

    def _open(self, opened, path, mode="r", *args, **kwargs):
        file = opened(path, mode, *args, **kwargs)
        return Written(file, path, self) if set(mode) & set("wax") else file


class Written:
    """A file of which every write is counted."""

    def __init__(self, file, path, disk):
        self._file, self._path, self._disk = file, path, disk

    def write(self, content):
        if isinstance(self._path, str | os.PathLike):
            self._disk.count("write", self._path)
        return self._file.write(content)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def saved(directory):
    return split_model(BertForSequenceClassification.from_pretrained(directory))[1]


def equal(first, second):
    first, second = tiny.leaves(first), tiny.leaves(second)
    return all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.fixture(scope="module")
def finished(tokenizer, tmp_path_factory):
    """(a finished run, what another one that replaces it ends with)."""
    root = tmp_path_factory.mktemp("finished")
    tiny.trainer(tokenizer, output=root / "old", **SETTINGS, seed=1).fit()
    tiny.trainer(tokenizer, output=root / "new", **SETTINGS).fit()
    assert not equal(saved(root / "old"), saved(root / "new"))
    return root / "old", saved(root / "new")


def places(tokenizer, finished, directory):
    """How many writes there are to refuse."""
    output = shutil.copytree(finished[0], directory / "out")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(output, patch)
        tiny.trainer(tokenizer, output=output, overwrite=True, **SETTINGS).fit()
    return len(disk.done)


def test_whatever_is_refused_the_old_model_or_the_new_one_is_there(tokenizer, finished, tmp_path):
    count = places(tokenizer, finished, tmp_path / "count")
    assert count > 50
    told = 0
    for refused in range(SEED % EVERY, count, EVERY):
        output = shutil.copytree(finished[0], tmp_path / str(refused))
        told += run_out_of_room(tokenizer, output, refused)
        old, new = (equal(saved(output), model) for model in (saved(finished[0]), finished[1]))
        assert old or new
        resume = (output / "unfinished" / "run.json").is_file()
        again = dict(resume=True) if resume else dict(overwrite=True)
        tiny.trainer(tokenizer, output=output, **again, **SETTINGS).fit()
        assert equal(saved(output), finished[1])
        assert not (output / "unfinished").exists()
        shutil.rmtree(output)
    assert told


def run_out_of_room(tokenizer, output, refused):
    """Whether a run, on a disk that is full from one write on, complains; it does in one line."""
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(output, patch)
        disk.refused = refused
        message = None
        try:
            tiny.trainer(tokenizer, output=output, overwrite=True, **SETTINGS).fit()
        except OSError as error:
            message = str(error)
    assert message is None or str(output) in message, disk.done[refused]
    assert message is None or len(message.splitlines()) == 1
    return message is not None


@pytest.mark.parametrize("limit", [300, 3000, 14_000, 60_000])
def test_a_file_that_may_not_grow(tokenizer, finished, tmp_path, limit, caplog):
    """Native writes too: the system refuses those that make a file larger."""
    output = shutil.copytree(finished[0], tmp_path / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    made = tiny.trainer(tokenizer, output=output, overwrite=True, **SETTINGS)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=r"File too large|os error 27") as error:
            made.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(output) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert equal(saved(output), saved(finished[0]))


def test_a_checkpoint_that_does_not_fit_is_not_begun(tokenizer, finished, tmp_path, monkeypatch):
    output, free = tmp_path / "out", shutil.disk_usage(tmp_path)._replace(free=2**18)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(OSError, match=r"checkpoints: .* 0\.3 MiB and 0\.2 MiB are free; make room"):
        tiny.trainer(tokenizer, output=output, **SETTINGS).fit()
    assert not list((output / "checkpoints").iterdir())
