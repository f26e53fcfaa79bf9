"""One bit flipped in a file of a run's directory: named, or harmless; never a traceback.

JAXBERT_FAULTS=all flips one in every file, else in some. A weight of model.safetensors is the
exception: the format has no checksum, and a number that is another is a number.
"""

import os
import random
import shutil
import time

import pytest
import tiny

from jaxbert.data import load_tokenizer
from jaxbert.errors import JaxbertError
from jaxbert.models import BertForSequenceClassification, split_model
from jaxbert.training.events import Events
from jaxbert.training.loop import Loop

SOME = None if os.environ.get("JAXBERT_FAULTS") == "all" else 6
SETTINGS = dict(evaluation=tiny.CLASSES, epochs=2, batch_size=8, checkpoint_every=1)


@pytest.fixture(scope="module")
def stopped(tokenizer, tmp_path_factory):
    """(a run that has stopped half-way, the parameters with which it ends)."""
    root = tmp_path_factory.mktemp("flipped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_is_over", lambda self: self.progress.step >= 3)
        tiny.trainer(tokenizer, output=root / "half", **SETTINGS).fit()
    tiny.trainer(tokenizer, output=root / "whole", **SETTINGS).fit()
    return root / "half", params(root / "whole")


def params(directory):
    return split_model(BertForSequenceClassification.from_pretrained(directory))[1]


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def test_a_flipped_bit_is_named_or_harmless(tokenizer, stopped, tmp_path):
    half, whole = stopped
    rng = random.Random(3)
    files = sorted(path for path in half.rglob("*") if path.is_file() and path.stat().st_size)
    assert len(files) > 20
    ended = 0
    for path in rng.sample(files, SOME or len(files)):
        output = shutil.copytree(half, tmp_path / str(len(list(tmp_path.iterdir()))))
        flip(output / path.relative_to(half), rng)
        try:
            load_tokenizer(output)
            params(output)
            tiny.trainer(tokenizer, output=output, resume=True, **SETTINGS).fit()
        except (JaxbertError, OSError) as error:
            assert str(error).strip(), path  # noqa: PT017
            continue
        if path.name != "model.safetensors":  # which stays where the best model was the one so far
            tiny.assert_equal(params(output), whole)
        ended += 1
    assert ended


def test_a_clock_that_was_set_back(tokenizer, stopped, tmp_path, monkeypatch):
    """The run goes on, and its events stay in order."""
    half, whole = stopped
    output = shutil.copytree(half, tmp_path / "out")
    before = sorted(path.name for path in (output / "tensorboard").iterdir())
    monkeypatch.setattr(time, "time", lambda: 1e9)
    tiny.trainer(tokenizer, output=output, resume=True, **SETTINGS).fit()
    after = sorted(path.name for path in (output / "tensorboard").iterdir())
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    tiny.assert_equal(params(output), whole)


def test_two_files_of_events_in_one_second(tmp_path):
    for step in (1, 2, 3):
        Events(tmp_path / "tensorboard", step).close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3
