"""Where a step takes its gradient: Mixout's mean and limits, SAM's point uphill."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tolerance import assert_close

from jaxbert.models.dropout import dropout_key
from jaxbert.optim import OptimizerConfig, make_optimizer
from jaxbert.optim.start import StartState, states_of
from jaxbert.training.points import gradient_of, mixed, mixout_shares, uphill

ROWS = 4000
KEY = dropout_key(5, 3)


def tree(seed, rows=6):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {
        "layers": {"0": {"output": {"kernel": draw(rows, 3), "bias": draw(3)}}},
        "pooler": {"kernel": draw(rows, 3)},
        "head": {"kernel": draw(3, 2)},
    }


def kernels(found):
    return found["layers"]["0"]["output"]["kernel"], found["pooler"]["kernel"]


def started(params):
    """A start, as the optimizer keeps it: matrices but the head's."""
    state = make_optimizer(OptimizerConfig(mixout=0.5), params, 10, 5).init(params)
    (kept,) = states_of(StartState, state)
    return state, kept.start


@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_mixout_takes_rows_of_the_start_and_keeps_the_mean(rate):
    _, start = started(tree(0, ROWS))
    shares = mixout_shares(start, rate, KEY)
    deviation = np.sqrt(rate * (1 - rate) / ROWS)
    for share in kernels(shares):
        assert share.shape == (ROWS, 1)  # all that a neuron feeds, or nothing
        assert set(np.unique(share)) == {np.float32(0), np.float32(1 / (1 - rate))}
        assert np.mean(np.asarray(share) == 0) == pytest.approx(rate, abs=5 * deviation)
        assert np.mean(share) == pytest.approx(1, abs=5 * deviation / (1 - rate))
    assert shares["head"]["kernel"] is None
    assert shares["layers"]["0"]["output"]["bias"] is None


def test_every_step_and_matrix_draws_anew():
    _, start = started(tree(0, 64))
    first, other = kernels(mixout_shares(start, 0.5, KEY))
    again, _ = kernels(mixout_shares(start, 0.5, KEY))
    later, _ = kernels(mixout_shares(start, 0.5, dropout_key(5, 4)))
    np.testing.assert_array_equal(first, again)
    for share in (other, later):
        assert 10 < np.sum(np.asarray(first) != np.asarray(share)) < 54


def test_the_limits_of_mixout():
    params, (_, start) = tree(1), started(tree(0))
    everything = mixed(params, start, mixout_shares(start, 0.0, KEY))
    nothing = mixed(params, start, mixout_shares(start, 1.0, KEY))
    for got, wanted in zip(kernels(everything), kernels(params), strict=True):
        assert_close(got, wanted, terms=4)
    for got, wanted in zip(kernels(nothing), kernels(tree(0)), strict=True):
        np.testing.assert_array_equal(got, wanted)
    for found in (everything, nothing):  # biases and the head are not its concern
        assert found["head"]["kernel"] is params["head"]["kernel"]
        assert found["layers"]["0"]["output"]["bias"] is params["layers"]["0"]["output"]["bias"]


def distance(goal):
    """params -> (loss, count, gradient) of half the squared distance from a goal."""

    def gradient(params):
        grads = jax.tree.map(lambda w, g: w - g, params, goal)
        return optax.tree.norm(grads, squared=True) / 2, jnp.float32(1), grads

    return gradient


def test_mixouts_gradient_is_that_of_the_mixed_loss():
    state, start = started(tree(0))
    params, goal = tree(1), distance(tree(2))
    config = OptimizerConfig(mixout=0.5)

    def loss(params):
        return goal(mixed(params, start, mixout_shares(start, 0.5, KEY)))[0]

    value, wanted = jax.value_and_grad(loss)(params)
    found, count, grads = gradient_of(config, goal, params, state, KEY)
    assert float(found) == pytest.approx(float(value), rel=1e-6)
    assert float(count) == 1
    for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
        assert_close(got, want, terms=8)
    assert any((np.asarray(g) == 0).all(axis=1).any() for g in kernels(grads))


# --- SAM

CURVATURE = jnp.array([[3.0, 1.0], [1.0, 2.0]])


def bowl(params):
    """(loss, count, gradient) of w^T H w / 2."""
    w = params["bias"]
    slope = CURVATURE @ w
    return w @ slope / 2, jnp.float32(4), {"bias": slope, "frozen": None}


def test_sams_gradient_is_that_of_the_point_uphill():
    params = {"bias": jnp.array([1.0, -2.0]), "frozen": jnp.ones(3)}
    config = OptimizerConfig(sam_radius=0.5)
    loss, count, grads = gradient_of(config, bowl, params, (), KEY)
    # H w = (1, -3), of norm root 10; the loss is reported at w itself.
    point = np.array([1.0, -2.0]) + 0.5 * np.array([1.0, -3.0]) / np.sqrt(10)
    np.testing.assert_allclose(grads["bias"], np.asarray(CURVATURE) @ point, rtol=1e-6)
    assert (float(loss), float(count)) == (3.5, 4)
    assert grads["frozen"] is None
    assert uphill(params, grads, 0.5)["frozen"] is params["frozen"]


def test_sam_is_that_of_optax():
    params = {"bias": jnp.array([1.0, -2.0])}
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.5))
    sam = optax.contrib.sam(optax.identity(), ascent, opaque_mode=True)
    first = {"bias": bowl(params)[2]["bias"]}
    wanted, _ = sam.update(
        first, sam.init(params), params, grad_fn=lambda p, _: {"bias": bowl(p)[2]["bias"]}
    )
    frozen = {**params, "frozen": jnp.ones(3)}
    found = gradient_of(OptimizerConfig(sam_radius=0.5), bowl, frozen, (), KEY)[2]
    np.testing.assert_allclose(found["bias"], wanted["bias"], rtol=1e-6)


def test_without_a_gradient_there_is_no_way_up():
    params = {"bias": jnp.zeros(2), "frozen": jnp.ones(3)}
    _, _, grads = gradient_of(OptimizerConfig(sam_radius=0.5), bowl, params, (), KEY)
    np.testing.assert_array_equal(grads["bias"], np.zeros(2))


def test_a_plain_step_takes_its_gradient_where_it_is():
    params, asked = {"bias": jnp.ones(2)}, []
    gradient = lambda p: asked.append(p) or bowl(p)  # noqa: E731
    gradient_of(OptimizerConfig(), gradient, params, (), KEY)
    assert len(asked) == 1
    assert asked[0] is params
