"""What goes on around a step: averages, the start, Muon's direction, low rank; by hand in numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chains import flat, run
from tolerance import assert_followed

from jaxbert.errors import InputError
from jaxbert.optim import OptimizerConfig, RatePlan, make_optimizer
from jaxbert.optim.directions import MUON_RMS
from jaxbert.optim.low_rank import LowRankState, low_rank
from jaxbert.optim.start import StartState, is_kept, states_of

SGD = dict(optimizer="sgd", learning_rate=0.5, schedule="constant", beta1=0.0, clip_norm=None)
FREE = dict(optimizer="schedule-free-adamw", schedule="constant", clip_norm=None, epsilon=1e-6)
STEPS = 4


def random_tree(seed):
    """A pooler, which is pre-trained, and a head."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: np.float32(rng.normal(size=shape))  # noqa: E731
    return {"pooler": {"kernel": draw(3, 5), "bias": draw(5)},
            "head": {"kernel": draw(5, 2), "bias": draw(2)}}  # fmt: skip


@pytest.fixture
def params():
    return random_tree(0)


@pytest.fixture
def gradients():
    return [random_tree(seed) for seed in range(1, STEPS + 1)]


def evaluated(config, params, state, history):
    """(what is evaluated, flat) after the last step."""
    plan = RatePlan.make(config, params, 12, 4)
    words = {path: path.split("/") for path in history[-1]}
    last = {}
    for path, value in history[-1].items():
        last.setdefault(words[path][0], {})[words[path][1]] = jnp.asarray(value)
    return flat(plan.evaluated(state, last))


# --- averages


@pytest.mark.parametrize("frozen", [(), ("pooler",)])
def test_the_moving_average_by_hand(params, gradients, frozen):
    config = OptimizerConfig(**SGD, weight_decay=0.0, ema_decay=0.75, frozen=frozen)
    history, state = run(config, params, gradients[:2])
    plain, _ = run(OptimizerConfig(**SGD, weight_decay=0.0, frozen=frozen), params, gradients[:2])
    found = evaluated(config, params, state, history)
    for path, start in flat(params).items():
        first, second = (flat(g)[path] for g in gradients[:2])
        moves = path.split("/")[0] not in frozen
        one = start - 0.5 * first * moves
        two = one - 0.5 * second * moves
        np.testing.assert_array_equal(history[2][path], plain[2][path])  # it only watches
        # Weights .25 and .75 * .25, which add up to 1 - .75^2.
        average = (0.25 * two + 0.75 * 0.25 * one) / (1 - 0.75**2)
        np.testing.assert_allclose(found[path], average if moves else start, rtol=1e-6, atol=1e-6)


def test_what_is_not_averaged_is_evaluated_as_it_is(params):
    plan = RatePlan.make(OptimizerConfig(anchor_decay=1.0), params, 12, 4)
    assert not plan.averages
    assert plan.evaluated(plan.optimizer.init(params), params) is params
    for config in (OptimizerConfig(ema_decay=0.5), OptimizerConfig(**FREE)):
        assert RatePlan.make(config, params, 12, 4).averages


def test_schedule_free_by_hand(params, gradients):
    """Defazio et al. 2024, eqs. 2-4; a rate for each group, one average."""
    rates = {"head": 0.1, "pooler": 0.05}
    config = OptimizerConfig(
        **{**FREE, "epsilon": 0.01}, learning_rate=0.1, warmup=2, weight_decay=0.01, beta2=0.99,
        multipliers={"pooler": 0.5},
    )  # fmt: skip
    history, state = run(config, params, gradients)
    found = evaluated(config, params, state, history)
    for path, start in flat(params).items():
        y, x, z, v, total = start.astype(np.float64), start, start, 0.0, 0.0
        for t, gradient in enumerate(gradients):
            share = min(1.0, t / 2)  # of the peak, in the warm-up
            weight = (0.1 * share) ** 2
            total += weight
            c = weight / total if total else 0.0
            g = flat(gradient)[path].astype(np.float64)
            v = 0.99 * v + 0.01 * g**2
            step = g / (np.sqrt(v / (1 - 0.99 ** (t + 1))) + 0.01)
            step = step + 0.01 * y * path.endswith("kernel")
            z = z - rates[path.split("/")[0]] * share * step
            x = (1 - c) * x + c * z
            y = 0.9 * x + 0.1 * z
            assert_followed(history[t + 1][path], y, steps=range(1, t + 2), rate=0.1, beta2=0.99,
                            what=f"{path} at {t}")  # fmt: skip
        assert_followed(found[path], x, steps=range(1, STEPS + 1), rate=0.1, beta2=0.99, what=path)
        assert np.abs(found[path] - history[-1][path]).max() > 1e-3  # two points, not one


