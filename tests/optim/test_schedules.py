"""Every schedule against its formula, written out again in plain Python from the papers."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxbert.errors import InputError
from jaxbert.optim.schedules import (
    SCHEDULES,
    make_schedule,
    schedule_options,
    schedule_problems,
    to_steps,
)


def by_hand(name, t, total, warmup, **options):
    """The factor at step t, of a schedule with `warmup` whole steps; the step is not past T."""
    get = options.get
    left = total - warmup
    if name == "one-cycle":
        low, end = get("start", 1 / 25), get("end", 4e-6)
        if t < warmup:
            return low + (1 - low) * (1 - math.cos(math.pi * t / warmup)) / 2
        return end + (1 - end) * (1 + math.cos(math.pi * (t - warmup) / left)) / 2
    if name == "slanted-triangular":
        ratio = get("ratio", 32)
        p = t / warmup if t < warmup else 1 - (t - warmup) / left
        return (1 + p * (ratio - 1)) / ratio
    if t < warmup:
        return by_hand(name, warmup, total, warmup, **options) * t / warmup
    u = t - warmup
    if name == "constant":
        return 1.0
    if name == "linear":
        return 1 - (1 - get("end", 0)) * u / left
    if name == "polynomial":
        return (1 - get("end", 0)) * (1 - u / left) ** get("power", 2) + get("end", 0)
    if name == "cosine":
        return get("end", 0) + (1 - get("end", 0)) * math.cos(math.pi * u / left / 2) ** 2
    if name == "cosine-restarts":
        whole, part = divmod(u * get("cycles", 3), left)
        wave = 0 if whole == get("cycles", 3) else math.cos(math.pi * part / left / 2) ** 2
        return get("end", 0) + (1 - get("end", 0)) * wave
    if name == "inverse-sqrt":
        scale = get("timescale") or warmup or 10_000
        return math.sqrt(scale) / math.sqrt(u + scale)
    if name == "warmup-stable-decay":
        decay = get("decay", 0.2)
        decay = round(decay * total) if decay < 1 else decay
        return 1.0 if t <= total - decay else 1 - (1 - get("end", 0)) * (t - total + decay) / decay
    # The three of Smith 2017, with the words of the paper: stepsize, cycle, x.
    stepsize = left / (2 * get("cycles", 3))
    cycle = math.floor(1 + u / (2 * stepsize))
    x = abs(u / stepsize - 2 * cycle + 1)
    base = get("base", 0.25)
    scale = {
        "triangular": 1.0,
        "triangular2": 1 / 2 ** (cycle - 1),
        "exp-range": (get("gamma") or 0.1 ** (1 / left)) ** u,
    }[name]
    return base + (1 - base) * max(0, 1 - x) * scale


OPTIONS = {
    "constant": {},
    "linear": {"end": 0.1},
    "cosine": {"end": 0.1},
    "cosine-restarts": {"cycles": 2, "end": 0.1},
    "polynomial": {"power": 0.5, "end": 0.1},
    "inverse-sqrt": {"timescale": 7},
    "one-cycle": {"start": 0.2, "end": 0.1},
    "triangular": {"cycles": 2, "base": 0.1},
    "triangular2": {"cycles": 4, "base": 0.0},
    "exp-range": {"cycles": 2, "base": 0.1, "gamma": 0.9},
    "slanted-triangular": {"ratio": 8},
    "warmup-stable-decay": {"decay": 11, "end": 0.1},
}


def test_options_cover_every_schedule_and_option():
    assert {name: set(o) for name, o in OPTIONS.items()} == {
        name: set(schedule_options(name)) for name in SCHEDULES
    }


@pytest.mark.parametrize("with_options", [False, True], ids=["defaults", "options"])
@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_is_the_formulas(name, warmup, with_options):
    total, options = 31, OPTIONS[name] if with_options else {}
    factor = make_schedule(name, total, warmup, **options)
    got = factor(jnp.arange(total + 1))
    wanted = [by_hand(name, t, total, warmup, **options) for t in range(total + 1)]
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    assert got.dtype == jnp.float32


# (name): factor at step 0, at the end of the warm-up, and at T, for T = 40, warm-up 8.
ENDPOINTS = {
    "constant": (0, 1, 1),
    "linear": (0, 1, 0),
    "cosine": (0, 1, 0),
    "cosine-restarts": (0, 1, 0),
    "polynomial": (0, 1, 0),
    "inverse-sqrt": (0, 1, math.sqrt(8 / 40)),
    "one-cycle": (0.04, 1, 4e-6),
    "triangular": (0, 0.25, 0.25),
    "triangular2": (0, 0.25, 0.25),
    "exp-range": (0, 0.25, 0.25),
    "slanted-triangular": (1 / 32, 1, 1 / 32),
    "warmup-stable-decay": (0, 1, 0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_ends(name):
    factor = make_schedule(name, 40, 8)
    got = [float(factor(t)) for t in (0, 8, 40)]
    np.testing.assert_allclose(got, ENDPOINTS[name], atol=1e-6)
    assert float(factor(41)) == float(factor(10**6)) == got[2]  # past the end it stays


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_traced_step_and_peak_make_one_program(name):
    factor = make_schedule(name, 20, 0.2)

    @jax.jit
    @chex.assert_max_traces(1)
    def rate(step, peak):
        return peak * factor(step)

    for step in (0, 3, 4, 19, 25):
        for peak in (1e-3, 2.0):
            wanted = peak * by_hand(name, min(step, 20), 20, 4)
            assert float(rate(step, peak)) == pytest.approx(wanted, rel=1e-5, abs=1e-9)


def test_restarts_are_not_moved_by_rounding():
    # 10 / 50 * 5 is 0.99999994 in XLA's float32: the restart would come a step late, a 0 for a 1.
    factor = make_schedule("cosine-restarts", 50, 0, cycles=5)(np.arange(0, 50, 10))
    np.testing.assert_array_equal(factor, 1)


@pytest.mark.parametrize(
    ("warmup", "total", "steps"),
    [(0, 50, 0), (0.1, 50, 5), (0.1, 54, 5), (0.1, 56, 6), (0.5, 1, 0), (0.999, 3, 2), (1, 50, 1),
     (1.0, 50, 1), (49, 50, 49)],
)  # fmt: skip
def test_warmup_in_steps_or_as_a_fraction(warmup, total, steps):
    assert to_steps("warmup", warmup, total) == steps
    by_amount, by_steps = (
        make_schedule("linear", total, w)(jnp.arange(60)) for w in (warmup, steps)
    )
    np.testing.assert_array_equal(by_amount, by_steps)


@pytest.mark.parametrize("name", SCHEDULES)
def test_default_warmup(name):
    steps = {"one-cycle": 12, "slanted-triangular": 4}.get(name, 0)  # torch's .3, ULMFiT's .1
    np.testing.assert_array_equal(
        make_schedule(name, 40)(jnp.arange(41)), make_schedule(name, 40, steps)(jnp.arange(41))
    )


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (("cosin", 10), ["'cosin' must be one of constant, linear, cosine,"]),
        (("linear", 10, 10), ["warmup=10 steps of total_steps=10"]),
        (("linear", 10, 500.0), ["warmup=500 steps of total_steps=10"]),
        (("linear", 10, 1.5), ["warmup=1.5 must be a fraction below 1 or a whole number"]),
        (("linear", 10, -1), ["warmup=-1 must be"]),
        (("linear", 10, math.nan), ["warmup=nan must be"]),
        (("linear", 10, True), ["warmup=True must be"]),
        (("linear", 0), ["total_steps=0 must be"]),
        (("nope", 0, -1), ["total_steps=0", "warmup=-1", "'nope'"]),
    ],
)
def test_bad_arguments_are_named(arguments, messages):
    with pytest.raises(InputError) as error:
        make_schedule(*arguments)
    assert all(message in str(error.value) for message in messages)


RANGES = [
    ("triangular", "base", (0, 0.99), (-0.01, 1)),
    ("one-cycle", "start", (0, 0.99), (-0.01, 1)),
    ("linear", "end", (0, 1), (-0.01, 1.01)),
    ("triangular", "cycles", (1, 2.0), (0, 1.5)),
    ("polynomial", "power", (0.01, 2), (0, -0.5)),
    ("inverse-sqrt", "timescale", (0.5, 100), (0, -0.5)),
    ("exp-range", "gamma", (0.01, 1), (0, -0.5, 1.01)),
    ("slanted-triangular", "ratio", (1, 32), (0.99, -2)),
    ("warmup-stable-decay", "decay", (0.5, 1, 4), (0, -0.5, 1.5)),
]


@pytest.mark.parametrize(("name", "option", "good", "bad"), RANGES)
def test_the_ends_of_every_options_range(name, option, good, bad):
    for value in good:
        assert not schedule_problems(name, None, {option: value})
    for value in bad:
        assert len(schedule_problems(name, None, {option: value})) == 1


def test_all_bad_options_are_named_at_once():
    with pytest.raises(
        ValueError, match=r"cycles=1\.5 .* whole number.*base=1 .*in \[0, 1\).*gam="
    ):
        make_schedule("triangular", 10, cycles=1.5, base=1, gam=2)
    with pytest.raises(InputError, match=r"end=0 is no option of schedule 'constant', .* none"):
        make_schedule("constant", 10, end=0)
    with pytest.raises(InputError, match=r"warmup=5 and decay=6 do not fit into 10 steps"):
        make_schedule("warmup-stable-decay", 10, 5, decay=6)


def test_decay_may_begin_where_the_warmup_ends():
    factor = make_schedule("warmup-stable-decay", 10, 4, decay=6)(jnp.arange(11))
    np.testing.assert_allclose(factor, [0, 0.25, 0.5, 0.75, *np.linspace(1, 0, 7)], atol=1e-6)


def test_without_a_warmup_the_inverse_root_is_of_ten_thousand_steps():
    factor = make_schedule("inverse-sqrt", 20_000)(np.array([10_000]))
    np.testing.assert_allclose(factor, 2**-0.5, rtol=2e-6)


def all_factors(name, total, warmup):
    """At 0 ... total + 2; of an array whose shape never changes, so that jax compiles once."""
    return np.asarray(make_schedule(name, total, warmup)(np.arange(1003)))[: total + 3]


amounts = st.one_of(st.floats(0, 0.75), st.integers(0, 30))


@settings(deadline=None, max_examples=150)
@given(name=st.sampled_from(list(SCHEDULES)), total=st.integers(41, 1000), warmup=amounts)
def test_factors_stay_in_range_and_the_warmup_rises(name, total, warmup):
    factor = all_factors(name, total, warmup)
    assert np.isfinite(factor).all()
    assert factor.min() >= 0
    assert factor.max() <= 1 + 1e-6
    steps = to_steps("warmup", warmup, total)
    assert (np.diff(factor[: steps + 1]) > 0).all()
    if steps and name not in ("one-cycle", "slanted-triangular"):
        assert factor[0] == 0


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(
        ["linear", "cosine", "polynomial", "inverse-sqrt", "one-cycle", "slanted-triangular",
         "warmup-stable-decay", "constant"]
    ),
    total=st.integers(41, 1000),
    warmup=amounts,
)  # fmt: skip
def test_single_hump_schedules_never_rise_after_the_warmup(name, total, warmup):
    factor = all_factors(name, total, warmup)
    assert (np.diff(factor[to_steps("warmup", warmup, total) :]) <= 1e-6).all()
