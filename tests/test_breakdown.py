"""Where a step's time goes, as `benchmarks.breakdown` finds it."""

import numpy as np
import pytest
from flax import nnx

from benchmarks import breakdown
from jaxbert.models import BertConfig, BertForSequenceClassification
from jaxbert.tasks import TEXT_CLASSIFICATION
from jaxbert.training.assemble import assemble
from jaxbert.training.config import TrainConfig
from jaxbert.training.engines import make_engine


def test_operations_at_the_same_time_share_it():
    events = [(0.0, 4.0, "a"), (2.0, 4.0, "b"), (5.0, 6.0, "a")]
    assert breakdown.shared_time(events) == {"a": 4.0, "b": 1.0, breakdown.NOTHING: 1.0}


@pytest.fixture(scope="module")
def text():
    """Of the training step of a small model."""
    config = BertConfig(
        vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=64,
    )  # fmt: skip
    model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
    training = TrainConfig(batch_size=4, max_length=64)
    assembled = assemble(model, TEXT_CLASSIFICATION, training, make_engine(), 10)
    ids = np.ones((4, 64), np.int32)
    one = np.ones((4, 1), np.int32)
    batch = {
        "input_ids": ids, "segment_ids": ids, "segment_starts": 0 * one,
        "labels": 0 * one, "weights": one.astype(np.float32), "token_index": ids.astype(np.uint32),
    }  # fmt: skip
    rates = {group: np.float32(1e-4) for group in assembled.plan.peaks}
    assembled.step(assembled.state, batch, rates)
    (program,) = assembled.step.programs.values()
    return program.call.as_text()


def test_every_operation_has_a_part(text):
    found = breakdown.parts_of(text)
    assert set(found.values()) <= set(breakdown.LABELS)
    # The program has some of each, but what runs nothing.
    assert set(breakdown.LABELS) - set(found.values()) <= {breakdown.NOTHING, "biases, rounding"}


def test_products_by_what_they_multiply(text):
    """By hand: 2 layers of 6 kernels, pooler and classifier, forward, and backward twice."""
    products = "\n".join(line for line in text.splitlines() if " dot(" in line)
    labels = [*breakdown.parts_of(products).values()]
    assert labels.count(breakdown.PRODUCTS) == 3 * (2 * 6 + 2)
    # The last layer's have one query a row, and not all stay products.
    assert 6 <= labels.count(breakdown.ATTENTION) <= 2 * 6
