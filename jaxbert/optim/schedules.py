"""Learning-rate schedules: step -> factor in [0, 1] of the peak learning rate.

Factors, not rates: the peak multiplies from outside (`rate_plan.RatePlan`), so one schedule
serves every group of layers, and a peak that is traced, an argument of a compiled step, works.

In all of them, with T = total_steps, W = the warm-up in steps, S = T - W and u = t - W:
- The step counts updates from 0. The first uses factor(0), the last factor(T - 1); factor(T) is
  where the curve ends. Past the end the factor stays at factor(T).
- A schedule's function takes W (`warmup`) and T (`total`) in whole steps, and its options by name.
- Warm-up rises linearly from 0 at t = 0 to the schedule's own first value at t = W; so the first
  update of a warm-up moves nothing, as in Google's BERT, `transformers` and optax. `one-cycle` and
  `slanted-triangular` have a rise of their own, from above 0: there the warm-up sets its length.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxbert.errors import InputError
from jaxbert.settings import is_number

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]
Curve = Callable[[jax.Array], jax.Array]  # a schedule inside: the step comes as a float32 in [0, T]


def make_schedule(
    name: str, total_steps: int, warmup: float | None = None, **options: float
) -> Schedule:
    """The named schedule over a run.

    Args:
      name: a key of `SCHEDULES`.
      total_steps: T, the updates of the whole run.
      warmup: below 1 a fraction of T, from 1 a number of steps; None = `DEFAULT_WARMUP` or 0.
      options: of the schedule; see its function.

    Returns:
      step -> factor, float32 of the step's shape. The step is an int, traced or not, or an array.

    Raises:
      InputError: unknown names and options, options out of range, a warm-up that leaves no steps.

    Example:
      >>> factor = make_schedule("linear", total_steps=10, warmup=0.2)
      >>> factor(jnp.arange(4)).tolist()
      [0.0, 0.5, 1.0, 0.875]
    """
    problems = schedule_problems(name, warmup, options)
    if not isinstance(total_steps, int) or total_steps < 1:
        problems.append(f"{total_steps=} must be a whole number, at least 1")
    if problems:
        raise InputError("; ".join(problems))
    warmup = DEFAULT_WARMUP.get(name, 0) if warmup is None else warmup
    curve = SCHEDULES[name](to_steps("warmup", warmup, total_steps), total_steps, **options)

    def factor(step: jax.typing.ArrayLike) -> jax.Array:
        return curve(jnp.clip(jnp.asarray(step, jnp.float32), 0, total_steps))

    return factor


def to_steps(argument: str, amount: float, total_steps: int) -> int:
    """A number of steps from a number of steps (>= 1), or a fraction of the total (< 1, rounded).

    Args:
      argument: what the amount is called in an error.
      amount: below 1 a fraction, from 1 a number of steps.
      total_steps: of the run.

    Returns:
      A whole number below the total.

    Raises:
      InputError: as many steps as there are in all, or more. (A fraction leaves one at least.)

    Example:
      >>> to_steps("warmup", 0.1, 200), to_steps("warmup", 30, 200)
      (20, 30)
    """
    if amount < 1:
        return min(round(amount * total_steps), total_steps - 1)
    if amount >= total_steps:
        raise InputError(
            f"{argument}={amount:g} steps of {total_steps=} leave none for the rest: take fewer, "
            f"or a fraction below 1"
        )
    return int(amount)


def _after_warmup(warmup: int, body: Curve) -> Curve:
    if warmup == 0:
        return body
    rise = optax.linear_schedule(0.0, body(jnp.float32(0)), warmup)
    joined: Curve = optax.join_schedules([rise, body], [warmup])
    return joined


def constant(warmup: int, total: int) -> Curve:
    """1 throughout.

    Example:
      >>> [round(float(constant(2, 10)(t)), 4) for t in (0, 1, 2, 10)]
      [0.0, 0.5, 1.0, 1.0]
    """
    return _after_warmup(warmup, jnp.ones_like)


def linear(warmup: int, total: int, *, end: float = 0.0) -> Curve:
    """1 + (end - 1) u / S: down to `end` at T.

    Reference: Devlin et al. 2019, appendix A.2. Theirs in code, google-research/bert
    optimization.py, decays from t = 0, and so jumps from 1 to 1 - W/T where the warm-up ends;
    this one, like `transformers`, decays from t = W.

    Example:
      >>> [round(float(linear(2, 10)(t)), 4) for t in (0, 1, 2, 6, 10)]
      [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    return _after_warmup(warmup, optax.linear_schedule(1.0, end, total - warmup))


def polynomial(warmup: int, total: int, *, power: float = 2.0, end: float = 0.0) -> Curve:
    """end + (1 - end) (1 - u/S)^power: `end` at T.

    Reference: TensorFlow's polynomial_decay; `transformers`' get_polynomial_decay_schedule.

    Example:
      >>> [round(float(polynomial(2, 10)(t)), 4) for t in (1, 2, 6, 10)]
      [0.5, 1.0, 0.25, 0.0]
    """
    return _after_warmup(warmup, optax.polynomial_schedule(1.0, end, power, total - warmup))


def cosine(warmup: int, total: int, *, end: float = 0.0) -> Curve:
    """end + (1 - end) (1 + cos(pi u/S)) / 2: `end` at T.

    Reference: Loshchilov & Hutter 2017, "SGDR", eq. 5, one cycle.

    Example:
      >>> [round(float(cosine(2, 10)(t)), 4) for t in (1, 2, 6, 10)]
      [0.5, 1.0, 0.5, 0.0]
    """
    return _after_warmup(warmup, optax.cosine_decay_schedule(1.0, total - warmup, alpha=end))


def cosine_restarts(warmup: int, total: int, *, cycles: float = 3, end: float = 0.0) -> Curve:
    """end + (1 - end) (1 + cos(pi frac(cycles u/S))) / 2: back to 1 at each restart, `end` at T.

    Reference: Loshchilov & Hutter 2017, eq. 5, with cycles of equal length, as `transformers`'
    cosine with hard restarts. (optax.sgdr_schedule wants every cycle a whole number of steps.)

    Example:
      >>> [round(float(cosine_restarts(0, 12)(t)), 4) for t in (0, 2, 4, 6, 12)]
      [1.0, 0.5, 1.0, 0.5, 0.0]
    """
    steps = total - warmup

    def body(u: jax.Array) -> jax.Array:
        # The product first: whole numbers, so that no rounding moves a restart by a step.
        phase = jnp.mod(u * cycles, steps) / steps
        wave = 0.5 * (1 + jnp.cos(jnp.pi * phase))
        return end + (1 - end) * jnp.where(u >= steps, 0.0, wave)

    return _after_warmup(warmup, body)


def inverse_sqrt(warmup: int, total: int, *, timescale: float | None = None) -> Curve:
    """sqrt(c / (u + c)); c = `timescale`, by default W, or 10,000 without a warm-up.

    Ends at sqrt(c / (S + c)), above 0. Reference: Vaswani et al. 2017, eq. 3, with peak 1;
    `transformers`' get_inverse_sqrt_schedule, the source of the 10,000.

    Example:
      >>> [round(float(inverse_sqrt(4, 16)(t)), 4) for t in (2, 4, 16)]
      [0.5, 1.0, 0.5]
    """
    scale = timescale or warmup or 10_000

    def body(u: jax.Array) -> jax.Array:
        return jnp.sqrt(scale / (jnp.maximum(u, 0) + scale))

    return _after_warmup(warmup, body)


def one_cycle(warmup: int, total: int, *, start: float = 1 / 25, end: float = 4e-6) -> Curve:
    """A half cosine from `start` up to 1 at t = W, another down to `end` at T.

    Reference: Smith & Topin 2018, "Super-Convergence", with cosine flanks and the defaults of
    torch's OneCycleLR (which peaks at W - 1 and ends at T - 1) and optax.cosine_onecycle_schedule.

    Example:
      >>> [round(float(one_cycle(2, 10)(t)), 4) for t in (0, 1, 2, 6, 10)]
      [0.04, 0.52, 1.0, 0.5, 0.0]
    """

    def curve(t: jax.Array) -> jax.Array:
        up = 0.5 * (1 - jnp.cos(jnp.pi * t / max(warmup, 1)))
        down = 0.5 * (1 + jnp.cos(jnp.pi * (t - warmup) / (total - warmup)))
        return jnp.where(t < warmup, start + (1 - start) * up, end + (1 - end) * down)

    return curve


def slanted_triangular(warmup: int, total: int, *, ratio: float = 32.0) -> Curve:
    """(1 + p (ratio - 1)) / ratio; p = t / W up to W, then 1 - u/S: 1/ratio at both ends.

    Reference: Howard & Ruder 2018, "ULMFiT", eq. 3, W being their cut. Their cut * (1/cut_frac - 1)
    is S but for the rounding of the cut; S itself makes p exactly 0 at T.

    Example:
      >>> [round(float(slanted_triangular(2, 10)(t)), 4) for t in (0, 1, 2, 6, 10)]
      [0.0312, 0.5156, 1.0, 0.5156, 0.0312]
    """

    def curve(t: jax.Array) -> jax.Array:
        up, down = t / max(warmup, 1), 1 - (t - warmup) / (total - warmup)
        return (1 + jnp.where(t < warmup, up, down) * (ratio - 1)) / ratio

    return curve


def _cyclical(
    warmup: int,
    total: int,
    cycles: float,
    base: float,
    scale: Callable[[jax.Array, jax.Array], jax.typing.ArrayLike],
) -> Curve:
    """base + (1 - base) triangle(u) scale(cycle, u), with `cycles` triangles in S steps."""
    steps = total - warmup

    def body(u: jax.Array) -> jax.Array:
        u = jnp.maximum(u, 0)
        phase = u * 2 * cycles / steps
        cycle = jnp.floor(phase / 2)
        return base + (1 - base) * (1 - jnp.abs(phase - 2 * cycle - 1)) * scale(cycle, u)

    return _after_warmup(warmup, body)


def triangular(warmup: int, total: int, *, cycles: float = 3, base: float = 0.25) -> Curve:
    """`base` up to 1 and back, `cycles` times; `base` at T.

    Reference: Smith 2017, "Cyclical Learning Rates", section 3; base = max/4 is its section 3.3.
    The cycle is given by its number, not its length, so that it scales with the run.

    Example:
      >>> [round(float(triangular(0, 12)(t)), 4) for t in (0, 1, 2, 4, 6)]
      [0.25, 0.625, 1.0, 0.25, 1.0]
    """
    return _cyclical(warmup, total, cycles, base, lambda cycle, u: 1.0)


def triangular2(warmup: int, total: int, *, cycles: float = 3, base: float = 0.25) -> Curve:
    """`triangular` with half the height in each following cycle. Reference: Smith 2017.

    Example:
      >>> [round(float(triangular2(0, 12)(t)), 4) for t in (0, 2, 4, 6, 10)]
      [0.25, 1.0, 0.25, 0.625, 0.4375]
    """
    return _cyclical(warmup, total, cycles, base, lambda cycle, u: 0.5**cycle)


def exp_range(
    warmup: int, total: int, *, cycles: float = 3, base: float = 0.25, gamma: float | None = None
) -> Curve:
    """`triangular` with its height times gamma^u; default gamma: a tenth of the height at T.

    Reference: Smith 2017.

    Example:
      >>> [round(float(exp_range(0, 12, gamma=0.5)(t)), 4) for t in (0, 1, 2, 4)]
      [0.25, 0.4375, 0.4375, 0.25]
    """
    gamma = 0.1 ** (1 / (total - warmup)) if gamma is None else gamma
    return _cyclical(warmup, total, cycles, base, lambda cycle, u: gamma**u)


def warmup_stable_decay(warmup: int, total: int, *, decay: float = 0.2, end: float = 0.0) -> Curve:
    """1 until `decay` (steps, or a fraction of T) before the end, then linear to `end` at T.

    Reference: Hu et al. 2024, "MiniCPM", section 4; the linear decay of Hägele et al. 2024.

    Raises:
      InputError: warm-up and decay together exceed T.

    Example:
      >>> [round(float(warmup_stable_decay(2, 10, decay=4)(t)), 4) for t in (1, 2, 6, 8, 10)]
      [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    steps = to_steps("decay", decay, total)
    if warmup + steps > total:
        raise InputError(f"{warmup=} and {decay=} do not fit into {total} steps: shorten one")
    return _after_warmup(
        warmup, optax.linear_schedule(1.0, end, steps, transition_begin=total - warmup - steps)
    )


SCHEDULES: dict[str, Callable[..., Curve]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "cosine-restarts": cosine_restarts,
    "polynomial": polynomial,
    "inverse-sqrt": inverse_sqrt,
    "one-cycle": one_cycle,
    "triangular": triangular,
    "triangular2": triangular2,
    "exp-range": exp_range,
    "slanted-triangular": slanted_triangular,
    "warmup-stable-decay": warmup_stable_decay,
}

# Where the formula needs a rise: torch's pct_start, and ULMFiT's cut_frac. Elsewhere 0.
DEFAULT_WARMUP = {"one-cycle": 0.3, "slanted-triangular": 0.1}

_OPTION_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "base": (lambda v: 0 <= v < 1, "in [0, 1)"),
    "start": (lambda v: 0 <= v < 1, "in [0, 1)"),
    "end": (lambda v: 0 <= v <= 1, "in [0, 1]"),
    "cycles": (lambda v: v >= 1 and v == int(v), "a whole number, at least 1"),
    "power": (lambda v: v > 0, "positive"),
    "timescale": (lambda v: v > 0, "positive"),
    "gamma": (lambda v: 0 < v <= 1, "in (0, 1]"),
    "ratio": (lambda v: v >= 1, "at least 1"),
    "decay": (lambda v: 0 < v < 1 or (v >= 1 and v == int(v)),
              "a fraction below 1 or a whole number of steps"),
}  # fmt: skip


def schedule_options(name: str) -> tuple[str, ...]:
    """The options a schedule takes.

    Args:
      name: a key of `SCHEDULES`.

    Returns:
      Their names.

    Example:
      >>> schedule_options("triangular")
      ('cycles', 'base')
    """
    parameters = inspect.signature(SCHEDULES[name]).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def schedule_problems(name: str, warmup: float | None, options: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with a schedule as asked for.

    Args:
      name: should be a key of `SCHEDULES`.
      warmup: should be a number of steps, a fraction, or None.
      options: {option: value} should be of that schedule, and in range.

    Returns:
      A sentence for each problem; empty when it is fine.

    Example:
      >>> schedule_problems("linear", None, {"end": 2})
      ["end=2 of schedule 'linear' must be in [0, 1]"]
    """
    problems = []
    if warmup is not None and not _is_amount(warmup):
        problems.append(f"{warmup=} must be a fraction below 1 or a whole number of steps")
    if name not in tuple(SCHEDULES):
        return [f"schedule={name!r} must be one of {', '.join(SCHEDULES)}", *problems]
    known = schedule_options(name)
    for option, value in options.items():
        if option not in known:
            problems.append(
                f"{option}={value!r} is no option of schedule {name!r}, which takes "
                f"{', '.join(known) or 'none'}"
            )
        elif not is_number(value) or not _OPTION_RANGES[option][0](value):
            problems.append(
                f"{option}={value!r} of schedule {name!r} must be {_OPTION_RANGES[option][1]}"
            )
    return problems


def _is_amount(value: Any) -> bool:
    return is_number(value) and (0 <= value < 1 or (value >= 1 and value == int(value)))
