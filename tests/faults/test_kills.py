"""A small part of `python -m tests.faults.kills`: three kills of a fine-tuning on words' tags."""

import pytest

from tests.faults.kills import campaign, outcome


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """(a row of three kills, where the runs are)."""
    root = tmp_path_factory.mktemp("killed").resolve() / "kills"
    kinds = ("write", "step", "end")
    return campaign("token-classification", "jit", 3, seed=4, root=root, kinds=kinds), root


def test_killed_it_ends_with_the_same_bits(killed):
    row, _ = killed
    assert row["findings"] == []
    assert (row["equal"], row["kills"], row["steps"]) == (True, 3, 24)
    assert sum(row["landed"].values()) == 3


def test_another_bit_would_be_seen(killed):
    output = killed[1] / "whole"
    before = outcome(output)
    path = output / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert [name for name, value in outcome(output).items() if before[name] != value] == [path.name]
