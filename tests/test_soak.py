"""What `python -m tests.soak` watches: it sees memory that is kept, and draws it."""

import pytest

from tests.soak import Samples, draw, growth, slope


def test_memory_that_is_kept_is_seen():
    kept = []
    # Larger than what the allocator would take from memory that it has back from others.
    grown = growth(lambda: kept.append(bytearray(b"x" * 2**26)), times=5)
    assert grown[0] == 0
    assert 4 * 64 - 40 < grown[-1] < 4 * 64 + 40


def test_samples_are_taken_while_it_runs():
    with Samples(0.01) as samples:
        kept = bytearray(b"x" * 2**27)
        before = len(samples.resident)
        while len(samples.resident) < before + 3:
            pass
    assert len(samples.minutes) == len(samples.resident)
    assert samples.resident[-1] > len(kept) / 2**20
    assert samples.minutes == sorted(samples.minutes)


def test_the_slope_leaves_out_the_beginning():
    minutes = [0, 1, 2, 3, 4]
    assert slope(minutes, [90, 50, 10, 12, 14], after=2) == pytest.approx(2)
    assert slope(minutes, [90, 50, 10, 12, 14], after=5) == 0


def test_it_is_drawn(tmp_path):
    row = {
        "resident_mib": [500.0, 510.0, 511.0], "every_seconds": 5, "slope_after_minutes": 0.1,
        "slope_mib_per_minute": 0.25, "trainers": 3, "trainer_growth_mib": [-1.0, 0.0, 0.5],
    }  # fmt: skip
    draw(row, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes()[:4] == b"\x89PNG"