def test_schedule_free_is_that_of_optax(params, gradients):
    config = OptimizerConfig(**FREE, learning_rate=0.1, weight_decay=0.0)
    history, state = run(config, params, gradients)
    found = evaluated(config, params, state, history)
    reference = optax.contrib.schedule_free_adamw(0.1, b1=0.9, b2=0.999, eps=1e-6)
    now, theirs = params, reference.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for gradient in gradients:
            updates, theirs = reference.update(gradient, theirs, now)
            now = optax.apply_updates(now, updates)
        average = optax.contrib.schedule_free_eval_params(theirs, now)
    for tree, got in ((now, history[-1]), (average, found)):
        for path, wanted in flat(tree).items():
            np.testing.assert_allclose(got[path], wanted, rtol=1e-5, atol=1e-6, err_msg=path)


def test_one_program_serves_every_rate_of_schedule_free(params, gradients):
    chain = make_optimizer(OptimizerConfig(**FREE, learning_rate=1.0), params, 100, 4)

    @jax.jit
    @chex.assert_max_traces(1)
    def step(params, state, gradient, rates):
        updates, state = chain.update(gradient, state, params, learning_rates=rates)
        return optax.apply_updates(params, updates), state

    for rate in (0.1, 0.02):
        config = OptimizerConfig(**FREE, learning_rate=rate, warmup=2)
        wanted, _ = run(config, params, gradients)
        rates = RatePlan.make(config, params, 12, 4).schedules
        now, state = params, chain.init(params)
        for number, gradient in enumerate(gradients):
            now, state = step(now, state, gradient, {k: r(number) for k, r in rates.items()})
        for path, got in flat(now).items():
            np.testing.assert_allclose(got, wanted[-1][path], rtol=1e-5, atol=1e-6, err_msg=path)


# --- the start


def test_decay_to_the_start_by_hand(params, gradients):
    config = OptimizerConfig(**SGD, weight_decay=0.1, anchor_decay=0.2, multipliers={"pooler": 0.6})
    history, state = run(config, params, gradients[:2])
    for path, start in flat(params).items():
        first, second = (flat(g)[path] for g in gradients[:2])
        if path.startswith("pooler"):  # all of it, at the group's own rate
            one = start - 0.3 * first
            two = one - 0.3 * (second + 0.2 * (one - start))
        else:  # what is new has no start: the kernel decays as ever
            decay = 0.1 if path == "head/kernel" else 0.0
            one = start - 0.5 * (first + decay * start)
            two = one - 0.5 * (second + decay * one)
        np.testing.assert_allclose(history[2][path], two, rtol=1e-5, atol=1e-6, err_msg=path)
    (kept,) = states_of(StartState, state)
    assert set(flat(kept.start)) == {"pooler/kernel", "pooler/bias"}
    for path, value in flat(kept.start).items():
        np.testing.assert_array_equal(value, flat(params)[path])


def test_adamws_moments_do_not_see_the_decay_to_the_start(params):
    config = OptimizerConfig("adamw", 0.5, "constant", anchor_decay=0.2, clip_norm=None)
    away = jax.tree.map(lambda w: w + np.float32(1), params)
    optimizer = make_optimizer(config, params, 12, 4)
    state, nothing = optimizer.init(params), jax.tree.map(np.zeros_like, params)
    updates, _ = optimizer.update(nothing, state, away)
    np.testing.assert_allclose(updates["pooler"]["bias"], -0.5 * 0.2, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"mixout": 0.5}, {"pooler/kernel"}),
        ({"mixout": 0.5, "anchor_decay": 1.0}, {"pooler/kernel", "pooler/bias"}),
        ({"mixout": 0.5, "frozen": ["pooler"]}, set()),
    ],
)
def test_one_start_serves_decay_and_mixout(params, fields, kept):
    state = make_optimizer(OptimizerConfig(**fields), params, 12, 4).init(params)
    (found,) = states_of(StartState, state)
    assert set(flat(found.start)) == kept


