"""What a training tells those who listen, and what its model card tells everybody."""

import huggingface_hub
import pytest
import tiny
import yaml

from jaxbert import Callback
from jaxbert.errors import InputError
from jaxbert.training import hub
from jaxbert.training.card import model_card, plain


class Listener(Callback):
    def __init__(self):
        self.told = []

    def on_log(self, step, values):
        self.told.append(("train", step, values["loss"]))

    def on_evaluate(self, step, scores):
        self.told.append(("eval", step, scores["accuracy"]))

    def on_checkpoint(self, step, directory):
        self.told.append(("checkpoint", step, directory))


@pytest.fixture(scope="module")
def finished(tokenizer, tmp_path_factory):
    listener, output = Listener(), tmp_path_factory.mktemp("card") / "run"
    trainer = tiny.trainer(tokenizer, output=output, evaluation=tiny.CLASSES, callbacks=[listener])
    trainer.fit()
    return listener, output


def test_callbacks_hear_what_is_written(finished):
    listener, output = finished
    written = [
        (line["event"], line["step"], line["loss" if line["event"] == "train" else "accuracy"])
        for line in tiny.lines(output)
    ]
    assert [told for told in listener.told if told[0] != "checkpoint"] == written
    steps = {"train": 12, "eval": 3, "checkpoint": 3}
    assert {k: sum(told[0] == k for told in listener.told) for k in steps} == steps
    for kind, step, directory in listener.told:
        if kind == "checkpoint":
            assert (directory / "checkpoints" / str(step)).is_dir() or step == 4  # two are kept


def test_what_a_callback_raises_ends_the_training(tokenizer):
    class Stop(Callback):
        def on_log(self, step, values):
            raise RuntimeError(f"enough at {step}")

    with pytest.raises(RuntimeError, match="enough at 1"):
        tiny.trainer(tokenizer, callbacks=[Stop()]).fit()


def test_the_card_says_what_was_done(finished):
    _, output = finished
    text = (output / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "jaxbert", "pipeline_tag": "text-classification", "tags": ["jax", "flax"]
    }  # fmt: skip
    run = tiny.run_json(output)
    best = next(e for e in run["evaluations"] if e["step"] == run["best"]["step"])
    assert f"| evaluation | {best['loss']:.4f} | {best['accuracy']:.4f} |" in body
    assert f"| train | films.csv | 13 | `{tiny.CLASSES.fingerprint[:16]}` |" in body
    assert "12 updates of 4 examples, at most 16 tokens each, 3 epochs, seed 5" in body
    assert "times 0.9 for each layer" in body


def test_no_name_becomes_markup(finished):
    run = tiny.run_json(finished[1])
    evil = "<script>a|b`*[x](http://y)\n# no"
    run |= {"model": evil, "strategy": evil, "scores": {evil: {evil: 0.5}}}
    run["data"]["train"]["source"] = evil
    body = model_card(run).split("---\n", 2)[2]
    assert "<script>" not in body
    assert "\n# no" not in body
    for row in body.splitlines():
        if row.startswith("| "):
            assert len(row.replace("\\|", "").split("|")) in (4, 6)
    assert plain("a_b") == "a\\_b"


class Hub:
    """In place of the hub."""

    def __init__(self, calls, user="somebody"):
        self.calls, self.user = calls, user

    def whoami(self):
        if self.user is None:
            raise huggingface_hub.errors.LocalTokenNotFoundError("no token")
        return {"name": self.user}

    def create_repo(self, repository, **options):
        self.calls.append(("create", repository, options))

    def upload_folder(self, **options):
        folder = options["folder_path"]
        names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
        kept = huggingface_hub.utils.filter_repo_objects(
            names, ignore_patterns=options["ignore_patterns"]
        )
        self.calls.append(("upload", options["repo_id"], sorted(kept)))


def test_a_finished_run_is_copied_to_a_hub(finished, monkeypatch):
    calls = []
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(calls))
    hub.check_repository("owner/name")
    assert hub.push(finished[1], "owner/name") == "https://huggingface.co/owner/name"
    assert calls[0] == ("create", "owner/name", {"private": True, "exist_ok": True})
    names = calls[1][2]
    assert {"README.md", "config.json", "model.safetensors", "run.json"} <= set(names)
    assert not [name for name in names if name.startswith(("checkpoints", "run.lock"))]


def test_who_may_not_copy_is_told_before_the_work(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub([], user=None))
    with pytest.raises(PermissionError, match="nobody is logged in at the hub"):
        hub.check_repository("owner/name")
    with pytest.raises(InputError, match="push_to_hub='a b': want OWNER/NAME"):
        hub.check_repository("a b")
