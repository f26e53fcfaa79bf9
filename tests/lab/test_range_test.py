"""The range test on curves whose steepest fall is known, and on a real, tiny training."""

import jax
import numpy as np
import pytest
import tiny

from jaxbert.data import load_tokenizer
from jaxbert.lab.range_test import analyse, describe, range_test
from jaxbert.models import split_model
from jaxbert.training import TrainConfig

RATES = np.geomspace(1e-6, 1e-1, 200)


def curve(rates, middle=1e-3, explodes=3e-2, noise=0.0, seed=0):
    """Falls from 1 to 0.5 around `middle`, explodes at `explodes`."""
    fall = 1 - 0.5 / (1 + np.exp(-4 * np.log(rates / middle)))
    fall = fall + noise * np.random.default_rng(seed).normal(size=len(rates))
    return np.where(rates < explodes, fall, 9.0)


def test_finds_the_steepest_fall_and_the_explosion():
    rise = analyse(RATES, curve(RATES))
    # The average runs behind the loss by its memory: 9 steps of a factor of 1.06.
    assert 1e-3 <= rise.steepest <= 1e-3 * 1.06**14
    assert 3e-2 <= rise.exploded <= 3e-2 * 1.06**6


def test_a_loss_that_is_no_number_ends_the_rise():
    values = curve(RATES)[:150].tolist()
    rise = analyse(RATES, [*values[:-1], float("nan")])
    assert len(rise.losses) == 149
    assert rise.exploded == pytest.approx(RATES[149])
    assert analyse(RATES, [float("inf")]).steepest is None


def test_flat_noise_gives_no_suggestion():
    flat = lambda rates, seed: 1 + 0.1 * np.random.default_rng(seed).normal(size=len(rates))  # noqa: E731
    found = range_test(flat, repeats=5)
    assert found.suggestion is None
    assert not found.sure
    assert "no suggestion" in describe(found)


def test_says_how_sure_it_is():
    agree = range_test(lambda rates, seed: curve(rates, noise=0.01, seed=seed))
    assert agree.sure
    assert agree.low <= agree.suggestion <= agree.high
    assert "the rises agree" in describe(agree)
    apart = range_test(lambda rates, seed: curve(rates, middle=[1e-4, 1e-3, 1e-2][seed]))
    assert not apart.sure
    assert apart.high > 10 * apart.low
    assert "do not agree" in describe(apart)
    assert not range_test(lambda rates, seed: curve(rates), repeats=1).sure  # one agrees with all


def test_bad_arguments_are_all_named():
    with pytest.raises(ValueError, match=r"lowest=1.* want 0 < .*; steps=3.*; repeats=0"):
        range_test(curve, lowest=1, highest=0.1, steps=3, repeats=0)


def test_a_trainer_gives_its_losses_and_stays_as_it_is(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    trainer = tiny.trainer(load_tokenizer(tmp_path), epochs=1)
    before = jax.tree.map(np.array, split_model(trainer.model)[1])
    rates = np.geomspace(1e-4, 1e-1, 10)  # more steps than an epoch has
    losses = trainer.rate_losses(rates)
    tiny.assert_equal(split_model(trainer.model)[1], before)
    assert len(losses) == 10
    assert losses == trainer.rate_losses(rates)  # the state is restored too
    still = trainer.rate_losses(np.full(10, 1e-30))
    assert still[0] == losses[0]  # before any update
    assert abs(still[-1] - losses[-1]) > 1e-3
    trainer.fit()  # and it can still train


def test_losses_end_where_they_explode(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    trainer = tiny.trainer(load_tokenizer(tmp_path), optimizer=tiny.PLAIN)
    losses = trainer.rate_losses(np.full(50, 1e25))
    assert len(losses) < 50
    assert not np.isfinite(losses[-1])
    assert isinstance(trainer.config, TrainConfig)
