"""Averages, the start, SAM, Muon and low rank in a training: anywhere alike, resumed exactly."""

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from task_checks import SHAPE, assert_resumes
from tolerance import assert_losses_alike, assert_trained_alike, network_terms

from jaxbert.data import Batches
from jaxbert.models import BertConfig, BertForSequenceClassification, split_model
from jaxbert.optim import OptimizerConfig, RatePlan
from jaxbert.tasks import TEXT_CLASSIFICATION
from jaxbert.training import Trainer
from jaxbert.training.engines import Compiled, make_engine
from jaxbert.training.step import init_state, make_train_step

STEPS = 4
SGD = dict(optimizer="sgd", learning_rate=0.03, schedule="constant", layer_decay=0.8)
# What goes together is tested together: one program for several.
METHODS = {
    "start, uphill and average": OptimizerConfig(
        **SGD, anchor_decay=2.0, mixout=0.5, sam_radius=0.05, ema_decay=0.5
    ),
    "schedule-free": OptimizerConfig("schedule-free-adamw", 1e-3, "constant", layer_decay=0.8),
    "muon": OptimizerConfig("muon", 1e-3, "constant", layer_decay=0.8),
    "low rank": OptimizerConfig(
        **SGD, lora_rank=2, ema_decay=0.5, frozen=["embeddings", ".*/(bias|scale)"]
    ),
}
ELSEWHERE = {
    "pmap, accumulated": dict(engine=("pmap", None, 2), accumulation=2),
    "mesh": dict(engine=("mesh", "data=2,fsdp=4", 8)),
}


@pytest.fixture(scope="module")
def network():
    config = BertConfig(**SHAPE, num_labels=2)
    return BertForSequenceClassification(config, rngs=nnx.Rngs(0))


def train(network, tokenized, optimizer, *, engine=("jit", None, 1), accumulation=1):
    """(losses [T], {path: what is evaluated at the end})."""
    name, mesh, devices = engine
    chosen = make_engine(name, mesh, jax.devices()[:devices])
    graphdef, params = split_model(network)
    plan = RatePlan.make(optimizer, params, STEPS, 2)
    step = make_train_step(
        graphdef, plan, TEXT_CLASSIFICATION, accumulation=accumulation, shard=chosen.shard
    )
    state = chosen.put_state(init_state(jax.tree.map(np.copy, params), plan.optimizer, 3))
    step = Compiled(step, chosen, donate=True)
    batches = Batches(
        tokenized, 8, max_length=16, shuffle=True, seed=1, row_multiple=chosen.parts * accumulation
    )
    losses = []
    while len(losses) < STEPS:
        for batch in batches.epoch(len(losses) // 2):
            state, values = step(state, chosen.put_batch(batch))
            losses.append(float(values["loss"]))
    return losses, tiny.leaves(chosen.gather(plan.evaluated(state.opt_state, state.params)))


@pytest.fixture(scope="module")
def alone(network, tokenized):
    """The runs on one device."""
    return {name: train(network, tokenized, config) for name, config in METHODS.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ELSEWHERE)
def test_a_method_trains_alike_everywhere(network, tokenized, alone, method, how):
    config = METHODS[method]
    losses, params = train(network, tokenized, config, **ELSEWHERE[how])
    terms = network_terms(network.config, 16, gradient=True)
    adam = config.optimizer != "sgd"
    assert len(set(losses)) == STEPS
    assert_losses_alike(losses, alone[method][0], terms=terms, adam=adam)
    assert_trained_alike(
        params, alone[method][1], tiny.leaves(split_model(network)[1]), terms=terms, steps=STEPS,
        adam_rate=config.learning_rate if adam else None,
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_resumed_as_if_never_stopped(tokenizer, network, tmp_path, method):
    def make(output, resume):
        return tiny.trainer(
            tokenizer, output=output, resume=resume, network=network, optimizer=METHODS[method],
            evaluation=tiny.CLASSES, epochs=2, checkpoint_every=3,
        )  # fmt: skip

    assert_resumes(make, tmp_path)


@pytest.mark.parametrize("method", ["start, uphill and average", "schedule-free"])
@pytest.mark.parametrize("evaluation", [None, tiny.CLASSES], ids=["last", "best"])
def test_what_is_saved_is_the_average(
    tokenizer, network, tmp_path, monkeypatch, method, evaluation
):
    loops, make = [], Trainer._loop
    monkeypatch.setattr(Trainer, "_loop", lambda *args: loops.append(make(*args)) or loops[-1])
    trainer = tiny.trainer(
        tokenizer, output=tmp_path / "out", network=network, optimizer=METHODS[method],
        epochs=1, evaluation=evaluation,
    )  # fmt: skip
    trainer.fit()
    plan = RatePlan.make(METHODS[method], split_model(network)[1], 4, 4)
    state = loops[0].state
    average = plan.evaluated(state.opt_state, state.params)
    saved = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    for found in (split_model(saved)[1], split_model(trainer.model)[1]):
        for path, wanted in tiny.leaves(average).items():
            np.testing.assert_allclose(tiny.leaves(found)[path], wanted, rtol=1e-6, atol=1e-7)
    trained = tiny.leaves(state.params)["head/classifier/kernel"]
    assert np.abs(tiny.leaves(average)["head/classifier/kernel"] - trained).max() > 1e-5
    if evaluation is not None:  # and scored
        score = trainer.evaluate(evaluation)["loss"]
        assert loops[0].progress.history[-1]["loss"] == pytest.approx(score, rel=1e-6)
