"""The learning-rate range test: how high a base rate this model and data bear, and how sure it is.

Reference: Smith 2017, "Cyclical learning rates", section 3.3. The rate rises exponentially, step by
step, from where nothing happens to where the loss explodes. On the smoothed loss (an average that
forgets, as in fastai's `lr_find`) the rate of the steepest fall is the suggestion. One rise is one
draw of noise: several, with seeds of their own, say how far to trust it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxbert.errors import InputError

SMOOTHING = 0.9
EXPLODED = 2.0  # times the lowest smoothed loss: nothing is learned from there on
_EDGE = 0.1  # share of the first steps whose smoothed loss still hangs on few values
# A fall that is smaller than this many standard deviations of the smoothed loss is noise.
_CLEAR = 3.0
_AGREE = 3.0  # suggestions of all repeats within this factor: they agree


class Rise(NamedTuple):
    """One rise of the rate.

    rates: [T] the base rate of each step. losses: [T] the training loss, smoothed. steepest: the
    rate where it falls fastest, None where it never clearly falls. exploded: the rate where it
    explodes, None where it never does.
    """

    rates: np.ndarray
    losses: np.ndarray
    steepest: float | None
    exploded: float | None


class RangeTest(NamedTuple):
    """What several rises agree on.

    suggestion: the median of their steepest falls, None where fewer than half have one.
    low, high: the least and the greatest of them. sure: whether all have one, within a factor of 3.
    """

    rises: tuple[Rise, ...]
    suggestion: float | None
    low: float | None
    high: float | None
    sure: bool


def check_range(lowest: float, highest: float, steps: int, repeats: int) -> None:
    """InputError for arguments of `range_test` that make no range; all of them named."""
    problems = []
    if not 0 < lowest < highest < np.inf:
        problems.append(f"{lowest=} and {highest=}: want 0 < lowest < highest")
    if steps < 20:
        problems.append(f"{steps=}: fewer than 20 show no shape")
    if repeats < 1:
        problems.append(f"{repeats=}: want 1 at least")
    if problems:
        raise InputError("; ".join(problems))


def range_test(
    losses: Callable[[np.ndarray, int], Sequence[float]],
    *,
    lowest: float = 1e-5,
    highest: float = 1e-2,
    steps: int = 100,
    repeats: int = 3,
) -> RangeTest:
    """Several rises of the rate from `lowest` to `highest`.

    Args:
      losses: (rates [T], seed) -> the loss of each step, fewer than T where it stopped because of
        an explosion; leaves the model as it found it. `Trainer.rate_losses` of a seed.
      steps: T.
      repeats: rises, with seeds 0, 1, ...

    Raises:
      InputError: bad arguments, all of them named.
    """
    check_range(lowest, highest, steps, repeats)
    rates = np.geomspace(lowest, highest, steps)
    rises = tuple(analyse(rates, losses(rates, seed)) for seed in range(repeats))
    found = [rise.steepest for rise in rises if rise.steepest is not None]
    if 2 * len(found) < repeats:
        return RangeTest(rises, None, None, None, False)
    low, high = min(found), max(found)
    sure = len(found) == repeats > 1 and high <= _AGREE * low
    return RangeTest(rises, float(np.median(found)), low, high, sure)


def analyse(rates: np.ndarray, losses: Sequence[float]) -> Rise:
    """One rise, from the losses of its steps (the last of which may be no number)."""
    raw = np.asarray(losses, np.float64)
    finite = np.isfinite(raw)
    count = len(raw) if finite.all() else int(finite.argmin())
    raw = raw[:count]
    smooth = _smoothed(raw)
    lows = np.minimum.accumulate(smooth) if count else smooth
    over = np.flatnonzero(smooth > EXPLODED * lows)
    end = int(over[0]) if len(over) else count
    stopped = len(over) > 0 or count < len(rates)
    exploded = float(rates[min(end, len(rates) - 1)]) if stopped else None
    return Rise(rates[:count], smooth, _steepest(rates, raw[:end], smooth[:end]), exploded)


def _steepest(rates: np.ndarray, raw: np.ndarray, smooth: np.ndarray) -> float | None:
    """The rate at the steepest fall before the lowest point."""
    first = max(1, int(_EDGE * len(smooth)))
    bottom = int(smooth.argmin()) if len(smooth) else 0
    if bottom <= first:
        return None
    # The standard deviation of an average with this memory, from that of neighbouring steps.
    noise = np.diff(raw[: bottom + 1]).std() / 2**0.5 * ((1 - SMOOTHING) / (1 + SMOOTHING)) ** 0.5
    if smooth[first] - smooth[bottom] < _CLEAR * noise:
        return None
    slope = np.gradient(smooth[first : bottom + 1], np.log(rates[first : bottom + 1]))
    return float(rates[first + int(slope.argmin())])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Exponential average, corrected for its start at nothing."""
    total, found = 0.0, []
    for number, value in enumerate(values, start=1):
        total = SMOOTHING * total + (1 - SMOOTHING) * value
        found.append(total / (1 - SMOOTHING**number))
    return np.array(found)


def describe(test: RangeTest) -> str:
    """A few lines for the terminal."""
    lines = []
    for number, rise in enumerate(test.rises):
        fall = "no clear fall" if rise.steepest is None else f"steepest at {rise.steepest:.2g}"
        end = "never explodes" if rise.exploded is None else f"explodes at {rise.exploded:.2g}"
        lines.append(f"rise {number}: {fall}, {end}")
    if test.suggestion is None:
        return "\n".join([*lines, "no suggestion: the loss does not clearly fall; use a study"])
    trust = (
        "the rises agree"
        if test.sure
        else "the rises do not agree, or are too few: compare a few rates with `jaxbert lab run`"
    )
    between = f"{test.low:.2g} to {test.high:.2g}"
    return "\n".join(
        [*lines, f"suggested peak: {test.suggestion:.2g} (between {between}; {trust})"]
    )