def test_a_plain_run_keeps_no_start():
    assert not is_kept(OptimizerConfig(), "pooler/kernel", "pooler")


def test_a_plain_run_keeps_the_state_it_had():
    """Checkpoints of earlier versions have this shape."""
    params = random_tree(0)
    state = make_optimizer(OptimizerConfig(), params, 12, 4).init(params)
    clip, adam, decay, trust, rates, sign = state.inner_states["trainable"].inner_state
    assert (clip, trust, sign, decay.inner_state) == (optax.EmptyState(),) * 4
    assert isinstance(adam, optax.ScaleByAdamState)
    assert set(rates.inner_states) == {"pooler", "head"}


# --- Muon


def test_muons_step_is_orthogonal_and_of_adams_size(params, gradients):
    config = OptimizerConfig(
        "muon", 0.5, "constant", beta1=0.95, weight_decay=0.0, clip_norm=None, epsilon=1e-12
    )
    (before, after), _ = run(config, params, gradients[:1])
    moved = {path: (before[path] - after[path]) / 0.5 for path in before}
    # A first step's momentum is its gradient: the same singular vectors, values of about 1.
    u, _, v = np.linalg.svd(flat(gradients[0])["pooler/kernel"], full_matrices=False)
    inner = u.T @ moved["pooler/kernel"] @ v.T / (MUON_RMS * 5**0.5)
    np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-4)
    assert (np.abs(np.diag(inner) - 0.95) < 0.3).all()
    assert 0.14 < np.sqrt(np.mean(moved["pooler/kernel"] ** 2)) < 0.26
    for path in ("pooler/bias", "head/kernel", "head/bias"):  # the others are Adam's
        np.testing.assert_allclose(moved[path], np.sign(flat(gradients[0])[path]), rtol=1e-4)


# --- low rank

LORA = dict(lora_rank=2, lora_alpha=6.0, lora_targets=["pooler/kernel"])


def test_low_rank_by_hand(params, gradients):
    config = OptimizerConfig(**SGD, weight_decay=0.0, **LORA)
    history, state = run(config, params, gradients[:2])
    plain, _ = run(OptimizerConfig(**SGD, weight_decay=0.0), params, gradients[:2])
    first = make_optimizer(config, params, 12, 4).init(params)
    (begun,) = states_of(LowRankState, first)
    a, b = (np.asarray(begun.factors["pooler"]["kernel"][name]) for name in "ab")
    assert (a.shape, b.shape) == ((3, 2), (2, 5))
    assert not b.any()
    start = flat(params)["pooler/kernel"]
    for step, gradient in enumerate(gradients[:2], start=1):
        g = flat(gradient)["pooler/kernel"]
        a, b = a - 0.5 * 3 * g @ b.T, b - 0.5 * 3 * a.T @ g
        wanted = start + 3 * a @ b
        np.testing.assert_allclose(history[step]["pooler/kernel"], wanted, rtol=1e-5, atol=1e-5)
    (ended,) = states_of(LowRankState, state)
    np.testing.assert_array_equal(ended.start["pooler"]["kernel"], start)
    assert np.linalg.matrix_rank(history[2]["pooler/kernel"] - start, tol=1e-4) == 2
    for path in set(history[0]) - {"pooler/kernel"}:  # the others as ever
        np.testing.assert_array_equal(history[2][path], plain[2][path])


def test_factors_begin_uniform_within_the_root_of_the_inputs_and_each_its_own():
    params = {name: np.zeros((400, 3), np.float32) for name in ("first", "second")}
    state = low_rank(optax.identity(), dict.fromkeys(params, True), 8, 1.0).init(params)
    first, second = (np.asarray(state.factors[name]["a"]) for name in params)
    for a in (first, second):
        assert (np.abs(a) <= 400**-0.5).all()
        # Of 3,200 numbers, some are in the outermost hundredth on either side.
        assert a.max() > 0.99 * 400**-0.5
        assert a.min() < -0.99 * 400**-0.5
    assert not np.array_equal(first, second)


