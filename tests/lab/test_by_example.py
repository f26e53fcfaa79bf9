"""What is kept of every example: bits there and back, and calibration by hand."""

import dataclasses

import numpy as np
import pytest
import tiny

from jaxbert.errors import InputError
from jaxbert.lab.by_example import by_example, calibration_error, pack, unpack
from jaxbert.tasks.task import Predicted


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1051])
def test_bits_come_back(count):
    correct = np.random.default_rng(count).random(count) < 0.7
    assert unpack(pack(correct), count).tolist() == correct.tolist()
    assert len(pack(correct)) <= 4 * (count // 24 + 1)


def test_what_is_no_such_text_is_named():
    with pytest.raises(InputError, match="1 bytes, want a bit for each of 9 examples"):
        unpack(pack(np.ones(8, bool)), 9)
    for text in ("no base 64!", 3, None):
        with pytest.raises(InputError, match="is no base 64"):
            unpack(text, 8)


def test_calibration_by_hand():
    # Two of three right at .9, none of one at .6: |2 - 2.7| / 4 + |0 - .6| / 4.
    sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.4, 0.6]])
    labels = np.array([0, 1, 1, 0])
    assert calibration_error(sure, labels) == pytest.approx((0.7 + 0.6) / 4)
    assert calibration_error(np.eye(3), np.arange(3)) == 0
    # In one bin errors of both signs cancel: (1 - .9) + (0 - .9) + 8 (1 - .9) over 10.
    ten = np.tile([0.9, 0.1], (10, 1))
    assert calibration_error(ten, np.array([1] + [0] * 9)) == pytest.approx(0)


def test_a_prediction_of_classes_is_kept():
    labels = tiny.CLASSES.labels
    logits = np.where(np.arange(2) == labels[:, None], 2.0, -2.0).astype(np.float32)
    logits[3] *= -1
    tokenized = type("Tokenized", (), {"example_of": None})()
    found = by_example(Predicted(tiny.CLASSES, tokenized, {"logits": logits}))
    assert unpack(found["correct"], len(labels)).tolist() == [i != 3 for i in range(len(labels))]
    sure = 1 / (1 + np.exp(-4))
    assert found["ece"] == pytest.approx(abs(12 / 13 - sure), rel=1e-5)
    shares = dataclasses.replace(tiny.CLASSES, labels=np.eye(2, dtype=np.float32)[labels])
    assert by_example(Predicted(shares, tokenized, {"logits": logits})) == found


def test_of_numbers_nothing_is_kept():
    assert by_example(Predicted(tiny.NUMBERS, None, {"logits": np.zeros((13, 1))})) is None
