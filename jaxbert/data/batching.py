"""Token ids to batches: the same examples in the same order whatever the layout; seeded, resumable.

A batch is a dict of numpy arrays in one format for padded, bucketed and packed rows (B rows of L
tokens with S segments; unpacked is S = 1):

  input_ids, token_type_ids [B, L] int32
  segment_ids [B, L] int32: 1 to S, 0 for padding
  token_index [B, L] uint32: (place of the example in the batch) * max_length + position
  segment_starts [B, S] int32: the column of each segment's first token, 0 where absent
  weights [B, S] float32: 1 for an example, 0 where absent
  example_ids [B, S] int32: the example's index in the data set, -1 where absent
  labels [B, S] int32 or float32; [B, L] int32 with -100 for token tasks; no key without labels
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxbert.data.packing import (
    Placement,
    Shape,
    bucket,
    bucket_lengths,
    choose_shapes,
    fit,
    round_up,
)
from jaxbert.data.tokenization import Tokenized
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
      tokenized: N examples, each of at most `max_length` tokens.
      batch_size: examples in a batch; the last of an epoch may have fewer. None is dropped or
        split.
      max_length: the model's or the user's limit on the tokens of an example.
      layout: "packed" shares rows between examples; "bucketed" cuts rows to the batch's longest
        example, rounded up to a bucket; "padded" makes rows of `max_length`.
      shuffle: a new order every epoch, from `seed`; otherwise that of the data set.
      part: (i, n): only the i-th of n equal parts of a batch's rows is read and made, all of
        example_ids though.
      row_multiple: B is a multiple of it (devices x accumulation steps), filled with empty rows.
      shapes: shapes that other batches use, to be used here too where they serve ("packed").

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
        shuffle: bool = False,
        seed: int = 0,
        part: tuple[int, int] = (0, 1),
        row_multiple: int = 1,
        shapes: Sequence[Shape] = (),
    ) -> None:
        if layout not in LAYOUTS:
            raise InputError(f"{layout=}: want one of {', '.join(LAYOUTS)}")
        least = {
            "batch_size": (batch_size, 1),
            "row_multiple": (row_multiple, 1),
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
        self.max_length = max_length
        self.layout = layout
        self.shuffle = shuffle
        self.seed = seed
        self.part = part
        self.row_multiple = row_multiple
        self._tokenized = tokenized
        self._given = tuple(shapes)

    @property
    def examples(self) -> int:
        """Examples in the data set."""
        return len(self._tokenized)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._tokenized) // self.batch_size)

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Every shape a batch can have, cheapest first; a batch gets the first that holds it."""
        rows = round_up(self.batch_size, self.row_multiple)
        if self.layout == "padded":
            return (Shape(rows, self.max_length, 1),)
        lengths = self._tokenized.lengths
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
            row_multiple=self.row_multiple,
            exact=exact,
            given=self._given,
        )

    @cached_property
    def stats(self) -> BatchStats:
        """Counts over the first epoch."""
        plans = (fit(self._tokenized.lengths[m], self.shapes)[0] for m in self._members(0))
        return BatchStats(
            real_tokens=int(self._tokenized.lengths.sum()),
            computed_tokens=sum(shape.rows * shape.length for shape in plans),
            truncated_examples=self._tokenized.truncated,
            shapes=len(self.shapes),
        )

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of epoch 0, 1, ... from `start_step` on, as if those before had been read."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise InputError(f"{start_step=}: want 0 to {self.steps_per_epoch}, the epoch's steps")
        return (self._batch(members) for members in self._members(epoch, start_step))

    def _members(self, epoch: int, start_step: int = 0) -> Iterator[np.ndarray]:
        """Each batch's examples, as indices into the data set."""
        order = np.arange(len(self._tokenized))
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(order))
        for start in range(start_step * self.batch_size, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _sample(self) -> tuple[list[np.ndarray], bool]:
        """The lengths in each of some batches, and whether those are all there will be."""
        steps = self.steps_per_epoch
        if not self.shuffle:
            members = list(self._members(0))
            step = 1 if steps <= _EXACT_BATCHES else -(-steps // _SAMPLED_BATCHES)
            return [self._tokenized.lengths[m] for m in members[::step]], step == 1
        epochs = -(-_SAMPLED_BATCHES // steps)
        members = [m for epoch in range(epochs) for m in self._members(epoch)]
        return [self._tokenized.lengths[m] for m in members[:_SAMPLED_BATCHES]], False

    def _batch(self, members: np.ndarray) -> Batch:
        data = self._tokenized
        lengths = data.lengths[members]
        (rows, length, segments), place = fit(lengths, self.shapes)
        example_ids = np.full((rows, segments), -1, np.int32)
        example_ids[place.row, place.segment] = members
        slots = np.arange(len(members))
        index, parts = self.part
        rows //= parts
        here = place.row // rows == index
        members, lengths, slots = members[here], lengths[here], slots[here]
        place = Placement(place.row[here] - index * rows, place.column[here], place.segment[here])
        position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        source = np.repeat(data.offsets[members], lengths) + position
        target = np.repeat(place.row * length + place.column, lengths) + position
        seat = place.row * segments + place.segment

        def tokens(values: np.ndarray, fill: int = 0, dtype: Any = np.int32) -> np.ndarray:
            return _scatter(values, target, (rows, length), fill, dtype)

        def examples(values: Any, fill: int = 0, dtype: Any = np.int32) -> np.ndarray:
            return _scatter(values, seat, (rows, segments), fill, dtype)

        slot = np.repeat(slots, lengths)
        batch = {
            "input_ids": tokens(data.input_ids[source]),
            "token_type_ids": tokens(data.token_type_ids[source]),
            "segment_ids": tokens(np.repeat(place.segment + 1, lengths)),
            "token_index": tokens(slot * self.max_length + position, dtype=np.uint32),
            "segment_starts": examples(place.column),
            "weights": examples(1, dtype=np.float32),
            "example_ids": example_ids,
        }
        if data.labels is not None and data.label_layout == "token":
            batch["labels"] = tokens(data.labels[source], IGNORED_LABEL)
        elif data.labels is not None:
            batch["labels"] = examples(data.labels[members], dtype=data.labels.dtype)
        return batch


def _scatter(
    values: Any, places: np.ndarray, shape: tuple[int, int], fill: int, dtype: Any
) -> np.ndarray:
    out = np.full(shape[0] * shape[1], fill, dtype)
    out[places] = values
    return out.reshape(shape)


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

    Example:
      >>> batch = {"example_ids": np.array([[7, 4]]), "segment_ids": np.array([[1, 1, 2, 0]])}
      >>> split_tokens(batch, np.array([[5, 6, 8, 0]]))
      {7: array([5, 6]), 4: array([8])}
    """
    values = np.asarray(values)
    return {
        int(batch["example_ids"][row, segment]): values[
            row, batch["segment_ids"][row] == segment + 1
        ]
        for row, segment in np.argwhere(batch["example_ids"] >= 0)
    }


class Prefetch:
    """Iterates over `batches` on a thread of its own, up to `depth` items ahead of the reader.

    Errors of the thread are raised where the items are read; leaving the loop early stops it.
    `seconds_waited` adds up how long the reader stood still.

    Example:
      >>> list(Prefetch(range(3)))
      [0, 1, 2]
    """

    def __init__(self, batches: Iterable[Any], depth: int = 2) -> None:
        if depth < 1:
            raise InputError(f"{depth=}: want at least 1")
        self._batches = batches
        self._depth = depth
        self.seconds_waited = 0.0

    def __iter__(self) -> Generator[Any, None, None]:
        items: queue.Queue[tuple[bool, Any]] = queue.Queue(self._depth)
        stop = threading.Event()
        thread = threading.Thread(
            target=_produce, args=(self._batches, items, stop), name="prefetch", daemon=True
        )
        thread.start()
        try:
            while True:
                start = time.perf_counter()
                more, item = items.get()
                self.seconds_waited += time.perf_counter() - start
                if not more:
                    break
                yield item
        finally:
            stop.set()
            # The thread puts at most one item after `stop`; make room, or it would wait for ever.
            while not items.empty():
                items.get_nowait()
            thread.join()
        if item is not None:
            raise item


def _produce(batches: Iterable[Any], items: queue.Queue, stop: threading.Event) -> None:
    """Puts (True, item) for each, then (False, the error that ended it or None)."""
    error = None
    try:
        iterator = iter(batches)
        for item in iterator:
            items.put((True, item))
            if stop.is_set():
                break
        if hasattr(iterator, "close"):
            iterator.close()
    except BaseException as raised:
        error = raised
    if not stop.is_set():
        items.put((False, error))