def test_low_rank_is_adapters_inside_the_model(params):
    """Three steps of AdamW on factors that a loss is differentiated by."""
    goal = random_tree(7)
    config = OptimizerConfig("adamw", 0.1, "constant", clip_norm=1.0, weight_decay=0.1, **LORA)
    optimizer = make_optimizer(config, params, 12, 4)
    now, state = params, optimizer.init(params)
    (begun,) = states_of(LowRankState, state)
    own = {"low": begun.factors["pooler"]["kernel"]} | {
        path: value for path, value in flat(params).items() if path != "pooler/kernel"
    }

    def whole(own):
        return flat(params)["pooler/kernel"] + 3 * own["low"]["a"] @ own["low"]["b"]

    def loss(own):
        wanted = flat(goal)
        found = {**own, "pooler/kernel": whole(own)}
        return sum(jnp.square(found[p] - wanted[p]).sum() for p in wanted) / 2

    decays = {path: path == "head/kernel" for path in own} | {"low": {"a": True, "b": True}}
    reference = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(0.1, eps=1e-6, weight_decay=0.1, mask=decays),
    )
    theirs = reference.init(own)
    for _ in range(3):
        gradient = jax.tree.map(lambda w, g: np.asarray(w) - g, now, goal)
        updates, state = optimizer.update(gradient, state, now)
        now = optax.apply_updates(now, updates)
        with jax.numpy_dtype_promotion("standard"):
            updates, theirs = reference.update(jax.grad(loss)(own), theirs, own)
        own = optax.apply_updates(own, updates)
    wanted = {**own, "pooler/kernel": whole(own)}
    for path, got in flat(now).items():
        np.testing.assert_allclose(got, wanted[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_low_rank_holds_the_moments_of_factors_only(params):
    config = OptimizerConfig(frozen=["head"], **LORA)
    (low,) = states_of(LowRankState, make_optimizer(config, params, 12, 4).init(params))
    adam = states_of(optax.ScaleByAdamState, low.inner)[0]
    shapes = {path: leaf.shape for path, leaf in flat(adam.mu).items()}
    assert shapes == {"pooler/kernel/a": (3, 2), "pooler/kernel/b": (2, 5), "pooler/bias": (5,)}


def test_targets_that_mean_nothing_are_named(params):
    config = OptimizerConfig(lora_rank=8)
    with pytest.raises(InputError, match=r"lora_targets: nothing matches .*attention"):
        make_optimizer(config, params, 12, 4)


# --- all of them

METHODS = {
    "start": OptimizerConfig(anchor_decay=1.0, mixout=0.5, ema_decay=0.9),
    "schedule-free": OptimizerConfig(**FREE),
    "muon": OptimizerConfig("muon"),
    "low rank": OptimizerConfig(**LORA, ema_decay=0.9),
}


@pytest.mark.parametrize("config", METHODS.values(), ids=METHODS)
def test_jit_with_donation_from_shapes_alone(params, config):
    """No array of the state is another's, or the parameters'."""
    params = jax.tree.map(jnp.asarray, params)
    shapes = jax.eval_shape(lambda: params)
    plan = RatePlan.make(config, shapes, 12, 4)
    state = plan.optimizer.init(params)
    assert jax.eval_shape(plan.optimizer.init, shapes) == jax.eval_shape(lambda: state)

    @chex.assert_max_traces(1)
    def step(params, state, gradient):
        updates, state = plan.optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 1))
    gradient = jax.tree.map(jnp.ones_like, params)
    for _ in range(2):
        params, state = jitted(params, state, gradient)
    found = jax.jit(plan.evaluated)(state, params)
    assert all(np.isfinite(p).all() for p in jax.tree.leaves((params, found)))


def test_a_step_of_another_method_is_another_program(params):
    configs = [OptimizerConfig(), *METHODS.values(), OptimizerConfig(sam_radius=0.1)]
    keys = {RatePlan.make(config, params, 12, 4).program_key for config in configs}
    assert len(keys) == len(configs)
