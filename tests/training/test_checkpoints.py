"""Checkpoints: whole, or known not to be; on other devices; and a process killed many times."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import killed
import numpy as np
import pytest
import tiny
from tolerance import assert_losses_alike, network_terms

from jaxbert.models import BertForSequenceClassification, split_model
from jaxbert.training import Trainer
from jaxbert.training.checkpoint import Checkpoints, _array_sum, _checksum
from jaxbert.training.loop import Loop

KILLS = int(os.environ.get("JAXBERT_KILLS", "5"))  # 20 take some minutes on two cores


@pytest.fixture(scope="module")
def a_run(tokenizer, tmp_path_factory):
    """Checkpoints of steps 1 to 4, with the state of each."""
    output = tmp_path_factory.mktemp("run") / "out"
    states, save = {}, Checkpoints.save

    def watched(self, state, *args, **kwargs):
        states[int(state.step)] = jax.tree.map(np.array, state)
        save(self, state, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", watched)
        tiny.trainer(
            tokenizer, output=output, epochs=1, checkpoint_every=1, keep_checkpoints=4
        ).fit()
    return output, states


def files(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


def truncate(directory):
    """The largest file, cut in half."""
    largest = max(files(directory), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def lose_the_arrays(directory):
    shutil.rmtree(directory / "state")


def garble_the_notes(directory):
    notes = directory / "contents" / "metadata"
    notes.write_text(notes.read_text().replace('"step": 4', '"step": 3'))


def cut_the_notes(directory):
    notes = directory / "contents" / "metadata"
    notes.write_text(notes.read_text()[:-20])


def empty(directory):
    for path in files(directory):
        path.write_bytes(b"")


DAMAGE = [truncate, lose_the_arrays, garble_the_notes, cut_the_notes, empty]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tokenizer, a_run, tmp_path, caplog, damage
):
    output, states = a_run
    shutil.copytree(output / "checkpoints", tmp_path / "checkpoints")
    damage(tmp_path / "checkpoints" / "4")
    like = tiny.trainer(tokenizer, epochs=1)._loop(None).state
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=4)
    state, notes = checkpoints.restore(like)
    tiny.assert_equal(state._asdict(), states[3]._asdict())
    assert notes["progress"]["step"] == 3
    assert "checkpoint 4 is damaged" in caplog.text
    checkpoints.save(states[4], notes)  # its place is free again
    checkpoints.close()
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["1", "2", "3", "4", "4.damaged"]


def test_a_changed_number_is_noticed(tokenizer, a_run, monkeypatch, caplog):
    """As if a disk had given back another bit."""
    output, states = a_run
    like = tiny.trainer(tokenizer, epochs=1)._loop(None).state
    checkpoints = Checkpoints(output / "checkpoints")
    item, asked = Checkpoints._item, []

    def flipped(self, step, name, how):
        found = item(self, step, name, how)
        if name == "state" and step == 4:
            bias = found["params"]["head"]["classifier"]["bias"]
            found["params"]["head"]["classifier"]["bias"] = bias.at[1].add(1e-6)
            asked.append(step)
        return found

    monkeypatch.setattr(Checkpoints, "_item", flipped)
    monkeypatch.setattr(Checkpoints, "_set_aside", lambda self, step: asked.append(step))
    state, _ = checkpoints.restore(like)
    assert asked == [4, 4]
    assert "its arrays have changed" in caplog.text
    tiny.assert_equal(state._asdict(), states[3]._asdict())
    checkpoints.close()


def wrapped(error, cause):
    error.__cause__ = cause
    return error


out_of_memory = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 64 bytes")
unreadable = 'Error reading "step/0" in OCDBT database at local file "4/state/"'
OTHERS = {
    "no memory": MemoryError(),
    "no memory on a device": out_of_memory,
    "no memory, told by the library": wrapped(ValueError("cannot restore"), out_of_memory),
    "a disk that fails": OSError(errno.EIO, "Input/output error"),
    "a disk that is full": OSError(errno.ENOSPC, "No space left on device"),
    "not ours": PermissionError(errno.EACCES, "Permission denied"),
    "a disk that fails, told by the library": wrapped(
        Exception("Encountered error while reading array index"),
        ValueError(f"UNKNOWN: {unreadable}: Input/output error [os_error_code='5']"),
    ),
    "a server that has forgotten us, told by the library": ValueError(
        f"FAILED_PRECONDITION: {unreadable}: Stale file handle [os_error_code='116']"
    ),
    "not ours, told by the library": ValueError(f"PERMISSION_DENIED: {unreadable}"),
    "a mistake of ours": AttributeError("'Checkpoints' object has no attribute 'stop'"),
    "Ctrl-C": KeyboardInterrupt(),
    "Ctrl-C in the library": wrapped(ValueError("reading was stopped"), KeyboardInterrupt()),
}


@pytest.mark.parametrize("error", OTHERS.values(), ids=OTHERS)
def test_what_says_nothing_of_its_bytes_leaves_a_checkpoint_alone(
    tokenizer, a_run, tmp_path, monkeypatch, error
):
    output, states = a_run
    shutil.copytree(output / "checkpoints", tmp_path / "checkpoints")
    like = tiny.trainer(tokenizer, epochs=1)._loop(None).state
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=4)

    def fail(step, **_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "restore", fail)
        with pytest.raises(type(error)) as raised:
            checkpoints.restore(like)
        assert raised.value is error
    state, _ = checkpoints.restore(like)  # when there is memory, or a disk, again
    tiny.assert_equal(state._asdict(), states[4]._asdict())
    checkpoints.close()


def test_no_memory_for_the_sum_leaves_a_checkpoint_alone(tokenizer, a_run, monkeypatch):
    like = tiny.trainer(tokenizer, epochs=1)._loop(None).state
    checkpoints = Checkpoints(a_run[0] / "checkpoints", keep=4)

    def fail(_):
        raise out_of_memory

    monkeypatch.setattr("jaxbert.training.checkpoint._checksum", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        checkpoints.restore(like)
    assert checkpoints.latest == 4
    checkpoints.close()


def test_a_file_that_cannot_be_opened_is_no_damage(tokenizer, a_run, tmp_path):
    """As the library really reports what the system refuses."""
    shutil.copytree(a_run[0] / "checkpoints", tmp_path / "checkpoints")
    step = tmp_path / "checkpoints" / "4"
    manifest = step / "state" / "manifest.ocdbt"
    manifest.unlink()
    manifest.symlink_to(manifest)  # "too many levels": it holds for root too, unlike permissions
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=4)
    with pytest.raises(ValueError, match="Too many levels of symbolic links") as error:
        checkpoints.restore(tiny.trainer(tokenizer, epochs=1)._loop(None).state)
    assert error.value.__notes__ == [
        f"while reading {step}; move it away to resume from the one before"
    ]
    assert step.is_dir()
    assert not step.with_name("4.damaged").exists()
    checkpoints.close()


def test_sums_are_those_of_checkpoints_written_before():
    # Quotients that no processor rounds.
    arrays = {
        "a": jnp.arange(12, dtype=jnp.float32).reshape(3, 4) / 8,
        "b": (jnp.arange(5, dtype=jnp.float32) / 4).astype(jnp.bfloat16),
        "c": jnp.int32(-2),
        "d": jnp.array([1, 0], jnp.uint8),
    }
    assert _checksum(arrays) == 2185355623


def test_the_sum_compiles_for_each_shape_and_no_more():
    _array_sum.clear_cache()
    _checksum([jnp.full((3, 5), i, jnp.float32) for i in range(20)] + [jnp.ones(3)])
    assert _array_sum._cache_size() == 2


def test_nothing_whole_is_left(tokenizer, a_run, tmp_path):
    shutil.copytree(a_run[0] / "checkpoints", tmp_path / "checkpoints")
    for step in "1234":
        empty(tmp_path / "checkpoints" / step)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=r"every checkpoint is damaged \(4, 3, 2, 1\)"):
        checkpoints.restore(tiny.trainer(tokenizer, epochs=1)._loop(None).state)
    checkpoints.close()


def test_the_best_stays_beside_the_newest(a_run, tmp_path):
    states = a_run[1]
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2)):
        checkpoints.save(states[step], {}, best=best)
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]


PLACES = (("jit", None), ("mesh", "data=2,fsdp=4"), ("pmap", None), ("jit", None))


def test_a_run_goes_on_elsewhere(tokenizer, tmp_path, monkeypatch):
    """One device, eight, eight in another way, one: the same values, then the same training."""
    settings = dict(batch_size=8, epochs=4, layout="padded")
    output, loops, make = tmp_path / "out", [], Trainer._loop
    tiny.trainer(tokenizer, output=tmp_path / "whole", **settings).fit()
    monkeypatch.setattr(Trainer, "_loop", lambda *a: loops.append(make(*a)) or loops[-1])
    states, restore = [], Checkpoints.restore

    def watched(self, like):
        state, notes = restore(self, like)
        tiny.assert_equal(states[-1]._asdict(), state._asdict())
        return state, notes

    monkeypatch.setattr(Checkpoints, "restore", watched)
    for until, (engine, mesh) in zip((1, 3, 6, 8), PLACES, strict=True):
        monkeypatch.setattr(Loop, "_is_over", lambda self, end=until: self.progress.step >= end)
        made = tiny.trainer(
            tokenizer, output=output, resume=until > 1, parallel=engine, mesh=mesh, **settings
        )
        made.fit()
        states.append(loops[-1].state)
    losses = [[line["loss"] for line in tiny.lines(d)] for d in (tmp_path / "whole", output)]
    assert len(losses[0]) == 8
    terms = network_terms(tiny.model().config, 16, gradient=True)
    assert_losses_alike(losses[1], losses[0], terms=terms, adam=True)


@pytest.fixture(scope="module")
def start_run(tmp_path_factory):
    """output -> a process that trains there."""
    root = tmp_path_factory.mktemp("killed")
    (root / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed"])

    def start(output):
        process = context.Process(
            target=killed.train, args=(str(output), str(root), str(root / "programs"))
        )
        process.start()
        return process

    return start


def last_step(output):
    path = output / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return sum('"train"' in line and line.endswith("}") for line in lines)


def kept_steps(output):
    found = (output / "checkpoints").glob("*")
    return [int(path.name) for path in found if path.name.isdecimal()]


def unfinished(output):
    return {path.name for path in (output / "checkpoints").glob("*orbax-checkpoint-tmp*")}


def wait_for(condition, process, seconds=100):
    end = time.monotonic() + seconds
    while process.is_alive() and not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def kill_somewhere(process, output, rng, number):
    """Some die before their first step, some between steps, some while they write a checkpoint."""
    done, left = last_step(output), unfinished(output)
    if number % 4:
        wait_for(lambda: last_step(output) != done or unfinished(output) - left, process)
    time.sleep(rng.uniform(0, 0.3) if number % 4 else rng.uniform(0, 1.5))
    if number % 2:
        wait_for(lambda: unfinished(output) - left, process)
    process.kill()


def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(start_run, tmp_path):
    whole, output = tmp_path / "whole", tmp_path / "out"
    rng, kills, writing, process = random.Random(7), 0, 0, start_run(whole)
    process.join(100)
    while process.exitcode != 0 or kills == 0:
        process = start_run(output)
        if kills < KILLS:
            kill_somewhere(process, output, rng, kills)
        process.join(100)
        if process.exitcode == -signal.SIGKILL:
            kills += 1
            writing += bool(unfinished(output))
            # At most an interval, and the one before where its checkpoint was being written; a step
            # is in the log before its own checkpoint is begun.
            lost = last_step(output) - max(kept_steps(output), default=0)
            assert lost <= killed.EVERY * (1 + bool(unfinished(output)))
    assert kills == KILLS
    assert writing > 0
    assert tiny.lines(output) == tiny.lines(whole)
    models = [BertForSequenceClassification.from_pretrained(path) for path in (whole, output)]
    tiny.assert_equal(*(split_model(model)[1] for model in models))


def test_orbax_that_stumbles_over_a_description_is_damage():
    """As over one whose parts are of other types; found by changing files at random."""
    import sys

    from jaxbert.training.checkpoint import _shows_damage

    found = []
    for name in ("orbax.checkpoint._src.made_up", "jaxbert.made_up"):
        space = {"__name__": name}
        exec("def read(value):\n    return value.parts", space)
        try:
            space["read"](3)
        except AttributeError:
            found.append(_shows_damage(sys.exc_info()[1]))
    assert found == [True, False]
