"""The largest batch that fits a slice, and the smallest slice that holds a batch."""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxbert.errors import DoesNotFit
from jaxbert.plan.compile import Plan
from jaxbert.plan.hardware import CHIPS, parse_topology

CLOSE = 1 / 16


def fastest_meshes(plan: Callable[[str], Plan], devices: int) -> list[Plan]:
    """The plans of all meshes that hold the batch, by their modelled time, the fastest first.

    Args:
      plan: on a mesh, as in "data=4,fsdp=2"; raises `DoesNotFit`, or the plan says so.

    Raises:
      DoesNotFit: no mesh does.
    """
    sizes = [n for n in range(1, devices + 1) if devices % n == 0]
    found = []
    for fsdp in sizes:
        try:
            found.append(_fitting(plan(f"data={devices // fsdp},fsdp={fsdp}")))
        except DoesNotFit as error:
            missing = error
    if not found:
        raise missing
    return sorted(found, key=lambda plan: plan.modelled_seconds)


def largest_batch(plan: Callable[[int], Plan], unit: int) -> Plan:
    """The plan of the largest batch that fits, to a sixteenth of it.

    Memory grows with the batch along a straight line, or nearly: the last two plans that fit say
    where it ends, and one of that size whether it is so.

    Args:
      plan: of a batch size; raises `DoesNotFit`, or the plan says so.
      unit: batch sizes are multiples of it.

    Raises:
      DoesNotFit: not even `unit` fits.
    """
    fits, guess, too_large = [_fitting(plan(unit))], 4 * unit, math.inf
    while guess > fits[-1].batch_size * (1 + CLOSE):
        try:
            fits.append(_fitting(plan(guess)))
            below = min(_full(fits), too_large * (1 - CLOSE))
        except DoesNotFit:
            # The line was wrong: by a little the first time, else look in the middle.
            first, too_large = too_large == math.inf, guess
            below = guess * (1 - CLOSE) if first else (fits[-1].batch_size + guess) / 2
        guess = int(below // unit) * unit
    return fits[-1]


def _full(fits: list[Plan]) -> float:
    """The batch with which memory is full, on a line through the last two plans."""
    if len(fits) == 1:
        return math.inf
    before, last = fits[-2:]
    slope = (last.peak - before.peak) / (last.batch_size - before.batch_size)
    return last.batch_size + (last.memory - last.peak) / slope


def smallest_slice(
    plan: Callable[[str], Plan], kind: str, batch_size: int, accumulation: int = 1
) -> Plan:
    """The plan on the smallest slice of that chip that holds the batch.

    Args:
      plan: on a topology; raises `DoesNotFit`, or the plan says so.
      accumulation: parts that a device's rows are divided into.

    Raises:
      DoesNotFit: no slice does, of those that the batch divides over.
    """
    names = [f"{kind}:{extent}" for extent in CHIPS[kind].slices]
    tried = [n for n in names if batch_size % (accumulation * parse_topology(n)[2]) == 0]
    for name in tried:
        try:
            return _fitting(plan(name))
        except DoesNotFit:
            continue
    raise DoesNotFit(f"a batch of {batch_size} fits none of {', '.join(tried)}")


def _fitting(plan: Plan) -> Plan:
    if not plan.fits:
        raise DoesNotFit(f"{plan.peak / 1e9:.1f} GB of {plan.memory / 1e9:.0f} GB are needed")
    return plan
