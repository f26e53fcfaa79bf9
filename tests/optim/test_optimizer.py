"""The chain: every leaf's update recomputed in plain numpy, and the promises of the docstring."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chains import flat, random_gradients, run
from tolerance import assert_close, assert_followed

from jaxbert.optim import OPTIMIZERS, SCHEDULES, OptimizerConfig, RatePlan, make_optimizer
from jaxbert.optim.config import SCHEDULE_FREE

# --- by hand: which leaf has which rate at which step

N, TOTAL, WARMUP, PEAK, DECAY = 3, 12, 3, 0.25, 0.5
EXPONENT = {  # of the decay: embeddings, layer 0, 1, 2
    "standard": (4, 3, 2, 1),
    "sun2019": (3, 2, 1, 0),
    "electra": (5, 4, 3, 2),
}
# The factors at steps 0, 2, 3, 7 and 11 of 12, with 3 of warm-up; pi/9 is 20 degrees.
cos = lambda degrees: (1 + np.cos(np.radians(degrees))) / 2  # noqa: E731
FACTOR = {
    "constant": (0, 2 / 3, 1, 1, 1),
    "linear": (0, 2 / 3, 1, 5 / 9, 1 / 9),
    "cosine": (0, 2 / 3, 1, cos(80), cos(160)),
    "cosine-restarts": (0, 2 / 3, 1, cos(60), cos(120)),
    "polynomial": (0, 2 / 3, 1, 25 / 81, 1 / 81),
    "inverse-sqrt": (0, 2 / 3, 1, np.sqrt(3 / 7), np.sqrt(3 / 11)),
    "one-cycle": (0.04, 0.04 + 0.96 * 0.75, 1, 4e-6 + (1 - 4e-6) * cos(80),
                  4e-6 + (1 - 4e-6) * cos(160)),
    "triangular": (0, 1 / 6, 0.25, 0.25 + 0.75 * 2 / 3, 0.25 + 0.75 * 2 / 3),
    "triangular2": (0, 1 / 6, 0.25, 0.25 + 0.75 * 2 / 3 / 2, 0.25 + 0.75 * 2 / 3 / 4),
    "exp-range": (0, 1 / 6, 0.25, 0.25 + 0.75 * 2 / 3 * 0.1 ** (4 / 9),
                  0.25 + 0.75 * 2 / 3 * 0.1 ** (8 / 9)),
    "slanted-triangular": (1 / 32, (1 + 31 * 2 / 3) / 32, 1, (1 + 31 * 5 / 9) / 32,
                           (1 + 31 / 9) / 32),
    "warmup-stable-decay": (0, 2 / 3, 1, 1, 1 / 2),
}  # fmt: skip


def multiplier_by_hand(path, convention):
    words = path.removeprefix("encoder/").split("/")
    exponents = EXPONENT[convention]
    if words[0] == "embeddings":
        return DECAY ** exponents[0]
    if words[0] == "layers":
        return DECAY ** exponents[1 + int(words[1])]
    return {"final_norm": 1.0, "pooler": 1.0, "head": 2.0}[words[0]]


@pytest.mark.parametrize("convention", EXPONENT)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_leafs_rate_and_update_by_hand(make_params, schedule, convention):
    params = make_params(N, final_norm=True, attention=("key",))
    config = OptimizerConfig(
        "sgd", PEAK, schedule, warmup=WARMUP, layer_decay=DECAY, convention=convention,
        head_multiplier=2.0, weight_decay=0, clip_norm=None, beta1=0,
    )  # fmt: skip
    optimizer = make_optimizer(config, params, TOTAL, 4)
    state = optimizer.init(params)
    ones = jax.tree.map(np.ones_like, params)
    for step in range(TOTAL):
        updates, state = optimizer.update(ones, state, params)
        if step in (0, 2, 3, 7, 11):
            factor = FACTOR[schedule][(0, 2, 3, 7, 11).index(step)]
            for path, update in flat(updates).items():
                rate = PEAK * multiplier_by_hand(path, convention) * factor
                np.testing.assert_allclose(update, -rate, rtol=1e-5, atol=1e-9, err_msg=path)


# --- by hand: the inner optimizers, with clipping, decay and rates


def decays(path):
    return path.endswith(("kernel", "embedding"))


def rates_by_hand(params, config, step, total):
    """Linear schedule, `standard` convention, two layers."""
    warmup = config.warmup
    factor = step / warmup if step < warmup else (total - step) / (total - warmup)
    d, rates = config.layer_decay, {}
    for path in flat(params):
        depth = {"embeddings": d**3, "0": d**2, "1": d}
        words = path.removeprefix("encoder/").split("/")
        place = words[1] if words[0] == "layers" else words[0]
        rates[path] = config.learning_rate * factor * depth.get(place, 1.0)
    return rates


def clip_by_hand(gradient, max_norm):
    norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gradient.values()))
    return {path: g * min(1.0, max_norm / norm) for path, g in gradient.items()}, norm


def adam_steps(config, corrected):
    m, v = {}, {}

    def step(path, g, t):
        b1, b2 = config.beta1, config.beta2 or 0.999
        m[path] = b1 * m.get(path, 0) + (1 - b1) * g
        v[path] = b2 * v.get(path, 0) + (1 - b2) * g**2
        fix1, fix2 = (1 - b1**t, 1 - b2**t) if corrected else (1, 1)
        return (m[path] / fix1) / (np.sqrt(v[path] / fix2) + config.epsilon)

    return step


def lion_steps(config):
    m = {}

    def step(path, g, t):
        old = m.get(path, 0)
        m[path] = 0.99 * old + 0.01 * g
        return np.sign(config.beta1 * old + (1 - config.beta1) * g)

    return step


def sgd_steps(config):
    buffer = {}

    def step(path, g, t):
        buffer[path] = config.beta1 * buffer.get(path, 0) + g
        return buffer[path]

    return step


def adafactor_steps(config):
    """Shazeer & Stern 2018, algorithm 4, unfactored: every axis here is below 128."""
    v = {}

    def step(path, g, t):
        b2 = 1 - t**-0.8
        v[path] = b2 * v.get(path, 0) + (1 - b2) * (g**2 + 1e-30)
        u = g / np.sqrt(v[path])
        return u / max(1.0, np.sqrt(np.mean(u**2)))

    return step


INNER = {
    "adamw": lambda config: adam_steps(config, corrected=True),
    "adamw without correction": lambda config: adam_steps(config, corrected=False),
    "lamb": lambda config: adam_steps(config, corrected=True),
    "lion": lion_steps,
    "sgd": sgd_steps,
    "adafactor": adafactor_steps,
}


@pytest.mark.parametrize(("kind", "clip_norm"), [*((kind, 3.0) for kind in INNER), ("adamw", None)])
def test_several_steps_by_hand(lean_params, kind, clip_norm):
    config = OptimizerConfig(
        kind.split()[0], 0.05, warmup=3, layer_decay=0.7, weight_decay=0.1, clip_norm=clip_norm,
        bias_correction="without" not in kind,
    )  # fmt: skip
    # Norms of about 14, 4 and 0.4: two above the clipping norm, one below.
    gradients = [random_gradients(lean_params, i, (1.0, 0.3, 0.03)[i % 3]) for i in range(9)]
    history, _ = run(config, lean_params, gradients)

    inner, corrected = INNER[kind](config), kind in ("adamw", "lamb")
    wanted = {path: p.astype(np.float64) for path, p in flat(lean_params).items()}
    clipped_steps = 0
    for t, gradient in enumerate(gradients):
        gradient, norm = clip_by_hand(flat(gradient), clip_norm or np.inf)
        clipped_steps += norm > (clip_norm or np.inf)
        rates = rates_by_hand(lean_params, config, t, 12)
        for path, g in gradient.items():
            step = inner(path, g, t + 1) + config.weight_decay * decays(path) * wanted[path]
            if config.optimizer == "lamb":
                sizes = np.linalg.norm(wanted[path]), np.linalg.norm(step)
                step = step * (sizes[0] / sizes[1] if all(sizes) else 1.0)
            wanted[path] = wanted[path] - rates[path] * step
        for path, got in history[t + 1].items():
            assert_followed(
                got, wanted[path], steps=range(1, t + 2), rate=config.learning_rate,
                beta2=0.999 if corrected else None, what=f"{path} at {t}",
            )  # fmt: skip
    assert clipped_steps == (6 if clip_norm else 0)


def test_adafactor_factors_large_matrices():
    rng = np.random.default_rng(0)
    params = {"head": {"kernel": np.float32(rng.normal(size=(130, 140)))}}
    gradient = {"head": {"kernel": np.float32(rng.normal(size=(130, 140)))}}
    config = OptimizerConfig("adafactor", 0.1, "constant", weight_decay=0, clip_norm=None)
    history, state = run(config, params, [gradient])
    g = gradient["head"]["kernel"].astype(np.float64)
    row, column = np.mean(g**2, axis=1), np.mean(g**2, axis=0)
    u = g / np.sqrt(np.outer(row, column) / row.mean())
    step = u / max(1.0, np.sqrt(np.mean(u**2)))
    got = history[1]["head/kernel"] - history[0]["head/kernel"]
    # Means over an axis; and `got` is a difference of parameters of up to 4.
    assert_close(got, -0.1 * step, terms=3 * 140, scale=1)
    assert sum(np.size(leaf) for leaf in jax.tree.leaves(state)) < 300  # no full second moment


def test_uncorrected_adam_starts_up_to_6_6_times_too_large(lean_params):
    # The figure in the docstrings. A constant gradient makes the corrected step 1 throughout.
    config = OptimizerConfig(
        "adamw", 1.0, "constant", weight_decay=0, clip_norm=None, bias_correction=False
    )
    gradients = [jax.tree.map(np.ones_like, lean_params)] * 30
    history, _ = run(config, lean_params, gradients)
    path = "head/classifier/bias"
    sizes = [float((a[path] - b[path]).max()) for a, b in pairwise(history)]
    assert sizes[0] == pytest.approx(0.1 / np.sqrt(0.001), rel=1e-3)
    assert max(sizes) == pytest.approx(6.57, abs=0.01)


def test_leaves_without_a_gradient_signal_stay_put(lean_params):
    # Attention's key bias: a gradient of rounding noise, which Adam would blow up to a full step.
    config = OptimizerConfig("adamw", 1.0, "constant", clip_norm=None)
    noise = jax.tree.map(lambda p: np.full_like(p, 1e-9), lean_params)
    history, _ = run(config, lean_params, [noise])
    path = "encoder/layers/0/attention/key/bias"
    np.testing.assert_allclose(history[1][path], history[0][path], atol=2e-3)


# --- frozen

FROZEN = ["embeddings", ".*/layers/0/attention/.*"]


def is_frozen(path):
    return "embeddings" in path or "layers/0/attention/" in path


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_leaves_hold_nothing_and_stay(lean_params, optimizer):
    config = OptimizerConfig(optimizer, 0.1, "constant", frozen=FROZEN)
    history, state = run(config, lean_params, [random_gradients(lean_params, i) for i in range(3)])
    for path in history[0]:
        same = np.array_equal(history[0][path], history[-1][path])
        assert same == is_frozen(path), path
    moments = {"adamw": 2, "lamb": 2, "lion": 1, "sgd": 1}.get(optimizer)
    if moments:
        trained = [np.size(p) for path, p in flat(lean_params).items() if not is_frozen(path)]
        sizes = sorted(np.size(leaf) for leaf in jax.tree.leaves(state) if np.ndim(leaf))
        assert sizes == sorted(trained * moments)


def test_the_clipping_norm_leaves_out_what_is_frozen(lean_params):
    config = OptimizerConfig("sgd", 1.0, "constant", beta1=0, weight_decay=0, frozen=FROZEN)
    gradient = random_gradients(lean_params, 0)
    trainable = RatePlan.make(config, lean_params, 12, 4).trainable
    huge = jax.tree.map(lambda g, trains: g if trains else g * 1e6, gradient, trainable)
    (before, after), _ = run(config, lean_params, [huge])
    moved = {p: after[p] - before[p] for p in before}
    assert np.sqrt(sum(np.sum(m**2) for m in moved.values())) == pytest.approx(1.0, rel=1e-4)
    (_, wanted), _ = run(config, lean_params, [gradient])
    assert all(np.array_equal(after[path], wanted[path]) for path in after)


# --- unfreezing


def adam_config(**kwargs):
    return OptimizerConfig("adamw", 0.1, "constant", clip_norm=1.0, **kwargs)


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != SCHEDULE_FREE])
def test_before_its_epoch_a_group_is_as_good_as_frozen(make_params, optimizer):
    params = make_params(1, attention=("key",))
    gradients = [random_gradients(params, i) for i in range(6)]
    body = r"embeddings|layer_\d|pooler"
    asleep = OptimizerConfig(optimizer, 0.1, "constant", unfreezing={body: 1.5})
    frozen = OptimizerConfig(optimizer, 0.1, "constant", frozen=[body])
    histories = [run(c, params, gradients, steps_per_epoch=4)[0] for c in (asleep, frozen)]
    for step in range(7):  # epoch 1.5 of 4 steps: steps 0 to 5
        for path, wanted in histories[1][step].items():
            np.testing.assert_array_equal(histories[0][step][path], wanted, err_msg=path)


def test_groups_wake_in_turn(lean_params):
    gradients = [random_gradients(lean_params, i) for i in range(9)]
    history, _ = run(adam_config(unfreezing=1), lean_params, gradients, steps_per_epoch=2)
    wakes = {"classifier": 0, "pooler": 0, "layers/1": 2, "layers/0": 4, "embeddings": 6}
    for path in history[0]:
        at = next(step for name, step in wakes.items() if name in path)
        for step, (old, new) in enumerate(pairwise(history)):
            assert np.array_equal(old[path], new[path]) == (step < at), (path, step)


def test_a_group_wakes_with_moments_that_followed_its_gradient(lean_params):
    gradients = [random_gradients(lean_params, i) for i in range(8)]
    config = adam_config(unfreezing={"layer_0": 1}, weight_decay=0)
    history, _ = run(config, lean_params, gradients, steps_per_epoch=5)
    # By hand: asleep, its gradient is clipped as if all were awake; awake, so is everything.
    inner = adam_steps(config, corrected=True)
    path = "encoder/layers/0/output/kernel"
    for t, gradient in enumerate(gradients):
        clipped, _ = clip_by_hand(flat(gradient), 1.0)
        step = inner(path, clipped[path], t + 1)
        wanted = -0.1 * step if t >= 5 else np.zeros_like(step)
        moved = history[t + 1][path] - history[t][path]  # of parameters of 1 and more
        assert_followed(moved, wanted, steps=[t + 1], rate=0.1, beta2=0.999, what=f"step {t}")
    # And so the first update is of a settled size, not 3 to 6.6 rates.
    assert np.abs(history[6][path] - history[5][path]).max() < 0.15


def test_a_sleeping_groups_huge_gradient_does_not_burst_out_on_waking(lean_params):
    gradients = [random_gradients(lean_params, i) for i in range(6)]
    for gradient in gradients:
        layers = gradient["encoder"]["layers"]
        layers["0"] = jax.tree.map(lambda g: np.float32(1e4 * g), layers["0"])
    config = OptimizerConfig("sgd", 1.0, "constant", weight_decay=0, unfreezing={"layer_0": 1})
    history, _ = run(config, lean_params, gradients, steps_per_epoch=5)
    moved = {path: history[6][path] - history[5][path] for path in history[0] if "layers/0" in path}
    # Momentum .9 sums at most 1 / (1 - .9) clipped gradients of norm 1.
    assert np.sqrt(sum(np.sum(m**2) for m in moved.values())) < 10


# --- jit, shapes, given rates


@pytest.mark.parametrize(
    ("optimizer", "bias_correction"),
    [*((name, True) for name in OPTIMIZERS), ("adamw", False), ("lamb", False)],
)
def test_jit_with_donation_from_shapes_alone(make_params, optimizer, bias_correction):
    params = jax.tree.map(jnp.asarray, make_params(1, int_keys=True, attention=("key",)))
    shapes = jax.eval_shape(lambda: params)
    unfreezing = 0 if optimizer == SCHEDULE_FREE else 0.5
    config = OptimizerConfig(
        optimizer, unfreezing=unfreezing, frozen=["embeddings"], bias_correction=bias_correction
    )
    chain = make_optimizer(config, shapes, 12, 4)
    state = chain.init(params)
    assert jax.eval_shape(chain.init, shapes) == jax.eval_shape(lambda: state)

    @chex.assert_max_traces(1)
    def step(params, state, gradient):
        updates, state = chain.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 1))
    gradient = jax.tree.map(jnp.ones_like, params)
    for _ in range(3):
        params, state = jitted(params, state, gradient)
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(params))


def test_str_and_int_layer_keys_agree(make_params):
    updates = []
    for int_keys in (False, True):  # as text, layer 10 sorts before layer 2
        params = make_params(11, int_keys=int_keys)
        chain = make_optimizer(OptimizerConfig("sgd", 0.1, layer_decay=0.8), params, 12, 4)
        ones = jax.tree.map(np.ones_like, params)
        updates.append(flat(chain.update(ones, chain.init(params), params)[0]))
    assert set(updates[0]) == set(updates[1])
    assert all(np.array_equal(updates[0][path], updates[1][path]) for path in updates[0])


def test_updates_keep_the_parameters_dtype(lean_params):
    lean_params = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), lean_params)
    for optimizer in OPTIMIZERS:
        unfreezing = 0 if optimizer == SCHEDULE_FREE else 1
        config = OptimizerConfig(optimizer, unfreezing=unfreezing)
        chain = make_optimizer(config, lean_params, 10, 5)
        updates, _ = jax.eval_shape(chain.update, lean_params, chain.init(lean_params), lean_params)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.bfloat16.dtype}


def test_one_program_serves_every_rate_schedule_decay_and_length(make_params):
    params = make_params(1, attention=("key",))
    gradients = [random_gradients(params, i) for i in range(6)]
    asleep = {"unfreezing": {"layer_0": 1}}
    chain = make_optimizer(OptimizerConfig("adamw", 1.0, **asleep), params, 100, 4)

    @jax.jit
    @chex.assert_max_traces(1)
    def step(params, state, gradient, rates):
        updates, state = chain.update(gradient, state, params, learning_rates=rates)
        return optax.apply_updates(params, updates), state

    for total, config in [
        (12, OptimizerConfig("adamw", 0.1, "cosine", warmup=2, layer_decay=0.9, **asleep)),
        (9, OptimizerConfig("adamw", 0.02, layer_decay=0.5, convention="electra", **asleep)),
    ]:
        wanted, _ = run(config, params, gradients, total_steps=total)
        rates = RatePlan.make(config, params, total, 4).schedules
        now, state = params, chain.init(params)
        for number, gradient in enumerate(gradients):
            now, state = step(now, state, gradient, {k: r(number) for k, r in rates.items()})
        for path, got in flat(now).items():
            np.testing.assert_allclose(got, wanted[-1][path], atol=1e-6, err_msg=path)
