"""Rows both ways: the layout is its own inverse, names are one to one, every offender is named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxbert.weights.rename import Family, Head, Rename, pair

WORDS = st.text("abcxyz_", min_size=1, max_size=5)


@st.composite
def tables(draw):
    """(rows, leaves): distinct names on both sides, and the leaves of a model with some layers."""
    count = draw(st.integers(1, 8))
    distinct = st.lists(WORDS, min_size=count, max_size=count, unique=True)
    layered = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    rows = tuple(
        Rename(f"t.{{i}}.{a}", f"o/{{i}}/{b}", draw(st.booleans()))
        if inside
        else Rename(f"t.{a}", f"o/{b}", draw(st.booleans()))
        for a, b, inside in zip(draw(distinct), draw(distinct), layered, strict=True)
    )
    layers = draw(st.integers(1, 12))
    leaves = [
        row.ours.replace("{i}", str(i))
        for row in rows
        for i in (range(layers) if "{i}" in row.ours else (0,))
    ]
    return rows, draw(st.permutations(leaves))


def backwards(row):
    """The row that renames ours to theirs."""
    return Rename(row.ours.replace("/", "."), row.theirs.replace(".", "/"), row.transpose)


@given(tables())
def test_names_and_arrays_come_back(table):
    rows, leaves = table
    pairs = pair(rows, leaves)
    assert [row.ours for row in pairs] == leaves
    assert len({row.theirs for row in pairs}) == len(leaves)
    assert all("{i}" not in row.theirs + row.ours for row in pairs)
    back = pair(map(backwards, rows), [row.theirs.replace(".", "/") for row in pairs])
    assert [row.theirs.replace(".", "/") for row in back] == leaves
    for there, here in zip(pairs, back, strict=True):
        array = np.arange(6).reshape(2, 3)
        assert there.turn(array).shape == there.turn_shape(array.shape)
        np.testing.assert_array_equal(here.turn(there.turn(array)), array)


@given(tables(), st.data())
def test_a_leaf_without_a_row_and_one_with_two_are_named(table, data):
    rows, leaves = table
    index = data.draw(st.integers(0, len(rows) - 1))
    mine = [leaf for leaf in leaves if rows[index].at(leaf)]
    with pytest.raises(ValueError, match="not one to one") as error:
        pair(rows[:index] + rows[index + 1 :], leaves)
    assert all(f"{leaf} must have one row, got 0: none" in str(error.value) for leaf in mine)
    twice = Rename(rows[index].theirs + "2", rows[index].ours)
    with pytest.raises(ValueError, match="not one to one") as error:
        pair((*rows, twice), leaves)
    assert str(error.value).count("must have one row, got 2") == len(mine)


def test_all_offenders_stand_in_one_error():
    rows = [Rename("w", "a"), Rename("w", "b"), Rename("x", "c"), Rename("y", "c")]
    with pytest.raises(ValueError, match="not one to one") as error:
        pair(rows, ["a", "b", "c", "d"])
    assert str(error.value).splitlines() == [
        "the renaming is not one to one:",
        "  c must have one row, got 2: x, y",
        "  d must have one row, got 0: none",
        "  w is claimed by a, b",
    ]


@pytest.mark.parametrize("names", [("a.{i}", "b"), ("a", "b/{i}"), ("a.{i}.{i}", "b/{i}/{i}")])
def test_the_placeholder_is_once_in_both_names_or_in_neither(names):
    with pytest.raises(ValueError, match=r"\{i\} must be once in both names, or in neither"):
        Rename(*names)


def test_a_row_is_matched_as_text_and_as_a_whole():
    row = Rename("t.{i}.w", "o/{i}/w.x")
    assert row.at("o/12/w.x") == Rename("t.12.w", "o/12/w.x")
    assert [row.at(path) for path in ("o/12/wax", "o/12/w.x/y", "p/o/12/w.x", "o/a/w.x")] == [
        None
    ] * 4


FAMILY = Family(
    prefix="base",
    base="Base",
    encoder=(Rename("embed.w", "embed/w"), Rename("pool.w", "pool/w", True)),
    heads={"Base": Head(), "Task": Head((Rename("out.w", "out/w"),))},
    optional=("pool.",),
    spellings=((r"\.old$", ".w"),),
    buffers=(r"ids$",),
)


def test_the_tensors_of_labels_are_those_that_begin_so():
    rows = (Rename("out.w", "out/w"), Rename("out.b", "out/b"), Rename("mid.w", "mid/w"))
    assert Head(rows, labelled="out.").of_labels() == {"out.w", "out.b"}
    assert Head(rows).of_labels() == set()


def test_a_task_model_has_the_encoder_under_its_prefix():
    assert FAMILY.rows("Base") == FAMILY.encoder
    assert FAMILY.rows("Task") == (
        Rename("base.embed.w", "encoder/embed/w"),
        Rename("base.pool.w", "encoder/pool/w", True),
        Rename("out.w", "head/out/w"),
    )


def test_full_names_see_through_prefix_and_spelling_and_leave_out_buffers():
    names = ["embed.old", "base.pool.w", "out.old", "embed.ids", "embedding.w"]
    assert FAMILY.full_names(names) == {
        "base.embed.w": "embed.old",
        "base.pool.w": "base.pool.w",
        "out.w": "out.old",
        "embedding.w": "embedding.w",
    }


def test_names_that_mean_the_same_tensor_are_listed():
    with pytest.raises(ValueError, match=r"there twice: embed.w = base.embed.old; out.w = out.old"):
        FAMILY.full_names(["embed.w", "base.embed.old", "out.w", "pool.w", "out.old"])


def test_what_the_encoder_must_have():
    names = ["base.embed.w", "base.embed.z", "base.pool.w", "out.w"]
    assert [FAMILY.must_have(name) for name in names] == [True, True, False, False]
