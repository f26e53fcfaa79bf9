"""What every task is held to: one step however it is laid out, wherever it runs; exact resuming."""

import jax
import numpy as np
import pytest
import tiny
from tolerance import assert_close, assert_gradients_close, network_terms

from jaxbert.data import Batches
from jaxbert.models import split_model
from jaxbert.optim import RatePlan
from jaxbert.training.engines import Compiled, make_engine
from jaxbert.training.step import init_state, make_train_step

DROPPING = dict(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
# One layer compiles in half the time of two; so tall a table a mesh looks up in its shards.
SHAPE = tiny.SHAPE | {"num_hidden_layers": 1, "vocab_size": 16 * tiny.SHAPE["hidden_size"]}


def one_step(model, task, tokenized, layout, *, batch_size=8, accumulation=1, engine=None):
    """(loss, count, gradient) of the first batch; plain SGD moves by the gradient."""
    graphdef, params = split_model(model)
    engine = engine or make_engine("jit")
    plan = RatePlan.make(tiny.PLAIN, params, 10, 2)
    step = make_train_step(graphdef, plan, task, accumulation=accumulation, shard=engine.shard)
    parts = engine.parts * accumulation
    batches = Batches(tokenized, batch_size, max_length=16, layout=layout, row_multiple=parts)
    batch = next(batches.epoch(0))
    if layout == "packed" and parts <= 4:
        assert (batch["segment_ids"] > tokenized.width).any()  # rows are shared
    state = engine.put_state(init_state(jax.tree.map(np.copy, params), plan.optimizer, 3))
    after, values = Compiled(step, engine)(state, engine.put_batch(batch))
    moved = jax.tree.map(
        lambda a, b: np.asarray(a) - np.asarray(b), params, engine.gather(after.params)
    )
    return float(values["loss"]), float(values["count"]), tiny.leaves(moved)


def assert_one_step(model, task, tokenized, ways, **own):
    """The first step is the same packed and padded, accumulated, and on several devices.

    Returns it, padded.
    """
    first = one_step(model, task, tokenized, "padded", **own)
    loss, count, gradient = first
    assert max(np.abs(leaf).max() for leaf in gradient.values()) > 0.01
    options = {
        "packed": {},
        "accumulated": {"accumulation": 2},
        "pmap, accumulated": {
            "engine": make_engine("pmap", devices=jax.devices()[:2]),
            "accumulation": 2,
        },
        "mesh": {"engine": make_engine("mesh", "data=2,fsdp=4")},
    }
    terms = network_terms(model.config, 16, gradient=True)
    for way in ways:
        other = one_step(model, task, tokenized, "packed", **options[way], **own)
        assert_close(other[1], count, terms=terms, what=f"{way}: count")
        assert_close(other[0], loss, terms=terms, what=f"{way}: loss")
        assert_gradients_close(other[2], gradient, terms=terms, floor=1.0, what=way)
    return first


def assert_resumes(make, output, *, at=3):
    """A run stopped after a step and resumed is the uninterrupted one, bit for bit.

    Args:
      make: (output, resume) -> a trainer.

    Returns the trainer of the uninterrupted one.
    """
    whole = make(output / "whole", False)
    whole.fit()
    with tiny.stopped_after(at), pytest.raises(KeyboardInterrupt):
        make(output / "stopped", False).fit()
    resumed = make(output / "stopped", True)
    resumed.fit()
    tiny.assert_equal(split_model(resumed.model)[1], split_model(whole.model)[1])
    assert tiny.lines(output / "stopped") == tiny.lines(output / "whole")
    return whole
