"""What `python -m tests.soak` watches: it sees memory that is kept, and draws it."""

import json

import pytest

from tests.soak import Journal, Samples, draw, repeat, slope, summary, told

COUNTS = {"steps": 3, "evaluations": 2, "checkpoints": 1}


def lines_of(what, *mib, **counts):
    return [{"what": what, "minute": float(n), "mib": held, **counts} for n, held in enumerate(mib)]


def test_memory_that_is_kept_is_seen():
    journal, kept = Journal(None), []
    # Larger than what the allocator would take from memory that it has back from others.
    repeat(journal, "trainer", 6, lambda: kept.append(bytearray(b"x" * 2**26)))
    found = summary(journal.lines)["trainers"]
    assert found["times"] == 6
    assert found["warm"] == 2
    assert 54 < found["mib_each"] < 74
    assert 60 < found["allocated_mib_each"] < 68
    assert told({"trainers": found})[0].endswith("MiB each, BEYOND 0.3")


def test_samples_are_on_the_disk_while_it_runs(tmp_path):
    journal, counts = Journal(tmp_path / "journal.jsonl"), dict(COUNTS)
    with Samples(journal, 0.01, counts):
        kept = bytearray(b"x" * 2**27)
        counts["steps"] = 9
        before = len(journal.lines)
        while len(journal.lines) < before + 3:
            pass
        # As whoever kills it would find it; the last line may be half there.
        written = (tmp_path / "journal.jsonl").read_text().splitlines()[: before + 2]
        assert len(written) == before + 2
    found = [json.loads(line) for line in written]
    assert found == journal.lines[: before + 2]
    assert found[-1]["steps"] == 9
    assert found[-1]["mib"] > len(kept) / 2**20
    minutes = [line["minute"] for line in journal.lines]
    assert minutes == sorted(minutes)


def test_the_slope_leaves_out_the_beginning():
    minutes = [0, 1, 2, 3, 4]
    assert slope(minutes, [90, 50, 10, 12, 14], after=2) == pytest.approx(2)
    assert slope(minutes, [90, 50, 10, 12, 14], after=5) == 0


def test_a_journal_is_summed_up_wherever_it_ends():
    training = lines_of("training", 50, 70, 71, 73, **COUNTS)
    found = summary([*training, *lines_of("trainer", 80, 81)])
    assert list(found) == ["training"]  # two trainers are but warm
    assert found["training"] == {
        "minutes": [0.0, 1.0, 2.0, 3.0], "mib": [50, 70, 71, 73], **COUNTS, "after_minutes": 1.0,
        "mib_per_minute": 1.5,
    }  # fmt: skip
    # After the first tenth, of which the second is the last.
    each = summary(lines_of("evaluation", 70, 80, *[81] * 10, *[90] * 8))["evaluations"]
    assert (each["warm"], each["mib_each"]) == (2, round(10 / 18, 4))
    assert told(found) == ["training: +1.5000 MiB a minute, BEYOND 1.0"]
    assert not summary([])


@pytest.mark.parametrize("parts", [("training", "trainer"), ("trainer",)])
def test_it_is_drawn(parts, tmp_path):
    lines = [line for part in parts for line in lines_of(part, 500.0, 510.0, 511.0, **COUNTS)]
    draw(summary(lines), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes()[:4] == b"\x89PNG"
