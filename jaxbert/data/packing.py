"""Lengths to places: which examples share a batch and a row, which few shapes serve a data set.

Knows lengths only, no tokens. Every shape costs its user a compilation, so there are few of them,
chosen by packing batches of the data set itself and keeping what pays.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxbert.errors import InputError

MAX_SHAPES = 6
# What a shape must save in a run to be worth its compilation, in units of `Shape.cost` (about
# tokens). Compiling takes as long as computing some 30,000 tokens, for a training step of six
# layers on a CPU (10 s) and for an evaluation step alike; but the commands keep what they compile
# for the next run.
_MIN_GAIN = 24_000
_MIN_GAIN_SHARE = 0.01
# Rows of this length cost about twice as much per token as very short ones, since every token
# attends to its whole row: 4 L D operations beside 24 D^2, at a fifth of their speed on a CPU, are
# as many at L = 1.2 D, for widths D of 384 (L = 460) and more.
_ATTENTION_LENGTH = 512
_NEVER = 1 << 40


class Shape(NamedTuple):
    """The static shape of a batch: B rows of L tokens, at most S segments in each.

    Example:
      >>> Shape(rows=8, length=128, segments=4).cost < Shape(rows=16, length=128, segments=4).cost
      True
    """

    rows: int
    length: int
    segments: int

    @property
    def cost(self) -> float:
        """Relative time of a step."""
        return self.rows * self.length * (1 + self.length / _ATTENTION_LENGTH)


class Placement(NamedTuple):
    """Where n examples go; each [n] int64: row, first column, and number within the row from 0."""

    row: np.ndarray
    column: np.ndarray
    segment: np.ndarray

    @property
    def rows(self) -> int:
        """How many rows are in use."""
        return int(self.row.max()) + 1


def bucket_lengths(max_length: int) -> tuple[int, ...]:
    """16, 32, 48, 64, 96, 128, 192 ... below `max_length`, and `max_length` itself."""
    steps = {base << n for base in (16, 24) for n in range(max_length.bit_length())} - {24}
    return (*sorted(step for step in steps if step < max_length), max_length)


def bucket(length: int, max_length: int) -> int:
    """The smallest bucket that holds `length` <= `max_length` tokens."""
    buckets = bucket_lengths(max_length)
    return buckets[bisect_left(buckets, length)]


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `number`."""
    return -(-number // multiple) * multiple


def deal(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """All examples in random order, each full batch with one of every range of lengths.

    The examples sorted by length make as many ranges as a batch has places. Which batch an example
    falls into is even chance as ever, but all hold about the same number of tokens, so that one
    shape serves nearly every batch and little of it is empty. Grouping by length, which padding
    asks for, makes batches of one kind of example each; this makes them alike.

    Args:
      lengths: [n] int.

    Returns:
      [n] int64. What fills no batch comes last.

    Example:
      >>> lengths = np.array([2, 2, 9, 9, 2, 9])
      >>> order = deal(lengths, 2, np.random.default_rng(0))
      >>> lengths[order].reshape(3, 2).sum(axis=1).tolist()
      [11, 11, 11]
    """
    order = rng.permutation(len(lengths))
    full = len(lengths) // batch_size
    dealt, rest = np.split(order, [full * batch_size])
    by_length = dealt[np.argsort(lengths[dealt], kind="stable")]
    ranges = rng.permuted(by_length.reshape(batch_size, full), axis=1)
    return np.concatenate([rng.permuted(ranges.T, axis=1).ravel(), rest])


def one_per_row(count: int) -> Placement:
    """No packing: example i alone in row i."""
    zeros = np.zeros(count, np.int64)
    return Placement(np.arange(count), zeros, zeros)


def pack(lengths: np.ndarray, capacity: int, segments: int) -> Placement:
    """Best fit, longest first: each example goes to the fullest row that still has room for it.

    Args:
      lengths: [n] int, each at most `capacity`.
      segments: how many examples a row may hold.
    """
    row, column, segment = np.zeros((3, len(lengths)), np.int64)
    room: list[tuple[int, int]] = []  # (free tokens, row) of open rows, in order
    taken: list[int] = []  # examples in each row
    for i in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[i])
        at = bisect_left(room, (length, 0))
        if at < len(room):
            free, place = room.pop(at)
        else:
            free, place = capacity, len(taken)
            taken.append(0)
        row[i], column[i], segment[i] = place, capacity - free, taken[place]
        taken[place] += 1
        if taken[place] < segments and free > length:
            insort(room, (free - length, place))
    return Placement(row, column, segment)


def fit(lengths: np.ndarray, shapes: Sequence[Shape]) -> tuple[Shape, Placement]:
    """The first of `shapes` that holds examples of `lengths`, and how; InputError if none does."""
    longest, total = int(lengths.max()), int(lengths.sum())
    packed: dict[tuple[int, int], Placement] = {}
    for shape in shapes:
        rows, capacity, segments = shape
        if longest > capacity or total > rows * capacity or len(lengths) > rows * segments:
            continue
        if segments == 1:
            return shape, one_per_row(len(lengths))
        if (capacity, segments) not in packed:
            packed[capacity, segments] = pack(lengths, capacity, segments)
        if packed[capacity, segments].rows <= rows:
            return shape, packed[capacity, segments]
    raise InputError(f"{len(lengths)} examples, {total} tokens in all, fit none of {[*shapes]}")


def choose_shapes(
    samples: Sequence[np.ndarray],
    batch_size: int,
    max_length: int,
    *,
    longest: int,
    steps: int,
    epochs: int,
    row_multiple: int,
    exact: bool,
    given: Sequence[Shape] = (),
) -> tuple[Shape, ...]:
    """`given` and at most `MAX_SHAPES` more shapes that pack batches like `samples` well.

    Starts with one shape that holds every sample, and greedily adds whichever saves most, until
    none saves what it costs. Rows need not be as short as the longest example allows: longer ones
    pack better and attend slower.

    Args:
      samples: the lengths in each of some batches, [n] int each.
      longest: tokens of the longest example of the data set.
      steps: batches in an epoch.
      epochs: of the run: the more there are, the more shapes pay.
      row_multiple: what the number of rows must be divisible by.
      exact: `samples` are all the batches there will be. If not, the first shape gets spare rows,
        and one more shape can hold any batch.
      given: shapes that cost nothing more, because they are compiled already.

    Returns:
      Shapes in order of cost.
    """
    top = bucket(longest, max_length)
    full = round_up(batch_size, row_multiple)
    costs = {shape: _costs(shape, _rows(samples, shape, row_multiple)) for shape in given}
    starts: list[list[Shape]] = []
    last: list[Shape] = []
    if exact and costs and np.isfinite([*costs.values()]).any(axis=0).all():
        starts.append([])
    for length in (length for length in bucket_lengths(max_length) if length <= 2 * top):
        widest = Shape(full, length, _segments(samples, length, batch_size))
        rows = _rows(samples, widest, row_multiple)
        sizes = set(rows.tolist()) - {_NEVER}
        if length >= top:
            sizes.add(min(max(sizes) + (0 if exact else row_multiple), full))
            starts.append([widest._replace(rows=max(sizes))])
        if length == top and not exact:
            last = [widest]
        costs |= {s: _costs(s, rows) for s in (widest._replace(rows=r) for r in sorted(sizes))}
    least = _MIN_GAIN * len(samples) / (steps * epochs)
    prices = {shape: 0.0 if shape in given else least for shape in costs}
    options = []
    for start in starts:
        room = MAX_SHAPES - len(start) - len(last)
        chosen, total = _add_greedily([*given, *start], costs, room, prices)
        shapes = sorted({*chosen, *last}, key=lambda shape: shape.cost)
        options.append((total, sum(shape.cost for shape in shapes), shapes))
    return tuple(min(options)[-1])


def _add_greedily(
    chosen: list[Shape], costs: dict[Shape, np.ndarray], room: int, prices: Mapping[Shape, float]
) -> tuple[list[Shape], float]:
    """Adds up to `room` shapes while one more pays; also what the samples then cost in all.

    Its price is paid for a shape that samples take, each the first that holds it: one that is there
    in case a batch is larger than they are costs nothing until then, and to make a shape needless
    is a gain.
    """
    others, table = list(costs), np.array(list(costs.values()))
    price = np.array([prices[shape] for shape in others])

    def total(taken: list[int]) -> float:
        cheapest = table[taken].argmin(axis=0)
        used = np.unique(cheapest)
        return float(table[taken].min(axis=0).sum() + price[taken][used].sum())

    taken = [others.index(shape) for shape in chosen]
    least = total(taken)
    for _ in range(room):
        totals = [total([*taken, index]) for index in range(len(others))]
        best = int(np.argmin(totals))
        if least - totals[best] < _MIN_GAIN_SHARE * least or best in taken:
            break
        taken, least = [*taken, best], totals[best]
    return [others[index] for index in taken], least


def _segments(samples: Sequence[np.ndarray], length: int, batch_size: int) -> int:
    """S for rows of `length`: what packing the samples takes, rounded up so that data agree."""
    most = [pack(s, length, batch_size).segment.max() + 1 for s in samples if s.max() <= length]
    return min(round_up(int(max(most, default=1)), 4), batch_size)


def _rows(samples: Sequence[np.ndarray], shape: Shape, row_multiple: int) -> np.ndarray:
    """[samples] rows of the shape's length that each takes; _NEVER where one example is longer."""
    _, length, segments = shape
    rows = [pack(s, length, segments).rows if s.max() <= length else _NEVER for s in samples]
    return np.array([r if r == _NEVER else round_up(r, row_multiple) for r in rows])


def _costs(shape: Shape, rows: np.ndarray) -> np.ndarray:
    """[samples] the shape's cost for each sample it holds, infinite for others."""
    return np.where(rows <= shape.rows, shape.cost, np.inf)
