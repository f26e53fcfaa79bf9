"""However a run ends - Ctrl-C, divergence, a crash - what it leaves can be trusted and resumed."""

import os
import signal
import time

import jax
import numpy as np
import pytest
import tiny
from tiny import CLASSES

from jaxbert.errors import DivergedError, Interrupted, Preempted
from jaxbert.models import BertForSequenceClassification, split_model
from jaxbert.optim import OptimizerConfig
from jaxbert.training import Trainer, loop
from jaxbert.training.checkpoint import Checkpoints
from jaxbert.training.engines import Compiled, Engine
from jaxbert.training.interruption import Interruption
from jaxbert.training.predictor import Predictor

SETTINGS = dict(evaluation=CLASSES, layout="packed", eval_every=3, epochs=2)


class PowerCutError(Exception):
    """Stands for whatever ends a process."""


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def preempt():
    os.kill(os.getpid(), signal.SIGTERM)


def fail():
    raise PowerCutError


@pytest.fixture
def loops(monkeypatch):
    """Every loop that a trainer makes."""
    made, make = [], Trainer._loop

    def watched(self, checkpoints):
        made.append(make(self, checkpoints))
        return made[-1]

    monkeypatch.setattr(Trainer, "_loop", watched)
    return made


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    """A run that nothing stopped: (last state, lines of its log, best parameters, run.json)."""
    output = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        made, make = [], Trainer._loop
        patch.setattr(Trainer, "_loop", lambda *a: made.append(make(*a)) or made[-1])
        trainer = tiny.trainer(tokenizer, output=output, **SETTINGS)
        run = trainer.fit()
    state = made[0].state._asdict()
    assert len({line["loss"] for line in tiny.lines(output) if line["event"] == "train"}) == 8
    return state, tiny.lines(output), split_model(trainer.model)[1], run


def at_step(monkeypatch, step, do):
    """`do()` right after that step of training, before anything is evaluated or saved."""
    one_step = loop.Loop._one_step

    def stopped(self, batch):
        one_step(self, batch)
        if self.progress.step == step:
            do()

    monkeypatch.setattr(loop.Loop, "_one_step", stopped)


def at_evaluation(monkeypatch, step, do):
    """`do()` in the middle of the evaluation after that step."""
    put = Engine.put_batch
    check = loop.Loop._scores

    def scores(self, evaluation):
        def putting(*args):
            do()
            return put(*args)

        with pytest.MonkeyPatch.context() as patch:
            if self.progress.step == step:
                patch.setattr(Engine, "put_batch", putting)
            return check(self, evaluation)

    monkeypatch.setattr(loop.Loop, "_scores", scores)


def assert_as_if_nothing_happened(output, state, trainer, whole):
    tiny.assert_equal(whole[0], state._asdict())
    assert tiny.lines(output) == whole[1]
    tiny.assert_equal(whole[2], split_model(trainer.model)[1])
    run = tiny.run_json(output)
    for name in ("status", "step", "best", "evaluations"):
        assert run[name] == whole[3][name]
    saved = BertForSequenceClassification.from_pretrained(output)
    tiny.assert_equal(whole[2], split_model(saved)[1])


