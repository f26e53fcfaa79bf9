"""Batches: the same examples whatever the layout, each once, resumable, in the promised format."""

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxbert.data.batching import Batches, restore_order, split_tokens
from jaxbert.data.features import Tokenized
from jaxbert.data.packing import Shape
from jaxbert.data.prefetch import Prefetch

MAX_LENGTH = 24
LAYOUTS = ("packed", "bucketed", "padded")


def make(lengths, labels="classes", token_labels=False, truncated=0):
    """Examples whose every token id tells which example and position it is."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    example = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(offsets[-1]) - offsets[example]
    values = {
        "classes": np.arange(len(lengths), dtype=np.int32) % 3,
        "numbers": np.arange(len(lengths), dtype=np.float32) / 2,
        None: None,
    }
    per_token = (position - 100).astype(np.int32)
    return Tokenized(
        input_ids=(1000 * (example + 1) + position).astype(np.int32),
        token_type_ids=(position % 2).astype(np.int32),
        offsets=offsets,
        labels=per_token if token_labels else values[labels],
        label_layout="token" if token_labels else "example",
        truncated=truncated,
    )


data_sets = st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=70)
options = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 12),
        "shuffle": st.sampled_from([True, False, "once"]),
        "seed": st.integers(0, 3),
        "row_multiple": st.sampled_from([1, 2, 6]),
    }
)


def segments(batch):
    """(row, column of the first token, length, number in the row from 0) of every example."""
    for row, number in np.argwhere(batch["weights"] > 0):
        columns = np.flatnonzero(batch["segment_ids"][row] == number + 1)
        yield row, columns, number


def check_format(batch, batches, tokenized):
    rows, length = batch["input_ids"].shape
    held = batch["weights"].shape[1]
    assert (rows, length, held) in batches.shapes
    assert rows % batches.row_multiple == 0
    for name in ("input_ids", "token_type_ids", "segment_ids"):
        assert batch[name].shape == (rows, length)
        assert batch[name].dtype == np.int32
    assert batch["token_index"].dtype == np.uint32
    for name, dtype in (("segment_starts", "i4"), ("example_ids", "i4"), ("weights", "f4")):
        assert batch[name].shape == (rows, held)
        assert batch[name].dtype == dtype
    absent = batch["weights"] == 0
    assert np.array_equal(absent, batch["example_ids"] < 0)
    assert not batch["segment_starts"][absent].any()
    if tokenized.labels is None:
        assert "labels" not in batch


def check_content(batch, tokenized, members):
    """Every example is there whole, in one piece, and nothing else is."""
    seen, tokens = [], 0
    for row, columns, number in segments(batch):
        example = batch["example_ids"][row, number]
        start, end = tokenized.offsets[example], tokenized.offsets[example + 1]
        assert np.array_equal(columns, np.arange(columns[0], columns[0] + end - start))
        assert columns[0] == batch["segment_starts"][row, number]
        assert np.array_equal(batch["input_ids"][row, columns], tokenized.input_ids[start:end])
        types = batch["token_type_ids"][row, columns]
        assert np.array_equal(types, tokenized.token_type_ids[start:end])
        slot = members.tolist().index(example)
        index = batch["token_index"][row, columns]
        assert np.array_equal(index, slot * MAX_LENGTH + np.arange(end - start))
        if tokenized.label_layout == "token":
            labels = batch["labels"][row, columns]
            assert np.array_equal(labels, tokenized.labels[start:end])
        elif tokenized.labels is not None:
            assert batch["labels"][row, number] == tokenized.labels[example]
            assert batch["labels"].dtype == tokenized.labels.dtype
        seen.append(example)
        tokens += len(columns)
    assert sorted(seen) == sorted(members)
    padding = batch["segment_ids"] == 0
    assert tokens == (~padding).sum()
    for name in ("input_ids", "token_type_ids", "token_index"):
        assert not batch[name][padding].any()
    if tokenized.label_layout == "token":
        assert (batch["labels"][padding] == -100).all()


@settings(max_examples=60, deadline=None)
@given(data_sets, options, st.sampled_from(["classes", "numbers", None]), st.booleans(), st.data())
def test_each_example_once_and_whole_in_every_layout(lengths, options, labels, per_token, data):
    tokenized = make(lengths, labels, per_token)
    epoch = data.draw(st.integers(0, 20))
    layouts = {
        layout: Batches(tokenized, max_length=MAX_LENGTH, layout=layout, **options)
        for layout in LAYOUTS
    }
    steps = [list(batches.epoch(epoch)) for batches in layouts.values()]
    assert all(len(s) == b.steps_per_epoch for s, b in zip(steps, layouts.values(), strict=True))
    everything = []
    for step in zip(*steps, strict=True):
        padded = step[LAYOUTS.index("padded")]["example_ids"]
        members = padded[padded >= 0]
        everything += members.tolist()
        for batch, batches in zip(step, layouts.values(), strict=True):
            check_format(batch, batches, tokenized)
            check_content(batch, tokenized, members)
    assert sorted(everything) == list(range(len(lengths)))
    if not options["shuffle"]:
        assert everything == sorted(everything)


@settings(max_examples=40, deadline=None)
@given(data_sets, options, st.sampled_from(LAYOUTS), st.data())
def test_starting_at_a_step_is_skipping_to_it(lengths, options, layout, data):
    def batches():
        return Batches(make(lengths), max_length=MAX_LENGTH, layout=layout, **options)

    start = data.draw(st.integers(0, batches().steps_per_epoch))
    skipped = list(batches().epoch(3))[start:]
    resumed = list(batches().epoch(3, start))
    assert len(skipped) == len(resumed)
    for one, other in zip(skipped, resumed, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_packed_batch_by_hand():
    tokenized = make([3, 14, 2, 5])
    batches = Batches(tokenized, 3, max_length=16, row_multiple=2)
    first, last = batches.epoch(0)
    # The 14 and the 2 share a row, the 3 has the other.
    assert first["segment_ids"].tolist() == [[1] * 14 + [2] * 2, [1] * 3 + [0] * 13]
    assert first["input_ids"][0].tolist() == [*range(2000, 2014), 3000, 3001]
    assert first["token_index"][0].tolist() == [*range(16, 30), 32, 33]
    assert first["example_ids"].tolist() == [[1, 2, -1], [0, -1, -1]]
    assert first["segment_starts"].tolist() == [[0, 14, 0], [0, 0, 0]]
    assert first["weights"].tolist() == [[1, 1, 0], [1, 0, 0]]
    assert first["labels"].tolist() == [[1, 2, 0], [0, 0, 0]]
    assert last["example_ids"].tolist() == [[3, -1, -1], [-1, -1, -1]]
    assert last["segment_ids"][1].tolist() == [0] * 16
    assert batches.stats.real_tokens == 24
    assert batches.stats.computed_tokens == 64
    assert batches.stats.packing_efficiency == 24 / 64


def test_row_shapes_of_each_layout():
    tokenized = make([3, 20, 40, 5, 7], truncated=2)
    options = {"max_length": 128, "row_multiple": 4}
    padded = Batches(tokenized, 2, layout="padded", **options)
    assert [b["input_ids"].shape for b in padded.epoch(0)] == [(4, 128)] * 3
    assert padded.stats.shapes == len(padded.shapes) == 1
    assert padded.stats.truncated_examples == 2
    bucketed = Batches(tokenized, 2, layout="bucketed", **options)
    assert [b["input_ids"].shape for b in bucketed.epoch(0)] == [(4, 32), (4, 48), (4, 16)]
    assert [shape.length for shape in bucketed.shapes] == [16, 32, 48]
    assert [s.length for s in Batches(make([20, 40]), 2, layout="bucketed", **options).shapes] == [
        32,
        48,
    ]
    packed = Batches(tokenized, 4, layout="packed", max_length=128)
    assert packed.stats.computed_tokens < bucketed.stats.computed_tokens


def test_shuffling_is_by_seed_and_epoch():
    def order(seed, epoch, **options):
        batches = Batches(make([2] * 40), 4, max_length=4, shuffle=True, seed=seed, **options)
        ids = [b["example_ids"].ravel() for b in batches.epoch(epoch)]
        return [i for i in np.concatenate(ids) if i >= 0]

    base = order(0, 0, layout="padded")
    assert base == order(0, 0, layout="padded")
    orders = [base, order(0, 1, layout="padded"), order(1, 0, layout="padded")]
    assert len({tuple(o) for o in orders}) == 3
    batches = Batches(make([2] * 40), 4, max_length=4, shuffle="once")
    first, second = ([b["example_ids"] for b in batches.epoch(epoch)] for epoch in (0, 1))
    assert np.array_equal(first, second)
    assert np.ravel(first).tolist() != [*range(40)]
    assert base != sorted(base) == list(range(40))


def test_shapes_stay_few_over_many_epochs():
    rng = np.random.default_rng(0)
    tokenized = make(np.clip(rng.lognormal(2.5, 0.8, 4000).astype(int), 2, 96).tolist())
    batches = Batches(tokenized, 32, max_length=96, shuffle=True, seed=1)
    seen = {
        (*batch["input_ids"].shape, batch["weights"].shape[1])
        for epoch in range(6)
        for batch in batches.epoch(epoch)
    }
    assert seen <= set(batches.shapes)
    assert len(batches.shapes) <= 4
    assert batches.stats.packing_efficiency > 0.85


def test_shapes_are_the_same_for_every_seed():
    rng = np.random.default_rng(0)
    tokenized = make(np.clip(rng.lognormal(2.5, 0.8, 300).astype(int), 2, 96).tolist())
    shapes = [
        Batches(tokenized, 16, max_length=96, shuffle=True, seed=seed).shapes for seed in range(5)
    ]
    assert len(set(shapes)) == 1
    assert len(shapes[0]) > 1


def test_shapes_are_shared_between_data_sets():
    rng = np.random.default_rng(0)
    train, dev = (make(rng.integers(5, 60, n).tolist()) for n in (4000, 500))
    shapes = Batches(train, 16, max_length=64, shuffle=True).shapes
    batches = Batches(dev, 16, max_length=64, shuffle="once", shapes=shapes)
    assert set(batches.shapes) == set(shapes)
    assert batches.stats.packing_efficiency > 0.8


def test_a_large_data_set_is_sampled_to_choose_shapes():
    tokenized = make([4, 4, 4, 9] * 600)
    batches = Batches(tokenized, 4, max_length=16)
    assert len([*batches.epoch(0)]) == 600
    assert len(batches.shapes) <= 6


def test_batching_is_fast():
    """8,000 short sentences in well under a second: 30 ms here; the margin is for busy machines."""
    rng = np.random.default_rng(0)
    tokenized = make(np.clip(rng.normal(27, 11, 8000).astype(int), 4, 79).tolist())
    batches = Batches(tokenized, 32, max_length=128, shuffle=True)
    start = time.process_time()
    for _ in batches.epoch(0):
        pass
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ([2], {"layout": "folded"}, r"layout='folded': want one of packed, bucketed, padded"),
        ([2], {"shuffle": "twice"}, r"shuffle='twice': want True, False or \"once\""),
        (
            [2],
            {"batch_size": 0, "row_multiple": 0, "seed": -1},
            r"batch_size=0, want 1 or more; row_multiple=0, want 1 .*; seed=-1, want 0 or more",
        ),
        ([], {}, r"no examples: there must be at least one to make a batch"),
        ([9], {"max_length": 8}, r"max_length=8 but the longest example has 9 tokens: tokenize it"),
        ([2], {"row_multiple": 2, "shapes": [(1, 8, 1)]}, r"want rows that are multiples of row_m"),
    ],
)
def test_faulty_arguments(lengths, options, message):
    arguments = {"batch_size": 2, "max_length": 16} | options
    arguments["shapes"] = [Shape(*shape) for shape in arguments.get("shapes", ())]
    with pytest.raises(ValueError, match=message):
        Batches(make(lengths), **arguments)


def test_faulty_start_step():
    batches = Batches(make([2] * 5), 2, max_length=8)
    assert list(batches.epoch(0, 3)) == []
    with pytest.raises(ValueError, match=r"start_step=4: want 0 to 3, the epoch's steps"):
        batches.epoch(0, 4)


# Results


@settings(max_examples=30, deadline=None)
@given(data_sets, options, st.sampled_from(LAYOUTS))
def test_results_come_back_in_order(lengths, options, layout):
    tokenized = make(lengths, None)
    batches = Batches(tokenized, max_length=MAX_LENGTH, layout=layout, **options)
    ids, results, tokens = [], [], {}
    for batch in batches.epoch(0):
        first = np.take_along_axis(batch["input_ids"], batch["segment_starts"], axis=1)
        ids.append(batch["example_ids"])
        results.append(np.stack([first, -first], axis=-1))
        tokens |= split_tokens(batch, batch["input_ids"])
    ordered = restore_order(ids, results, len(lengths))
    want = 1000 * np.arange(1, len(lengths) + 1)
    assert np.array_equal(ordered, np.stack([want, -want], axis=-1))
    flat = np.concatenate([tokens[i] for i in range(len(lengths))])
    assert np.array_equal(flat, tokenized.input_ids)


def test_results_must_be_complete():
    ids = [np.array([[0, -1]]), np.array([[2, -1]])]
    values = [np.array([[1.0, 0.0]]), np.array([[3.0, 0.0]])]
    with pytest.raises(ValueError, match=r"got results of 2 examples, want each of 3 once"):
        restore_order(ids, values, 3)
    with pytest.raises(ValueError, match=r"got results of 0 examples"):
        restore_order([], [], 1)


# Ahead on a thread


def test_prefetch_gives_the_same_items():
    reader = Prefetch(range(100), depth=3)
    assert list(reader) == list(range(100))
    assert list(reader) == list(range(100))  # and again, from the start


def test_prefetch_runs_ahead_but_not_further():
    made = []
    ahead = threading.Event()

    def produce():
        for i in range(50):
            made.append(i)
            if i == 4:
                ahead.set()
            yield i

    iterator = iter(Prefetch(produce(), depth=2))
    assert next(iterator) == 0
    assert not ahead.wait(0.1)
    assert len(made) <= 4  # one read, two in the queue, one in hand
    assert list(iterator) == list(range(1, 50))


def test_prefetch_counts_waiting():
    def slow():
        for i in range(3):
            time.sleep(0.05)
            yield i

    reader = Prefetch(slow())
    list(reader)
    assert 0.1 < reader.seconds_waited < 5
    waited = Prefetch(iter(range(3)))
    for _ in waited:
        time.sleep(0.02)
    assert waited.seconds_waited < 0.05


def test_prefetch_raises_the_threads_error_after_what_came_before():
    def failing():
        yield 1
        raise KeyError("gone")

    seen = []
    with pytest.raises(KeyError, match="gone"):
        seen.extend(Prefetch(failing()))
    with pytest.raises(TypeError, match="not iterable"):
        list(Prefetch(3))
    with pytest.raises(ValueError, match=r"depth=0: want at least 1"):
        Prefetch([], depth=0)
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("read", [1, 3])
def test_leaving_early_stops_the_thread_and_closes_the_source(depth, read):
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    source = endless()  # held here, so that only closing it ends it
    for i, _ in enumerate(Prefetch(source, depth), 1):
        if i == read:
            time.sleep(0.05)  # the thread has filled the queue and waits to put the next
            break
    assert closed.wait(5)
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


# Units of several features, and what may stand beside the ids


def questions(counts, seed=0, **more):
    """Units of so many features each, of 2 to 6 tokens."""
    lengths = np.random.default_rng(seed).integers(2, 7, sum(counts))
    found = make(lengths, labels=None)
    return dataclasses.replace(found, units=np.concatenate([[0], np.cumsum(counts)]), **more)


COUNTS = (3, 2, 3, 1, 3, 2, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_features_of_a_unit_share_a_row(layout):
    asked = questions(COUNTS, labels=np.array([2, 1, 0, 0, 2, 0, 1], np.int32),
                      label_layout="choice")  # fmt: skip
    seen = {}
    for batch in Batches(asked, 3, max_length=6, layout=layout, row_multiple=2).epoch(0):
        segments, units = batch["weights"].shape[1], batch["labels"].shape[1]
        assert segments == 3 * units
        for row, unit in np.argwhere(batch["labels"] >= 0):
            ids = batch["example_ids"][row, 3 * unit : 3 * unit + 3]
            seen[tuple(ids[ids >= 0].tolist())] = int(batch["labels"][row, unit])
            for seat, feature in enumerate(ids[ids >= 0], 3 * unit):
                columns = np.flatnonzero(batch["segment_ids"][row] == seat + 1)
                assert columns[0] == batch["segment_starts"][row, seat]
                tokens = asked.input_ids[asked.of_feature(feature)]
                np.testing.assert_array_equal(batch["input_ids"][row, columns], tokens)
        assert ((batch["labels"] >= 0).sum(), batch["weights"].sum()) == (
            len(set(batch["token_index"][batch["segment_ids"] > 0] // 18)),
            (batch["example_ids"] >= 0).sum(),
        )
    firsts = np.cumsum((0, *COUNTS))
    wanted = [tuple(range(a, b)) for a, b in itertools.pairwise(firsts)]
    assert seen == dict(zip(wanted, asked.labels.tolist(), strict=True))


def test_a_token_of_a_unit_has_the_same_number_in_every_layout():
    asked = questions(COUNTS)
    numbers = []
    for layout in LAYOUTS:
        (batch,) = Batches(asked, 7, max_length=6, layout=layout).epoch(0)
        there = batch["segment_ids"] > 0
        numbers.append(
            dict(zip(batch["token_index"][there], batch["input_ids"][there], strict=True))
        )
    assert numbers[0] == numbers[1] == numbers[2]
    assert len(numbers[0]) == len(asked.input_ids)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_spans_weights_and_further_columns(layout):
    lengths = [5, 3, 6, 4]
    labels = np.array([[0, 0], [1, 2], [3, 5], [2, 2]], np.int32)
    weights = np.array([1, 0.5, 2, 0.25], np.float32)
    data = make(lengths, labels=None)
    data = dataclasses.replace(
        data, labels=labels, label_layout="span", weights=weights,
        further={"number": 7 * data.input_ids},
    )  # fmt: skip
    (batch,) = Batches(data, 4, max_length=6, layout=layout).epoch(0)
    padding = batch["segment_ids"] == 0
    np.testing.assert_array_equal(batch["number"], np.where(padding, -1, 7 * batch["input_ids"]))
    for row, seat in np.argwhere(batch["example_ids"] >= 0):
        feature = batch["example_ids"][row, seat]
        assert batch["weights"][row, seat] == weights[feature]
        tokens = data.input_ids[data.of_feature(feature)][labels[feature]]
        np.testing.assert_array_equal(batch["input_ids"][row, batch["labels"][row, seat]], tokens)


def test_several_processes_make_the_parts_of_a_batch_of_units():
    asked = questions(COUNTS, labels=np.zeros(7, np.int32), label_layout="choice")
    (whole,) = Batches(asked, 7, max_length=6, row_multiple=2).epoch(0)
    parts = [
        next(Batches(asked, 7, max_length=6, row_multiple=2, part=(i, 2)).epoch(0))
        for i in range(2)
    ]
    for name in whole:
        joined = np.concatenate([part[name] for part in parts])
        wanted = whole[name] if name != "example_ids" else np.concatenate([whole[name]] * 2)
        np.testing.assert_array_equal(joined, wanted)


def test_a_batch_of_every_shape_comes_before_the_epoch_needs_it():
    lengths = np.tile([3, 3, 3, 40], 12)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.ones(offsets[-1], np.int32)
    data = Tokenized(ids, np.zeros_like(ids), offsets)
    batches = Batches(data, 3, max_length=64, layout="bucketed", shuffle=True, seed=1)
    shapes = [batch["input_ids"].shape for batch in batches.epoch(0)]
    told = [batch["input_ids"].shape for batch in batches.examples_of_shapes()]
    assert told == list(dict.fromkeys(shapes))
    assert len(told) == 2
