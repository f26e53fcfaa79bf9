"""The plan: rates by hand, what trains, and which plans share a compiled step."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbert.errors import InputError
from jaxbert.optim import OptimizerConfig, RatePlan, leaf_labels, make_optimizer
from jaxbert.optim.groups import make_groups


def test_its_parts_are_of_one_making(params):
    config = OptimizerConfig(layer_decay=0.5, frozen=["embeddings"])
    plan = RatePlan.make(config, params, total_steps=20, steps_per_epoch=6)
    assert (plan.config, plan.total_steps, plan.steps_per_epoch) == (config, 20, 6)
    assert plan.labels == leaf_labels(params)
    assert plan.groups == make_groups(config, plan.labels)
    assert list(plan.groups) == list(plan.peaks) == list(plan.schedules)
    gradients = jax.tree.map(np.ones_like, params)
    chex.assert_trees_all_equal(*(
        optimizer.update(gradients, optimizer.init(params), params)
        for optimizer in (plan.optimizer, make_optimizer(config, params, 20, 6))
    ))  # fmt: skip


def test_shapes_are_enough(params):
    config = OptimizerConfig(unfreezing=1, frozen=[".*/bias"])
    shapes = jax.eval_shape(lambda: params)
    plans = [RatePlan.make(config, tree, 20, 6) for tree in (params, shapes)]
    for name in ("labels", "groups", "peaks", "program_key"):
        assert getattr(plans[0], name) == getattr(plans[1], name)
    chex.assert_trees_all_equal(plans[0].trainable, plans[1].trainable)


def test_a_plan_cannot_be_changed(params):
    plan = RatePlan.make(OptimizerConfig(), params, 20, 6)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.total_steps = 30
    assert plan == plan
    assert plan != RatePlan.make(OptimizerConfig(), params, 20, 6)  # by identity, so it hashes
    assert plan in {plan}


def test_trainable(make_params):
    params = make_params(int_keys=True)
    config = OptimizerConfig(frozen=["embeddings", ".*/0/.*/bias"], unfreezing={"pooler": 100})
    trainable = RatePlan.make(config, params, 20, 6).trainable
    chex.assert_trees_all_equal_structs(trainable, params)
    encoder = trainable["encoder"]
    assert encoder["embeddings"]["layer_norm"] == {"bias": False, "scale": False}
    assert encoder["layers"][0]["output"] == {"bias": False, "kernel": True}
    assert encoder["layers"][1]["output"] == {"bias": True, "kernel": True}
    assert encoder["pooler"] == {"bias": True, "kernel": True}  # asleep is not frozen
    assert trainable["head"]["classifier"] == {"bias": True, "kernel": True}
    assert {type(leaf) for leaf in jax.tree.leaves(trainable)} == {bool}


def test_rates_by_hand(params):
    config = OptimizerConfig(
        learning_rate=0.1,
        layer_decay=0.5,
        warmup=4,
        unfreezing=[("layer_0", 1), ("pooler", 0.25)],
        frozen=["embeddings"],
    )
    plan = RatePlan.make(config, params, total_steps=20, steps_per_epoch=6)
    assert list(plan.schedules) == ["embeddings", "layer_0", "layer_1", "pooler", "head"]
    factor = [t / 4 if t < 4 else (20 - t) / 16 for t in range(21)]
    # A quarter of 6 steps is 1.5, which rounds to 2.
    first = {"layer_0": 6, "layer_1": 0, "pooler": 2, "head": 0}
    peak = {"layer_0": 0.025, "layer_1": 0.05, "pooler": 0.1, "head": 0.1}
    for name, at in first.items():
        wanted = [peak[name] * f * (t >= at) for t, f in enumerate(factor)]
        got = np.asarray(plan.schedules[name](jnp.arange(21)))
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
        assert (got[:at] == 0).all()
        assert float(plan.schedules[name](7)) == got[7]
    assert not np.any(plan.schedules["embeddings"](jnp.arange(21)))
    assert plan.peaks == peak | {"embeddings": 0}


@pytest.mark.parametrize(
    ("total", "per_epoch", "message"),
    [
        (0, 6, "total_steps=0 must be"),
        (20, 0, "steps_per_epoch=0 must be a whole number, at least 1"),
        (20, 2.5, "steps_per_epoch=2.5 must be a whole number"),
        (5, 6, "warmup=5 steps of total_steps=5 leave none"),
    ],
)
def test_a_run_that_cannot_be_planned(params, total, per_epoch, message):
    with pytest.raises(InputError, match=message):
        RatePlan.make(OptimizerConfig(warmup=5), params, total, per_epoch)


def test_the_shortest_run_can_be_planned(params):
    plan = RatePlan.make(OptimizerConfig(), params, total_steps=1, steps_per_epoch=1)
    assert float(plan.schedules["head"](0)) == np.float32(5e-5)


# --- program_key

BASE = OptimizerConfig(optimizer="lamb", unfreezing={"layer_0": 1})
# For each field another value, and whether a step compiled for `BASE` serves it.
FIELDS = {
    "optimizer": ("adamw", False),
    "learning_rate": (1.0, True),
    "schedule": ("cosine", True),
    "schedule_options": ({"end": 0.5}, True),
    "warmup": (3, True),
    "layer_decay": (0.5, True),
    "convention": ("sun2019", True),
    "head_multiplier": (3.0, True),
    "multipliers": ({".*/bias": 2.0}, False),  # other groups
    "frozen": (["embeddings"], False),
    "unfreezing": ({"layer_0": 2}, False),
    "reinitialize_layers": (1, True),
    "weight_decay": (0.5, False),
    "clip_norm": (None, False),
    "beta1": (0.5, False),
    "beta2": (0.5, False),
    "epsilon": (1e-3, False),
    "bias_correction": (False, False),
    "anchor_decay": (1.0, False),
    "mixout": (0.5, False),
    "sam_radius": (0.1, False),
    "ema_decay": (0.9, False),
    "lora_rank": (2, False),
    "lora_alpha": (4.0, False),
    "lora_targets": (["encoder/pooler/kernel"], False),
}
# Where `BASE` does not go together with the field.
OTHER_BASE = {
    "sam_radius": dataclasses.replace(BASE, unfreezing=0),
    **dict.fromkeys(("lora_alpha", "lora_targets"), dataclasses.replace(BASE, lora_rank=2)),
}


def test_no_field_is_left_out():
    assert list(FIELDS) == [field.name for field in dataclasses.fields(OptimizerConfig)]


@pytest.mark.parametrize("name", FIELDS)
def test_plans_that_differ_in_rates_alone_share_a_program(params, name):
    value, shared = FIELDS[name]
    base = OTHER_BASE.get(name, BASE)
    other = dataclasses.replace(base, **{name: value})
    assert other != base
    keys = [RatePlan.make(config, params, 20, 6).program_key for config in (base, other)]
    assert (keys[0] == keys[1]) == shared
    assert isinstance(json.loads(keys[1]), dict)


@pytest.mark.parametrize(("unfreezing", "shared"), [(0, True), (0.5, False), ({"head": 1}, False)])
def test_steps_per_epoch_count_only_where_groups_wake(params, unfreezing, shared):
    config = OptimizerConfig(unfreezing=unfreezing)
    keys = {RatePlan.make(config, params, 20, steps).program_key for steps in (6, 7)}
    assert (len(keys) == 1) == shared


def test_the_length_of_a_run_is_in_its_rates(params):
    assert len({RatePlan.make(BASE, params, total, 6).program_key for total in (20, 30)}) == 1


def test_the_optimizers_of_one_key_are_the_same_function(lean_params):
    """What `FIELDS` says is shared, all at once: one plan's optimizer under another's rates."""
    changes = {name: value for name, (value, shared) in FIELDS.items() if shared}
    plans = [
        RatePlan.make(config, lean_params, total, 2)
        for config, total in ((BASE, 20), (dataclasses.replace(BASE, **changes), 9))
    ]
    assert plans[0].program_key == plans[1].program_key
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda p: np.float32(rng.normal(size=p.shape)), lean_params)
    states = [plan.optimizer.init(lean_params) for plan in plans]
    for step in (0, 2, 4):
        rates = {name: rate(step) for name, rate in plans[1].schedules.items()}
        updates = []
        for i, plan in enumerate(plans):
            update, states[i] = plan.optimizer.update(
                gradients, states[i], lean_params, learning_rates=rates
            )
            updates.append(update)
        chex.assert_trees_all_equal(*updates)
        chex.assert_trees_all_equal(*states)
