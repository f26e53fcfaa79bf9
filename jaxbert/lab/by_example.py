"""What of a run's answers is kept of every test example: right or wrong, in a bit; calibration."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbert.errors import InputError

if TYPE_CHECKING:
    from jaxbert.tasks.task import Predicted

BINS = 15  # of confidence, as in Guo et al. 2017


def by_example(predicted: Predicted) -> dict[str, Any] | None:
    """{"correct": which answers are right, "ece": the calibration error}, for a journal.

    None where an example has no single answer that is right or wrong: where its label is no class.
    """
    from jaxbert.tasks import TEXT_CLASSIFICATION
    from jaxbert.tasks.text_classification import pooled_logits, probabilities

    if predicted.examples.task != TEXT_CLASSIFICATION.name:
        return None
    found, labels = probabilities(pooled_logits(predicted)), np.asarray(predicted.examples.labels)
    if labels.ndim == 2:  # shares
        labels = labels.argmax(axis=1)
    correct = pack(found.argmax(axis=1) == labels)
    return {"correct": correct, "ece": calibration_error(found, labels)}


def pack(correct: np.ndarray) -> str:
    """[N] bool as text: eight to a byte, the first the highest bit, in base 64.

    Example:
      >>> pack(np.array([True, False, True, True])), unpack("sA==", 4).tolist()
      ('sA==', [True, False, True, True])
    """
    return base64.b64encode(np.packbits(np.asarray(correct, bool)).tobytes()).decode()


def unpack(text: str, count: int) -> np.ndarray:
    """[count] bool from what `pack` wrote.

    Raises:
      InputError: it is of another number of examples, or nothing that `pack` writes.
    """
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except (binascii.Error, TypeError, ValueError) as error:
        raise InputError(f"correct={text!r:.40} is no base 64: {error}") from None
    if len(packed) != -(-count // 8):
        raise InputError(f"correct: {len(packed)} bytes, want a bit for each of {count} examples")
    return np.unpackbits(packed, count=count).astype(bool)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: how far confidence is from accuracy, the mean over examples.

    Examples are sorted into bins of equal width by the probability of the answer; of each bin the
    distance of the two means counts, by the bin's share (Guo et al. 2017, equation 3).

    Args:
      probabilities: [N, C], of classes.
      labels: [N] int, of classes.
      bins: how many.

    Example:
      >>> always = np.array([[0.9, 0.1]] * 4)  # sure by .9, and right in three of four
      >>> round(calibration_error(always, np.array([0, 0, 0, 1])), 3)
      0.15
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
