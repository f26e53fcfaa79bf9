"""Every family's training step: one thing however it is laid out, on whatever engine, resumed."""

import jax
import numpy as np
import pytest
import tiny
import tiny_families
from flax import nnx
from tiny_families import OWN
from tolerance import assert_close, assert_gradients_close, network_terms

import jaxbert
from jaxbert.data import Batches
from jaxbert.models import split_model
from jaxbert.models.auto import FAMILIES, config_class, model_class
from jaxbert.optim import RatePlan
from jaxbert.tasks import TEXT_CLASSIFICATION
from jaxbert.training.checkpoint import Checkpoints
from jaxbert.training.engines import Compiled, make_engine
from jaxbert.training.step import init_state, make_train_step


def test_every_family_is_here():
    assert {*OWN, "bert"} == set(FAMILIES)  # which test_train_step and test_engines have


def network(family):
    model = model_class(family, "ForSequenceClassification")
    return split_model(model(tiny_families.config(family), rngs=nnx.Rngs(0)))


def one_step(network, tokenized, layout, *, accumulation=1, engine=None):
    """(loss, gradient, state, batch, step) of the first batch; plain SGD moves by the gradient."""
    graphdef, params = network
    engine = engine or make_engine("jit")
    plan = RatePlan.make(tiny.PLAIN, params, 10, 2)
    step = make_train_step(
        graphdef, plan, TEXT_CLASSIFICATION, accumulation=accumulation, shard=engine.shard
    )
    parts = engine.parts * accumulation
    batch = next(Batches(tokenized, 8, max_length=16, layout=layout, row_multiple=parts).epoch(0))
    if layout == "packed" and parts < 4:
        assert batch["segment_starts"].shape[1] > 1  # rows are shared
    run = Compiled(step, engine)
    state = engine.put_state(init_state(jax.tree.map(np.copy, params), plan.optimizer, 3))
    batch = engine.put_batch(batch)
    after, values = run(state, batch)
    moved = jax.tree.map(
        lambda a, b: np.asarray(a) - np.asarray(b), params, engine.gather(after.params)
    )
    return float(values["loss"]), tiny.leaves(moved), after, lambda state: run(state, batch)


@pytest.mark.parametrize("family", OWN)
def test_layouts_engines_and_resuming_change_nothing(tokenized, tmp_path, family):
    made = network(family)
    config = config_class(family)(**tiny.SHAPE | OWN[family])
    terms = network_terms(config, 16, gradient=True)
    loss, gradient, after, again = one_step(made, tokenized, "padded")
    assert max(np.abs(leaf).max() for leaf in gradient.values()) > 0.01
    others = {
        "packed": one_step(made, tokenized, "packed"),
        "accumulated": one_step(made, tokenized, "packed", accumulation=2),
        "pmap": one_step(
            made, tokenized, "packed", engine=make_engine("pmap", devices=jax.devices()[:2])
        ),
        "mesh": one_step(made, tokenized, "packed", engine=make_engine("mesh", "data=2,fsdp=4")),
    }
    for what, (other_loss, other, _, _) in others.items():
        assert_close(other_loss, loss, terms=terms, what=what)
        assert_gradients_close(other, gradient, terms=terms, floor=1.0, what=what)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(after, {})
    restored, _ = checkpoints.restore(after)
    checkpoints.close()
    tiny.assert_equal(again(restored), again(after))


def test_every_leaf_has_a_label_and_shared_layers_one():
    for family in FAMILIES:
        if family == "bert":
            continue
        _, params = network(family)
        plan = RatePlan.make(jaxbert.OptimizerConfig(layer_decay=0.5), params, 10, 5)
        layers = {label for label in plan.peaks if label.startswith("layer_")}
        config = config_class(family)(**tiny.SHAPE | OWN[family])
        assert len(layers) == config.num_layer_groups
        assert {"embeddings", "head"} <= set(plan.peaks)
