"""Token ids to batches: the same examples in the same order whatever the layout; seeded, resumable.

A batch is a dict of numpy arrays in one format for padded, bucketed and packed rows: B rows of L
tokens with S segments, each a feature. Features that are taken together are a unit (the choices of
a question; mostly a unit is one feature) and share a row, W segments for each of the row's U units,
so that S = U W; unpacked is U = 1.

  input_ids, token_type_ids [B, L] int32
  segment_ids [B, L] int32: 1 to S, 0 for padding
  token_index [B, L] uint32: (place of the unit in the batch) * (its longest) + position in it
  segment_starts [B, S] int32: the column of each segment's first token, 0 where absent
  weights [B, S] float32: how much a feature counts in the loss, mostly 1; 0 where absent
  example_ids [B, S] int32: the feature's index in the data set, -1 where absent
  all_segment_ids [B, L] int32, only where there are parts: of the rows of all parts, as example_ids
  labels, no key without: [B, S, ...] int32 or float32 of features; [B, L] int32 of tokens, -100
    where ignored; [B, S, 2] int32 of spans, the row's columns of their first and last token; [B, U]
    int32 of choices, -1 where absent
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxbert.data.features import Tokenized
from jaxbert.data.packing import (
    Placement,
    Shape,
    bucket,
    bucket_lengths,
    choose_shapes,
    deal,
    fit,
    round_up,
)
from jaxbert.errors import InputError

Batch = dict[str, np.ndarray]
LAYOUTS = ("packed", "bucketed", "padded")
IGNORED_LABEL = -100
_SAMPLED_BATCHES = 256
_EXACT_BATCHES = 512  # up to here an unshuffled data set is packed whole to choose its shapes


@dataclass(frozen=True)
class BatchStats:
    """One epoch: tokens of text, tokens computed, examples cut before batching, possible shapes.

    Example:
      >>> BatchStats(real_tokens=96, computed_tokens=128, truncated_examples=0,
      ...            shapes=1).packing_efficiency
      0.75
    """

    real_tokens: int
    computed_tokens: int
    truncated_examples: int
    shapes: int

    @property
    def packing_efficiency(self) -> float:
        """Real over computed tokens, 0 to 1."""
        return self.real_tokens / self.computed_tokens


class Batches:
    """The batches of a data set, epoch by epoch.

    Args:
      tokenized: features, each of at most `max_length` tokens.
      batch_size: units in a batch; the last of an epoch may have fewer. None is dropped or split.
      max_length: the model's or the user's limit on the tokens of a feature.
      layout: "packed" shares rows between units; "bucketed" cuts rows to the batch's longest unit,
        rounded up to a bucket; "padded" makes rows of `max_length` for each feature of a unit.
      shuffle: True = a new order every epoch, from `seed`, in which full batches have about as
        many tokens each; "once" = such an order, for all epochs; False = that of the data set.
      part: (i, n): only the i-th of n equal parts of a batch's rows is read and made; of
        example_ids, and of all_segment_ids, all.
      row_multiple: B is a multiple of it (devices x accumulation steps), filled with empty rows.
      shapes: shapes that other batches use, to be used here too where they serve ("packed").
      epochs: how many there will be: in a longer run more shapes are worth compiling ("packed").

    Example:
      >>> ids = np.array([2, 5, 3, 2, 6, 3, 2, 7, 3], np.int32)
      >>> three = Tokenized(ids, np.zeros_like(ids), offsets=np.array([0, 3, 6, 9]))
      >>> batches = Batches(three, batch_size=2, max_length=8, layout="padded")
      >>> [batch["input_ids"].shape for batch in batches.epoch(0)]
      [(2, 8), (2, 8)]
      >>> next(Batches(three, batch_size=2, max_length=8).epoch(0))["segment_ids"].tolist()
      [[1, 1, 1, 2, 2, 2, 0, 0]]
    """

    def __init__(
        self,
        tokenized: Tokenized,
        batch_size: int,
        *,
        max_length: int,
        layout: str = "packed",
        shuffle: bool | Literal["once"] = False,
        seed: int = 0,
        part: tuple[int, int] = (0, 1),
        row_multiple: int = 1,
        shapes: Sequence[Shape] = (),
        epochs: int = 1,
    ) -> None:
        if layout not in LAYOUTS:
            raise InputError(f"{layout=}: want one of {', '.join(LAYOUTS)}")
        if shuffle not in (True, False, "once"):
            raise InputError(f'{shuffle=}: want True, False or "once"')
        least = {
            "batch_size": (batch_size, 1),
            "row_multiple": (row_multiple, 1),
            "epochs": (epochs, 1),
            "seed": (seed, 0),
        }
        low = [
            f"{name}={value}, want {at} or more"
            for name, (value, at) in least.items()
            if value < at
        ]
        if low:
            raise InputError("; ".join(low))
        if not len(tokenized):
            raise InputError("no examples: there must be at least one to make a batch")
        longest = int(tokenized.lengths.max())
        if longest > max_length:
            raise InputError(
                f"{max_length=} but the longest example has {longest} tokens: tokenize it with "
                "that max_length"
            )
        if row_multiple % part[1]:
            raise InputError(f"{row_multiple=}: want a multiple of the parts, {part[1]}")
        uneven = [shape for shape in shapes if shape.rows % row_multiple]
        if uneven:
            raise InputError(f"shapes {uneven}: want rows that are multiples of {row_multiple=}")
        self.batch_size = batch_size
        self.max_length = max_length * tokenized.width  # of a unit
        self.layout = layout
        self.shuffle = shuffle
        self.seed = seed
        self.part = part
        self.row_multiple = row_multiple
        self._tokenized = tokenized
        self._units = tokenized.offsets[tokenized.features_of]
        self._lengths = np.diff(self._units)
        self._given, self._epochs = tuple(shapes), epochs

    @property
    def features(self) -> int:
        """Features in the data set."""
        return len(self._tokenized)

    @property
    def examples(self) -> int:
        """Units in the data set, which are what batches are counted in."""
        return len(self._lengths)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-self.examples // self.batch_size)

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Every shape a batch can have, cheapest first; a batch gets the first that holds it."""
        rows = round_up(self.batch_size, self.row_multiple)
        if self.layout == "padded":
            return (Shape(rows, self.max_length, 1),)
        lengths = self._lengths
        if self.layout == "bucketed":
            least, most = (bucket(int(n), self.max_length) for n in (lengths.min(), lengths.max()))
            buckets = bucket_lengths(self.max_length)
            return tuple(Shape(rows, n, 1) for n in buckets if least <= n <= most)
        samples, exact = self._sample()
        return choose_shapes(
            samples,
            self.batch_size,
            self.max_length,
            longest=int(lengths.max()),
            steps=self.steps_per_epoch,
            epochs=self._epochs,
            row_multiple=self.row_multiple,
            exact=exact,
            given=self._given,
        )

    @cached_property
    def stats(self) -> BatchStats:
        """Counts over the first epoch."""
        plans = (fit(self._lengths[m], self.shapes)[0] for m in self._members(0))
        return BatchStats(
            real_tokens=int(self._lengths.sum()),
            computed_tokens=sum(shape.rows * shape.length for shape in plans),
            truncated_examples=self._tokenized.truncated,
            shapes=len(self.shapes),
        )

    def examples_of_shapes(self, epoch: int = 0) -> Iterator[Batch]:
        """A batch of each shape that the epoch's first `_SAMPLED_BATCHES` have, as they come."""
        seen: set[Shape] = set()
        for members in itertools.islice(self._members(epoch), _SAMPLED_BATCHES):
            shape, _ = fit(self._lengths[members], self.shapes)
            if shape not in seen:
                seen.add(shape)
                yield self._batch(members)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of epoch 0, 1, ... from `start_step` on, as if those before had been read."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise InputError(f"{start_step=}: want 0 to {self.steps_per_epoch}, the epoch's steps")
        return (self._batch(members) for members in self._members(epoch, start_step))

    def _members(self, epoch: int, start_step: int = 0) -> Iterator[np.ndarray]:
        """Each batch's units, as indices into the data set."""
        return self._members_of(self.seed, epoch, start_step)

    def _members_of(self, seed: int, epoch: int, start_step: int = 0) -> Iterator[np.ndarray]:
        order = np.arange(self.examples)
        if self.shuffle:
            rng = np.random.default_rng([seed, epoch if self.shuffle is True else 0])
            order = deal(self._lengths, self.batch_size, rng)
        for start in range(start_step * self.batch_size, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _sample(self) -> tuple[list[np.ndarray], bool]:
        """The lengths in each of some batches, and whether those are all there will be.

        Of one seed always: runs that differ by their seed then share shapes, so programs.
        """
        steps = self.steps_per_epoch
        if self.shuffle is not True:
            members = list(self._members(0))
            step = 1 if steps <= _EXACT_BATCHES else -(-steps // _SAMPLED_BATCHES)
            return [self._lengths[m] for m in members[::step]], step == 1
        epochs = -(-_SAMPLED_BATCHES // steps)
        members = [m for epoch in range(epochs) for m in self._members_of(0, epoch)]
        return [self._lengths[m] for m in members[:_SAMPLED_BATCHES]], False

    def _batch(self, members: np.ndarray) -> Batch:
        data, width = self._tokenized, self._tokenized.width
        (rows, length, units), place = fit(self._lengths[members], self.shapes)
        seats = self._seats(members, place)
        example_ids = np.full((rows, units * width), -1, np.int32)
        example_ids[seats.row, seats.segment] = seats.feature
        host_only = {"example_ids": example_ids}
        index, parts = self.part
        if parts > 1:  # for results, which come of all rows
            lengths = data.lengths[seats.feature]
            places = np.repeat(seats.row * length + seats.column, lengths) + _positions(lengths)
            segments = np.repeat(seats.segment + 1, lengths)
            host_only["all_segment_ids"] = _scatter(segments, places, (rows, length), 0, np.int32)
        rows //= parts
        seats = seats.within(index * rows, rows)
        lengths = data.lengths[seats.feature]
        position = _positions(lengths)
        source = np.repeat(data.offsets[seats.feature], lengths) + position
        target = np.repeat(seats.row * length + seats.column, lengths) + position

        def tokens(values: np.ndarray, fill: int = 0, dtype: Any = np.int32) -> np.ndarray:
            return _scatter(values, target, (rows, length), fill, dtype)

        def features(values: Any, fill: int = 0, dtype: Any = np.int32) -> np.ndarray:
            seat = seats.row * units * width + seats.segment
            return _scatter(values, seat, (rows, units * width), fill, dtype)

        weights = 1 if data.weights is None else data.weights[seats.feature]
        batch = {
            "input_ids": tokens(data.input_ids[source]),
            "token_type_ids": tokens(data.token_type_ids[source]),
            "segment_ids": tokens(np.repeat(seats.segment + 1, lengths)),
            "token_index": tokens(
                np.repeat(seats.token_index, lengths) + position, dtype=np.uint32
            ),
            "segment_starts": features(seats.column),
            "weights": features(weights, dtype=np.float32),
            **host_only,
            **{name: tokens(values[source], -1) for name, values in data.further.items()},
        }
        if data.labels is None:
            return batch
        if data.label_layout == "token":
            batch["labels"] = tokens(data.labels[source], IGNORED_LABEL)
        elif data.label_layout == "span":
            batch["labels"] = features(data.labels[seats.feature] + seats.column[:, None])
        elif data.label_layout == "choice":
            first = seats.segment % width == 0
            unit = seats.row[first] * units + seats.segment[first] // width
            chosen = data.labels[seats.unit[first]]
            batch["labels"] = _scatter(chosen, unit, (rows, units), -1, np.int32)
        else:
            batch["labels"] = features(data.labels[seats.feature], dtype=data.labels.dtype)
        return batch

    def _seats(self, members: np.ndarray, place: Placement) -> _Seats:
        """Where every feature of these units goes, whose units go where `place` says."""
        data, first = self._tokenized, self._tokenized.features_of[members]
        counts = self._tokenized.features_of[members + 1] - first
        unit = np.repeat(np.arange(len(members)), counts)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        feature = first[unit] + number
        before = data.offsets[feature] - self._units[members][unit]  # tokens of its unit
        return _Seats(
            unit=members[unit],
            feature=feature,
            row=place.row[unit],
            column=place.column[unit] + before,
            segment=place.segment[unit] * data.width + number,
            token_index=unit * self.max_length + before,
        )


class _Seats(NamedTuple):
    """Where n features go; each [n] int64.

    unit, feature: which they are. row, column, segment: of their first token. token_index: that
    token's.
    """

    unit: np.ndarray
    feature: np.ndarray
    row: np.ndarray
    column: np.ndarray
    segment: np.ndarray
    token_index: np.ndarray

    def within(self, first: int, rows: int) -> _Seats:
        """Those of so many rows from the first on, which becomes row 0."""
        here = (first <= self.row) & (self.row < first + rows)
        found = _Seats(*(values[here] for values in self))
        return found._replace(row=found.row - first)


def _positions(lengths: np.ndarray) -> np.ndarray:
    """[T]: which token of its feature each is, of features of these lengths."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _scatter(
    values: Any, places: np.ndarray, shape: tuple[int, int], fill: int, dtype: Any
) -> np.ndarray:
    """An array [*shape, ...] with the values [n, ...], or one value, at these of its places."""
    out = np.full((shape[0] * shape[1], *np.shape(values)[1:]), fill, dtype)
    out[places] = values
    return out.reshape(*shape, *out.shape[1:])


def restore_order(
    example_ids: Iterable[np.ndarray], values: Iterable[np.ndarray], examples: int
) -> np.ndarray:
    """Per-example results of all batches, [B, S, ...] each, in the order of the data set.

    Args:
      example_ids: `batch["example_ids"]` of each batch.
      values: the results for each batch.
      examples: how many there are in the data set.

    Returns:
      [examples, ...]. InputError unless every example came exactly once.

    Example:
      >>> ids = [np.array([[2, 0]]), np.array([[1, -1]])]
      >>> restore_order(ids, [np.array([["c", "a"]]), np.array([["b", ""]])], examples=3).tolist()
      ['a', 'b', 'c']
    """
    parts = [
        (ids[ids >= 0], np.asarray(v)[ids >= 0]) for ids, v in zip(example_ids, values, strict=True)
    ]
    ids = np.concatenate([ids for ids, _ in parts]) if parts else np.zeros(0, np.int32)
    if not np.array_equal(np.sort(ids), np.arange(examples)):
        raise InputError(f"got results of {len(ids)} examples, want each of {examples} once")
    results = np.concatenate([v for _, v in parts])
    ordered = np.empty_like(results)
    ordered[ids] = results
    return ordered


def split_tokens(batch: Mapping[str, np.ndarray], values: np.ndarray) -> dict[int, np.ndarray]:
    """Per-token results of a batch, [B, L, ...], as {index in the data set: [length, ...]}.

    Of a part of a batch, the results are of the rows of all parts.

    Example:
      >>> batch = {"example_ids": np.array([[7, 4]]), "segment_ids": np.array([[1, 1, 2, 0]])}
      >>> split_tokens(batch, np.array([[5, 6, 8, 0]]))
      {7: array([5, 6]), 4: array([8])}
    """
    values = np.asarray(values)
    segment_ids = batch.get("all_segment_ids", batch["segment_ids"])
    return {
        int(batch["example_ids"][row, segment]): values[row, segment_ids[row] == segment + 1]
        for row, segment in np.argwhere(batch["example_ids"] >= 0)
    }
