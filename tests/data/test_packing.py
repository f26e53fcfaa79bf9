"""Packing: nothing is lost, split or over the edge, and the shapes are few and hold every batch."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxbert.data.packing import (
    MAX_SHAPES,
    Shape,
    bucket,
    bucket_lengths,
    choose_shapes,
    deal,
    fit,
    pack,
    round_up,
)

lengths_of = st.lists(st.integers(1, 64), min_size=1, max_size=60).map(np.array)


def _check(lengths, placement, capacity, segments):
    """Every example lies whole in its row, beside the others, numbered from the left."""
    for row in range(placement.rows):
        members = np.flatnonzero(placement.row == row)
        assert len(members) > 0
        order = members[np.argsort(placement.column[members])]
        assert placement.segment[order].tolist() == list(range(len(order)))
        ends = placement.column[order] + lengths[order]
        assert placement.column[order].tolist() == [0, *ends[:-1]]
        assert ends[-1] <= capacity
        assert len(order) <= segments


@example(np.arange(64)[::-1], 3, 0)  # what is drawn rarely fills several batches
@given(lengths_of, st.integers(1, 70), st.integers(0, 9))
def test_dealt_batches_have_one_of_each_range(lengths, batch_size, seed):
    order = deal(lengths, batch_size, np.random.default_rng(seed))
    assert sorted(order) == [*range(len(lengths))]
    full = len(lengths) // batch_size
    batches = np.sort(lengths[order][: full * batch_size].reshape(full, batch_size), axis=1)
    # Nothing of a range is longer than anything of the next.
    assert (batches.max(axis=0, initial=0)[:-1] <= batches.min(axis=0, initial=99)[1:]).all()


def test_dealing_is_even_chance_of_every_batch_and_place():
    lengths, draws = np.array([9, 1, 5, 7, 3, 2, 8]), 3000  # three batches of two, and one over
    orders = np.array([deal(lengths, 2, np.random.default_rng(seed)) for seed in range(draws)])
    for place in range(len(lengths)):
        counts = np.bincount(orders[:, place], minlength=len(lengths))
        # Five standard deviations of a binomial count of probability 1/7.
        assert abs(counts - draws / 7).max() < 5 * (draws * 6 / 49) ** 0.5


@given(lengths_of, st.integers(64, 200), st.integers(1, 8))
def test_pack_puts_each_example_somewhere_of_its_own(lengths, capacity, segments):
    placement = pack(lengths, capacity, segments)
    assert len(placement.row) == len(lengths)
    _check(lengths, placement, capacity, segments)


@given(lengths_of, st.integers(64, 200))
def test_no_two_rows_could_be_one(lengths, capacity):
    placement = pack(lengths, capacity, len(lengths))
    fill = np.bincount(placement.row, lengths)
    fill.sort()
    assert len(fill) == 1 or fill[0] + fill[1] > capacity


def test_pack_by_hand():
    # Longest first: 6, 5, 4, 3, 2, 2 into rows of 10. The 4 fits best beside the 6, the 3 beside
    # the 5, the first 2 fills that row up, and the last 2 has to open another.
    placement = pack(np.array([2, 6, 3, 5, 4, 2]), 10, 3)
    assert placement.row.tolist() == [1, 0, 1, 1, 0, 2]
    assert placement.column.tolist() == [8, 0, 5, 0, 6, 0]
    assert placement.segment.tolist() == [2, 0, 1, 0, 1, 0]
    # With two segments a row, the 2s share the third.
    assert pack(np.array([2, 6, 3, 5, 4, 2]), 10, 2).row.tolist() == [2, 0, 1, 1, 0, 2]


def test_buckets():
    assert bucket_lengths(512) == (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    assert bucket_lengths(100) == (16, 32, 48, 64, 96, 100)
    assert bucket_lengths(16) == (16,)
    assert bucket_lengths(5) == (5,)
    assert [bucket(n, 100) for n in (1, 16, 17, 64, 65, 97, 100)] == [16, 16, 32, 64, 96, 100, 100]
    assert [round_up(n, 4) for n in (1, 4, 5)] == [4, 4, 8]


def test_fit_takes_the_first_shape_that_holds_them():
    shapes = [Shape(2, 8, 2), Shape(2, 16, 4), Shape(4, 16, 4)]
    assert fit(np.array([8, 4, 4]), shapes)[0] == shapes[0]
    assert fit(np.array([8, 4, 4, 1]), shapes)[0] == shapes[1]
    assert fit(np.array([2, 2, 2, 2, 2]), shapes)[0] == shapes[1]  # three segments in a row
    assert fit(np.array([9]), shapes)[0] == shapes[1]
    assert fit(np.array([16, 16, 1]), shapes)[0] == shapes[2]
    with pytest.raises(ValueError, match=r"1 examples, 17 tokens in all, fit none of \[Shape"):
        fit(np.array([17]), shapes)


def test_fit_without_packing_keeps_the_order():
    _, placement = fit(np.array([3, 9, 1]), [Shape(4, 16, 1)])
    assert placement.row.tolist() == [0, 1, 2]
    assert placement.column.tolist() == placement.segment.tolist() == [0, 0, 0]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=150).map(np.array),
    st.integers(1, 20),
    st.sampled_from([1, 2, 8]),
    st.booleans(),
    st.sampled_from([(), (Shape(8, 32, 4),), (Shape(16, 64, 4), Shape(8, 24, 1))]),
    st.randoms(use_true_random=False),
)
def test_few_shapes_hold_every_batch(lengths, batch_size, row_multiple, exact, compiled, random):
    def batches():
        return [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]

    samples = batches()
    shapes = choose_shapes(
        samples,
        batch_size,
        64,
        longest=int(lengths.max()),
        steps=len(samples),
        epochs=1,
        row_multiple=row_multiple,
        exact=exact,
        given=compiled,
    )
    assert len(set(shapes) - set(compiled)) <= MAX_SHAPES
    assert set(compiled) <= set(shapes)
    assert all(shape.rows % row_multiple == 0 and shape.length <= 64 for shape in shapes)
    assert list(shapes) == sorted(shapes, key=lambda shape: shape.cost)
    if not exact:  # then any other batches must fit, not only the samples
        lengths = np.array(random.sample(lengths.tolist(), len(lengths)))
    for batch in batches():
        shape, placement = fit(batch, shapes)
        assert placement.rows <= shape.rows
        _check(batch, placement, shape.length, shape.segments)


def _choose(lengths, batch_size, **options):
    samples = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    settings = {"steps": 10_000, "epochs": 1, "row_multiple": 1, "exact": True} | options
    return choose_shapes(samples, batch_size, 128, longest=int(lengths.max()), **settings)


def test_the_worst_batch_fits_unless_all_are_known():
    lengths = np.r_[np.full(800, 4), 64]
    worst = np.full(8, 64)
    assert fit(worst, _choose(lengths, 8, exact=False))[0].rows == 8
    with pytest.raises(ValueError, match="fit none"):
        fit(worst, _choose(lengths, 8, exact=True))


def test_a_shape_must_be_worth_its_compilation():
    lengths = np.tile(np.r_[np.full(8, 64), np.full(8, 8)], 20)
    assert len(_choose(lengths, 8, steps=10_000)) == 2
    assert len(_choose(lengths, 8, steps=20)) == 1


def test_a_longer_run_is_worth_more_shapes():
    """A few texts are longer than rows that fill best; longer rows for all save a compilation."""
    lengths = np.tile(np.r_[np.full(127, 16), 36], 40)

    def used(epochs):
        shapes = _choose(lengths, 8, steps=200, epochs=epochs, exact=False)
        assert any(shape.rows == 8 and shape.length >= 36 for shape in shapes)  # holds any batch
        return {fit(batch, shapes)[0] for batch in lengths.reshape(-1, 8)}

    assert len(used(1)) == 1
    assert len(used(30)) == 2


def test_compiled_shapes_are_reused_where_they_serve():
    lengths = np.full(800, 64)
    wanted = _choose(lengths, 8)
    near = (wanted[0]._replace(segments=wanted[0].segments + 1),)
    assert _choose(lengths, 8, given=near) == near


def test_rows_are_filled():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.normal(27, 11, 8192).astype(int), 4, 79)
    shapes = _choose(lengths, 32, steps=256, epochs=3)
    batches = lengths.reshape(-1, 32)
    computed = sum(shape.rows * shape.length for shape, _ in (fit(b, shapes) for b in batches))
    assert lengths.sum() / computed > 0.87