STOPS = {
    "mid-epoch": (at_step, 2, press_ctrl_c, Interrupted, 2),
    "second epoch": (at_step, 5, press_ctrl_c, Interrupted, 5),
    "end of an epoch": (at_step, 4, press_ctrl_c, Interrupted, 4),
    "before an evaluation": (at_step, 3, press_ctrl_c, Interrupted, 3),
    "in an evaluation": (at_evaluation, 6, press_ctrl_c, Interrupted, 6),
    "after the last step": (at_step, 8, press_ctrl_c, Interrupted, 8),
    "preempted": (at_step, 5, preempt, Preempted, 5),
    "preempted in an evaluation": (at_evaluation, 6, preempt, Preempted, 6),
    "power cut": (at_step, 5, fail, PowerCutError, 3),
    "power cut in an evaluation": (at_evaluation, 6, fail, PowerCutError, 3),
    "power cut at once": (at_step, 1, fail, PowerCutError, None),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_resumed_is_uninterrupted_bit_for_bit(tokenizer, tmp_path, monkeypatch, loops, whole, stop):
    where, step, do, error, saved = stop
    output = tmp_path / "out"
    first = tiny.trainer(tokenizer, output=output, **SETTINGS)
    handlers = [signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        where(patch, step, do)
        with pytest.raises(error):
            first.fit()
    assert [signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)] == handlers
    status = {Interrupted: "interrupted", Preempted: "preempted"}.get(error, "failed")
    run = tiny.run_json(output)
    assert (run["status"], run["step"]) == (status, step)
    checkpoints = Checkpoints(output / "checkpoints")
    assert checkpoints.latest == saved
    checkpoints.close()
    second = tiny.trainer(tokenizer, output=output, resume=True, **SETTINGS)
    assert second.fit()["status"] == "finished"
    assert_as_if_nothing_happened(output, loops[-1].state, second, whole)


def test_stopped_twice_in_one_place(tokenizer, tmp_path, monkeypatch, loops, whole):
    """The evaluation that the first left undone is done by the second and, after a crash, again."""
    output = tmp_path / "out"
    first = tiny.trainer(tokenizer, output=output, **SETTINGS)
    with monkeypatch.context() as patch:
        at_step(patch, 3, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            first.fit()
    second = tiny.trainer(tokenizer, output=output, resume=True, **SETTINGS)
    with monkeypatch.context() as patch:
        at_step(patch, 5, fail)
        with pytest.raises(PowerCutError):
            second.fit()
    last = tiny.trainer(tokenizer, output=output, resume=True, **SETTINGS)
    last.fit()
    assert_as_if_nothing_happened(output, loops[-1].state, last, whole)


def test_the_second_ctrl_c_does_not_wait(tokenizer, tmp_path, monkeypatch):
    def twice():
        press_ctrl_c()
        press_ctrl_c()

    at_step(monkeypatch, 2, twice)
    with pytest.raises(KeyboardInterrupt):
        tiny.trainer(tokenizer, output=tmp_path / "out", **SETTINGS).fit()
    assert tiny.run_json(tmp_path / "out")["status"] == "interrupted"


def test_resuming_a_finished_run_changes_nothing(tokenizer, tmp_path):
    output = tmp_path / "out"
    tiny.trainer(tokenizer, output=output, **SETTINGS).fit()
    lines, model = tiny.lines(output), (output / "model.safetensors").read_bytes()
    run = tiny.trainer(tokenizer, output=output, resume=True, **SETTINGS).fit()
    assert (run["status"], run["step"]) == ("finished", 8)
    assert tiny.lines(output) == lines
    assert (output / "model.safetensors").read_bytes() == model


def test_a_profile_reads_like_the_training(tokenizer, monkeypatch):
    """Each step under its number, its evaluations and checkpoints outside."""
    found, annotation = [], jax.profiler.StepTraceAnnotation

    def watched(name, **values):
        found.append((name, values))
        return annotation(name, **values)

    monkeypatch.setattr(jax.profiler, "StepTraceAnnotation", watched)
    tiny.trainer(tokenizer, epochs=1).fit()
    assert found == [("train", {"step_num": step}) for step in range(4)]


def test_a_rate_far_too_high_is_a_clear_message(tokenizer, tmp_path):
    huge = OptimizerConfig(optimizer="sgd", learning_rate=1e30, schedule="constant", clip_norm=None)
    trainer = tiny.trainer(tokenizer, output=tmp_path / "out", optimizer=huge, checkpoint_every=1)
    with pytest.raises(DivergedError, match="learning rate is too high") as error:
        trainer.fit()
    assert "\n" not in str(error.value)
    run = tiny.run_json(tmp_path / "out")
    assert run["status"] == "diverged"
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(("bad", "evaluation"), [("loss", CLASSES), ("grad_norm", None)])
def test_a_nan_keeps_the_last_good_checkpoint(tokenizer, tmp_path, monkeypatch, bad, evaluation):
    run_step, calls = Compiled.__call__, []

    def broken(self, *args):
        out = run_step(self, *args)
        if isinstance(out, tuple):
            calls.append(1)
            if len(calls) == 6:
                return out[0], out[1] | {bad: np.float32("nan")}
        return out

    monkeypatch.setattr(Compiled, "__call__", broken)
    settings = SETTINGS | {"evaluation": evaluation, "log_every": 100}
    if evaluation is None:
        settings["checkpoint_every"] = settings.pop("eval_every")
    trainer = tiny.trainer(tokenizer, output=tmp_path / "out", **settings)
    message = r"step 6: .*nan.*; the checkpoint of step 3 is kept"
    with pytest.raises(DivergedError, match=message):
        trainer.fit()
    run = tiny.run_json(tmp_path / "out")
    assert run["status"] == "diverged"
    assert [e["step"] for e in run["evaluations"]] == ([3] if evaluation else [])
    assert [p.name for p in (tmp_path / "out" / "checkpoints").iterdir()] == ["3"]


def test_parameters_that_are_not_finite_are_never_saved(tokenizer, tmp_path, monkeypatch):
    """The loss of the step is fine: it is of the parameters before."""
    one_step = loop.Loop._one_step

    def overflow(self, batch):
        one_step(self, batch)
        if self.progress.step == 2:
            bias = self.state.params["head"]["classifier"]["bias"]
            self.state.params["head"]["classifier"]["bias"] = bias * np.inf

    monkeypatch.setattr(loop.Loop, "_one_step", overflow)
    trainer = tiny.trainer(tokenizer, output=tmp_path / "out", checkpoint_every=1)
    with pytest.raises(DivergedError, match=r"parameters are not finite.*step 1 is kept"):
        trainer.fit()


def test_an_evaluation_that_is_not_finite_stops_the_run(tokenizer, tmp_path, monkeypatch):
    scores = {"loss": np.nan, "accuracy": 0.5}
    monkeypatch.setattr(Predictor, "scorer", lambda *_: lambda params: scores)
    trainer = tiny.trainer(tokenizer, output=tmp_path / "out", **SETTINGS)
    with pytest.raises(DivergedError, match="evaluation after step 3: loss nan"):
        trainer.fit()
    assert tiny.run_json(tmp_path / "out")["status"] == "diverged"


@pytest.mark.parametrize("evaluation", [None, CLASSES])
@pytest.mark.parametrize("output", [None, "out"])
def test_weights_that_are_finite_and_no_model_are_no_success(
    tokenizer, tmp_path, evaluation, output
):
    """A rate at which the loss stays a number, and the weights grow without bound."""
    high = OptimizerConfig(optimizer="sgd", learning_rate=1e4, clip_norm=1.0, schedule="constant")
    where = output and tmp_path / output
    trainer = tiny.trainer(tokenizer, output=where, optimizer=high, evaluation=evaluation, epochs=1)
    with pytest.raises(DivergedError, match=r"parameters are .*e\+.* times as large as before"):
        trainer.fit()
    if where:
        assert tiny.run_json(where)["status"] == "diverged"


def test_a_rate_that_is_only_bad_is_no_divergence(tokenizer):
    bad = OptimizerConfig(learning_rate=1.0, schedule="constant")
    assert tiny.trainer(tokenizer, optimizer=bad).fit()["status"] == "finished"


def test_the_task_and_why_are_said_once(tokenizer, caplog):
    caplog.set_level("INFO", "jaxbert")
    tiny.trainer(tokenizer)
    assert caplog.messages == ["task text-classification: as the model is made for"]


def test_a_signal_while_garbage_is_collected_is_not_lost():
    def _xla_gc_callback():
        preempt()
        return "heard nothing"

    with Interruption() as interruption, interruption.at_once():
        assert _xla_gc_callback() == "heard nothing"
        with pytest.raises(Preempted):
            time.sleep(10)
