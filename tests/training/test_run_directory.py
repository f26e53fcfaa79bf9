"""The output directory: what is refused, what is replaced, what a resumed log keeps."""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil

import pytest
import tiny
from tiny import CLASSES

from jaxbert.errors import DivergedError, InputError
from jaxbert.optim import OptimizerConfig
from jaxbert.training import Trainer, run_directory
from jaxbert.training.checkpoint import Checkpoints
from jaxbert.training.record import Record
from jaxbert.training.run_directory import check, foreign, read_run, write_run


@pytest.fixture(scope="module")
def a_run(tokenizer, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "deep" / "out"
    tiny.trainer(tokenizer, output=output, epochs=1).fit()
    return output


def contents(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_foreign_files_are_refused_even_with_overwrite(tokenizer, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="holds files that are no run"):
            tiny.trainer(tokenizer, output=tmp_path, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_directory(tokenizer, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        tiny.trainer(tokenizer, output=tmp_path / "out", overwrite=True)


def test_another_run_is_refused_and_replaced_only_when_told(tokenizer, a_run):
    before = contents(a_run)
    with pytest.raises(FileExistsError, match=r"another run; .*--resume.*--overwrite"):
        tiny.trainer(tokenizer, output=a_run)
    assert contents(a_run) == before


def test_overwrite_begins_with_nothing(tokenizer, tmp_path):
    write_run(tmp_path, {"status": "finished"})
    (tmp_path / "metrics.jsonl").write_text('{"event": "train", "step": 99}\n')
    run = tiny.trainer(tokenizer, output=tmp_path, overwrite=True, epochs=1).fit()
    assert run["step"] == 4
    assert [line["step"] for line in tiny.lines(tmp_path)] == [1, 2, 3, 4]


def test_an_empty_directory_is_welcome(tokenizer, tmp_path):
    tiny.trainer(tokenizer, output=tmp_path)


def test_unfinished_files_of_a_killed_run_are_in_nobodys_way(tokenizer, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    drafts = [output / f".{name}.0123abcd.tmp" for name in ("run.json", "model.safetensors")]
    drafts[0].write_text("{")  # killed before there was a run
    tiny.trainer(tokenizer, output=output, epochs=1).fit()
    drafts[1].write_text("half")
    mine = output / ".notes.tmp"
    mine.write_text("mine")
    tiny.trainer(tokenizer, output=output, epochs=1, resume=True).fit()
    assert not any(draft.exists() for draft in drafts)
    assert mine.read_text() == "mine"


def test_a_run_that_stopped_before_its_first_step_can_go_on(tokenizer, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_loop", stop)
        with pytest.raises(KeyboardInterrupt):
            tiny.trainer(tokenizer, output=tmp_path, epochs=1).fit()
    assert tiny.run_json(tmp_path)["status"] == "prepared"
    (tmp_path / "notes.txt").write_text("mine")
    tiny.trainer(tokenizer, output=tmp_path, epochs=1)  # nothing is lost: no need to overwrite
    assert (tmp_path / "notes.txt").read_text() == "mine"
    run = tiny.trainer(tokenizer, output=tmp_path, epochs=1, resume=True).fit()
    assert (run["status"], run["step"]) == ("finished", 4)


def test_all_that_a_run_writes_is_known_as_a_runs(a_run):
    assert not list(foreign(a_run))
    assert {"config.json", "tokenizer.json", "checkpoints"} <= {p.name for p in a_run.iterdir()}


NOT_OURS = ("train.csv", "vectors.npy", "data/train.csv", "checkpoints/notes.txt", "my.bin",
            "tensorboard/plot.png", "unfinished/train.csv", "unfinished/checkpoints/x")  # fmt: skip


@pytest.mark.parametrize("name", NOT_OURS)
def test_what_no_run_has_written_is_named_and_never_deleted(tokenizer, a_run, tmp_path, name):
    output = tmp_path / "out"
    shutil.copytree(a_run, output)
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    (output / name).write_text("text,label\n")
    before, shown = contents(output), "data" if name.startswith("data") else name
    with pytest.raises(FileExistsError, match=f"holds {shown}, which no run has written: move"):
        tiny.trainer(tokenizer, output=output, overwrite=True)
    assert contents(output) == before


def test_what_is_put_there_while_it_trains_stays(tokenizer, a_run, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(a_run, output)
    trainer = tiny.trainer(tokenizer, output=output, overwrite=True, epochs=1)
    (output / "notes.txt").write_text("mine")
    (output / "tensorboard" / "notes.txt").write_text("mine")
    trainer.fit()
    notes = sorted(str(path.relative_to(output).parent) for path in output.rglob("notes.txt"))
    assert notes[0] == "."
    assert notes[1].startswith("tensorboard.kept-")


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def broken(*_, **__):
    raise StoppedError


@pytest.mark.parametrize("where", ["_loop", "_chosen", "_write_model"])
def test_a_failed_run_leaves_the_one_before_it(tokenizer, a_run, tmp_path, monkeypatch, where):
    output = tmp_path / "out"
    shutil.copytree(a_run, output)
    before = contents(output)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, where, broken)
        with pytest.raises(StoppedError):
            tiny.trainer(tokenizer, output=output, overwrite=True, epochs=1, seed=6).fit()
    assert before.items() <= contents(output).items()
    with pytest.raises(FileExistsError, match="another run"):
        tiny.trainer(tokenizer, output=output, epochs=1, seed=6)
    # It is the newer one that goes on.
    run = tiny.trainer(tokenizer, output=output, resume=True, epochs=1, seed=6).fit()
    assert (run["status"], run["config"]["seed"]) == ("finished", 6)
    assert tiny.run_json(output)["config"]["seed"] == 6
    assert not (output / "unfinished").exists()
    assert not list(foreign(output))


def test_a_diverged_run_leaves_the_model_it_began_with(tokenizer, a_run, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(a_run, output)
    before = contents(output)
    huge = OptimizerConfig(optimizer="sgd", learning_rate=1e30, schedule="constant", clip_norm=None)
    trainer = tiny.trainer(tokenizer, output=output, overwrite=True, optimizer=huge)
    with pytest.raises(DivergedError):
        trainer.fit()
    assert before.items() <= contents(output).items()
    assert tiny.run_json(output / "unfinished")["status"] == "diverged"


def test_a_replacement_that_is_cut_short_is_completed(tokenizer, a_run, tmp_path, monkeypatch):
    """At any of its steps: a name is moved, or an old file deleted, or neither."""
    new = tmp_path / "new"
    tiny.trainer(tokenizer, output=new, epochs=1, seed=6).fit()
    wanted = {path.relative_to(new): data for path, data in contents(new).items()}
    for done in itertools.count():
        output = tmp_path / f"out{done}"
        shutil.copytree(a_run, output)
        (output / "model-00001-of-00002.safetensors").write_bytes(b"of the old one")
        shutil.copytree(new, output / "unfinished")
        steps = iter([None] * done)
        with monkeypatch.context() as patch:
            for module, name in ((os, "replace"), (run_directory, "_delete")):
                patch.setattr(module, name, after(steps, getattr(module, name)))
            with contextlib.suppress(StoppedError):
                run_directory.finish(output)
        whole = not (output / "unfinished").exists()
        run_directory.finish(output)
        found = {path.relative_to(output): data for path, data in contents(output).items()}
        assert found == wanted
        if whole:
            break
    assert done > 8


def after(steps, do):
    """`do`, until there are no steps left."""

    def step(*args):
        if next(steps, "over") == "over":
            raise StoppedError
        return do(*args)

    return step


def test_the_directory_is_looked_at_before_the_work(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(FileExistsError, match="another run"):
        check(tmp_path, overwrite=False)
    check(tmp_path, overwrite=True)
    check(tmp_path / "nowhere", overwrite=False)


def test_there_must_be_something_to_resume(tokenizer, tmp_path):
    for output in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match="holds no run"):
            tiny.trainer(tokenizer, output=output, resume=True)
    assert not (tmp_path / "nowhere").exists()


OTHERS = {
    "batch": (dict(batch_size=5), "differs in batch_size;"),
    "several": (dict(seed=1, layout="padded"), "differs in seed, layout;"),
    "rate": (dict(optimizer=OptimizerConfig()), "differs in optimizer;"),
    "data": (
        dict(train=dataclasses.replace(CLASSES, texts=CLASSES.texts[::-1])),
        "differs in the train examples;",
    ),
    "precision": (dict(network=tiny.model(dtype="bfloat16")), "differs in dtype;"),
    "model": (dict(network=tiny.model(hidden_dropout_prob=0.5)), "differs in hidden_dropout_prob;"),
    "evaluation": (dict(evaluation=CLASSES), "differs in the evaluation examples;"),
}


@pytest.mark.parametrize(("settings", "message"), OTHERS.values(), ids=OTHERS)
def test_resume_refuses_another_run(tokenizer, a_run, settings, message):
    before = contents(a_run)
    with pytest.raises(ValueError, match=message):
        tiny.trainer(tokenizer, output=a_run, resume=True, **({"epochs": 1} | settings))
    assert contents(a_run) == before


def test_a_run_of_a_version_that_knew_less_goes_on(tokenizer, a_run, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(a_run, output)
    run = tiny.run_json(output)
    for name in ("ema_decay", "mixout", "lora_targets"):
        del run["config"]["optimizer"][name]
    write_run(output, run)
    tiny.trainer(tokenizer, output=output, resume=True, epochs=1)
    averaging = dataclasses.replace(tiny.ADAMW, ema_decay=0.5)
    with pytest.raises(ValueError, match="differs in optimizer;"):
        tiny.trainer(tokenizer, output=output, resume=True, epochs=1, optimizer=averaging)


def test_resume_may_log_otherwise(tokenizer, a_run):
    tiny.trainer(tokenizer, output=a_run, resume=True, epochs=1, log_every=3, keep_checkpoints=5)


def test_run_json_is_replaced_whole(tmp_path):
    write_run(tmp_path, {"step": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_run(tmp_path, {"step": float("nan")})
    assert read_run(tmp_path) == {"step": 1}


@pytest.mark.parametrize("content", [b'{"status"', b"\xff\xfe", b"[]"])
def test_a_damaged_run_json_is_named(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json .*; put it back, or start anew with --over"):
        read_run(tmp_path)


def test_a_log_keeps_what_was_done_and_whole(tmp_path):
    log = Record(tmp_path)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": step})
        log.write("eval", step, {"loss": step})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "step": 2, "lo')  # cut off by a crash
    log = Record(tmp_path, step=2, evaluated=1)  # not closed: a crash may come before any event
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(k["event"], k["step"]) for k in kept] == [("train", 1), ("eval", 1), ("train", 2)]
    log.close()
    Record(tmp_path).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_without_a_directory_nothing_is_written(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tiny.trainer(tokenizer, epochs=1, evaluation=CLASSES).fit()["status"] == "finished"
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_optimizer_says_so(tokenizer, a_run):
    adam = tiny.trainer(tokenizer, epochs=1)._loop(None).state
    checkpoints = Checkpoints(a_run / "checkpoints")
    state, notes = checkpoints.restore(adam)
    assert (int(state.step), notes["progress"]["step"]) == (4, 4)
    assert notes["config"]["seed"] == 5
    plain = tiny.trainer(tokenizer, epochs=1, optimizer=tiny.PLAIN)._loop(None).state
    with pytest.raises(ValueError, match="checkpoint 4 does not fit this model and optimizer"):
        checkpoints.restore(plain)
    checkpoints.close()


def test_a_run_that_has_lost_its_checkpoints_does_not_begin_anew(tokenizer, a_run, tmp_path):
    for name, folder in (("gone", None), ("empty", "checkpoints")):
        output = tmp_path / name
        shutil.copytree(a_run, output)
        shutil.rmtree(output / "checkpoints")
        if folder:
            (output / folder).mkdir()
        before = contents(output)
        with pytest.raises(InputError, match=r"checkpoints is gone, .*: put it back, or train ag"):
            tiny.trainer(tokenizer, output=output, resume=True, epochs=1)
        assert contents(output) == before


def test_a_resumed_run_says_where_it_goes_on(tokenizer, a_run, tmp_path, caplog):
    caplog.set_level("INFO", "jaxbert")
    output = tmp_path / "out"
    shutil.copytree(a_run, output)
    tiny.trainer(tokenizer, output=output, resume=True, epochs=1).fit()
    assert "resumes after step 4 of 4" in caplog.messages
    tiny.trainer(tokenizer, output=tmp_path / "new", epochs=1)
    tiny.trainer(tokenizer, output=tmp_path / "new", epochs=1, resume=True).fit()
    assert any("the run begins at its first step" in message for message in caplog.messages)
