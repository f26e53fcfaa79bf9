"""Schedules against `transformers` and torch, and 50 steps against torch's optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from tolerance import assert_followed
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, OneCycleLR

from jaxbert.optim import OptimizerConfig, make_optimizer, make_schedule

TOTAL, WARMUP = 50, 7


def torch_factors(make, steps=TOTAL, base=1.0):
    """The learning rate before each of the steps, and after the last."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    scheduler = make(optimizer)
    factors = []
    for _ in range(steps + 1):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


TRANSFORMERS = {
    "constant": ("constant_schedule_with_warmup", {}, {}),
    "linear": ("linear_schedule_with_warmup", {}, {}),
    "cosine": ("cosine_schedule_with_warmup", {}, {}),
    "cosine-restarts": (
        "cosine_with_hard_restarts_schedule_with_warmup", {"num_cycles": 3}, {"cycles": 3},
    ),
    "polynomial": (
        "polynomial_decay_schedule_with_warmup", {"power": 3.0, "lr_end": 0.1},
        {"power": 3.0, "end": 0.1},
    ),
    "inverse-sqrt": ("inverse_sqrt_schedule", {}, {}),
    "warmup-stable-decay": (
        "wsd_schedule", {"num_decay_steps": 20, "decay_type": "linear"}, {"decay": 20},
    ),
}  # fmt: skip


@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_schedules(name, warmup):
    theirs, their_options, options = TRANSFORMERS[name]
    their_options = {"num_warmup_steps": warmup, "num_training_steps": TOTAL} | their_options
    if name in ("constant", "inverse-sqrt"):
        del their_options["num_training_steps"]
    make = getattr(transformers, f"get_{theirs}", None) or getattr(
        transformers.optimization, f"get_{theirs}"
    )
    wanted = torch_factors(lambda optimizer: make(optimizer, **their_options))
    got = make_schedule(name, TOTAL, warmup, **options)(jnp.arange(TOTAL + 1))
    np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("triangular", "triangular"), ("triangular2", "triangular2"), ("exp-range", "exp_range")],
)
def test_torch_cyclical(name, mode):
    gamma = {"gamma": 0.97} if mode == "exp_range" else {}
    wanted = torch_factors(
        lambda optimizer: CyclicLR(
            optimizer, 0.2, 1.0, step_size_up=5, mode=mode, cycle_momentum=False, **gamma
        ),
        base=0.2,
    )
    got = make_schedule(name, TOTAL, 0, cycles=5, base=0.2, **gamma)(jnp.arange(TOTAL + 1))
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_torch_one_cycle():
    # torch's peak is at pct_start * total - 1 and its end at total - 1: one more step of each.
    total, share = TOTAL + 1, (WARMUP + 1) / (TOTAL + 1)
    wanted = torch_factors(
        lambda o: OneCycleLR(o, 1.0, total_steps=total, pct_start=share, cycle_momentum=False),
        steps=TOTAL - 1,
    )
    got = make_schedule("one-cycle", TOTAL, WARMUP)(jnp.arange(TOTAL))
    np.testing.assert_allclose(got, wanted, atol=1e-6)


SHAPES = {
    "encoder/embeddings/word_embeddings/embedding": (11, 4),
    "encoder/embeddings/layer_norm/scale": (4,),
    "encoder/layers/0/output/kernel": (6, 4),
    "encoder/layers/0/output/bias": (4,),
    "encoder/layers/1/output/kernel": (6, 4),
    "encoder/layers/1/output_norm/bias": (4,),
    "encoder/pooler/kernel": (4, 4),
    "head/classifier/kernel": (4, 3),
    "head/classifier/bias": (3,),
}
DECAY = 0.8
MULTIPLIERS = [DECAY**3] * 2 + [DECAY**2] * 2 + [DECAY] * 2 + [1.0] * 3
DECAYED = [True, False, True, False, True, False, True, True, False]


def nested(values):
    tree = {}
    for path, value in zip(SHAPES, values, strict=True):
        *parents, leaf = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[leaf] = value
    return tree


def draw(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [np.float32(scale * rng.normal(size=shape)) for shape in SHAPES.values()]


def gradient(p, noise):
    """Of a bowl around 1, with noise: it depends on the parameters, so errors would feed back."""
    return 0.5 * (p - 1) + noise


NOISE = [draw(100 + step, scale=0.5 if step % 3 else 0.02) for step in range(TOTAL)]


def train_jax(config):
    params = nested(draw(0))
    optimizer = make_optimizer(config, params, TOTAL, 10)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, noise):
        updates, state = optimizer.update(jax.tree.map(gradient, params, noise), state, params)
        return optax.apply_updates(params, updates), state

    history = []
    for noise in NOISE:
        params, state = step(params, state, nested(noise))
        history.append(params)
    return history


def train_torch(make_optimizer, peak, weight_decay, max_norm):
    """The usual loop: parameter groups by rate and decay, a LambdaLR, clip_grad_norm_."""
    params = [torch.nn.Parameter(torch.tensor(p)) for p in draw(0)]
    optimizer = make_optimizer(
        [
            {"params": [p], "lr": peak * m, "weight_decay": weight_decay * d}
            for p, m, d in zip(params, MULTIPLIERS, DECAYED, strict=True)
        ]
    )
    scheduler = LambdaLR(
        optimizer, lambda t: t / WARMUP if t < WARMUP else (TOTAL - t) / (TOTAL - WARMUP)
    )
    history, norms = [], []
    for noise in NOISE:
        for p, n in zip(params, noise, strict=True):
            p.grad = gradient(p.detach(), torch.tensor(n))
        norms.append(float(torch.nn.utils.clip_grad_norm_(params, max_norm)))
        optimizer.step()
        scheduler.step()
        history.append(nested([p.detach().numpy().copy() for p in params]))
    assert min(norms) < max_norm < max(norms)  # clipping comes and goes
    return history


def assert_same(got, wanted, beta2=None):
    for step, trees in enumerate(zip(got, wanted, strict=True)):
        for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
            steps = range(1, step + 2)
            assert_followed(a, b, steps=steps, rate=0.03, beta2=beta2, what=f"step {step}")


def test_fifty_steps_of_adamw_with_a_rate_per_layer():
    config = OptimizerConfig(
        "adamw", 0.03, "linear", warmup=WARMUP, layer_decay=DECAY, weight_decay=0.05, clip_norm=7.0,
        epsilon=1e-8,
    )  # fmt: skip
    wanted = train_torch(lambda groups: torch.optim.AdamW(groups, eps=1e-8), 0.03, 0.05, 7.0)
    assert_same(train_jax(config), wanted, beta2=0.999)


def test_fifty_steps_of_sgd_with_momentum():
    config = OptimizerConfig(
        "sgd", 0.03, "linear", warmup=WARMUP, layer_decay=DECAY, weight_decay=0, clip_norm=4.0
    )
    wanted = train_torch(lambda groups: torch.optim.SGD(groups, momentum=0.9), 0.03, 0, 4.0)
    assert_same(train_jax(config), wanted)
