"""Journals and the one file of a study: nothing that a report reads is lost on the way."""

import gzip
import json
import shutil

import lab_journals
import numpy as np
import pytest

from jaxbert.errors import InputError
from jaxbert.lab.journals import read
from jaxbert.lab.records import MERGED, merge, read_journal, read_merged, unmerge
from jaxbert.lab.tables import calibration, differences, markdown, precision, results, widths

HITS = np.random.default_rng(0).random((2, 3, 300)) < [[[0.8]], [[0.7]]]


def unpacked(study):
    return gzip.decompress((study / MERGED).read_bytes()).decode()


def pack(study, text):
    (study / MERGED).write_bytes(gzip.compress(text.encode()))


@pytest.fixture
def study(tmp_path):
    cells = {
        ("200", name): [
            {"hits": {"test": row, "mail": row[::-1]}, "cka": 0.9123456} for row in rows
        ]
        for name, rows in zip(("uniform", "other"), HITS, strict=True)
    }
    cells["200", "other"][1] = {"diverged": True}
    tried = {("200", "uniform"): {1e-4: [0.7, 0.8], 3e-4: [0.75, None]}}
    grid = {"rates": [1e-4, 3e-4], "seeds": [100, 101], "chosen": {"200": {"uniform": 1e-4}}}
    return lab_journals.study(
        tmp_path / "study", ["uniform", "other"], cells=cells, tried=tried, grid=grid
    )


def test_the_one_file_says_what_the_journals_say(study):
    before = read(study)
    said = [table(before) for table in (results, differences, precision, widths, calibration)]
    merge(study)
    first = (study / MERGED).read_bytes()
    assert len(unpacked(study).splitlines()) == 6 + 4
    for folder in ("runs", "grid"):
        shutil.rmtree(study / folder)
    after = read(study)
    assert [t(after) for t in (results, differences, precision, widths, calibration)] == said
    assert markdown(after) == markdown(before)
    merge(study)  # without the journals it loses nothing
    assert (study / MERGED).read_bytes() == first


def test_the_one_file_is_small_and_keeps_one_curve_a_cell(study):
    merge(study)
    lines = [json.loads(line) for line in unpacked(study).splitlines()]
    found = {line["place"]: line["events"] for line in lines}
    assert [e["event"] for e in found["runs/200/uniform/0"]] == [
        "start", "train", "train", "eval", "end"
    ]  # fmt: skip
    assert [e["event"] for e in found["runs/200/uniform/1"]] == ["start", "end"]
    assert [e["event"] for e in found["grid/200/uniform/0.0001-100"]] == ["start", "end"]
    assert "peak_rates" not in found["runs/200/uniform/1"][0]
    end = found["runs/200/uniform/1"][-1]
    assert end["similarity"]["cka"]["layer_0"] == 0.9123  # four digits
    assert end["scores"]["test"]["accuracy"] == HITS[0, 1].mean()  # all of them


def test_a_study_goes_on_from_the_one_file(study):
    merge(study)
    shutil.rmtree(study / "runs" / "200" / "uniform")
    unmerge(study)
    run = read_journal(study / "runs/200/uniform/1.jsonl")
    assert run.end["scores"]["test"]["accuracy"] == HITS[0, 1].mean()
    kept = (study / "runs/200/other/0.jsonl").read_text()  # what is there is left as it is
    assert kept.count("\n") == 5


def test_no_line_writes_elsewhere(study, tmp_path):
    merge(study)
    line = json.loads(unpacked(study).splitlines()[0])
    line["place"] = "../../escaped"
    pack(study, json.dumps(line) + "\n")
    unmerge(study)
    assert not list(tmp_path.parent.glob("escaped*"))
    assert not list(tmp_path.glob("escaped*"))


@pytest.mark.parametrize(
    "line", ["no", "[]", "{}", '{"place": "a", "events": []}', '{"place": "a", "events": [3]}',
             '{"place": "a", "events": [{"event": "start"}]}'],
)  # fmt: skip
def test_a_line_that_is_no_run_is_named(study, line):
    pack(study, line + "\n")
    with pytest.raises(InputError, match=r"journals.jsonl.gz line 1 is no run; delete"):
        read(study)


def test_a_damaged_file_is_named(study, monkeypatch):
    merge(study)
    whole = (study / MERGED).read_bytes()
    flipped = whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]
    for damaged in (b"no", whole[:-1], whole[: len(whole) // 2], flipped, whole + b"x"):
        (study / MERGED).write_bytes(damaged)
        with pytest.raises(InputError, match=r"journals.jsonl.gz (is damaged|line 1)"):
            read_merged(study / MERGED)
    (study / MERGED).write_bytes(whole)
    monkeypatch.setattr("jaxbert.lab.records._MOST", len(unpacked(study)) - 1)
    with pytest.raises(InputError, match=r"journals.jsonl.gz unpacks to more than 0 MiB"):
        read(study)


def test_bits_of_another_number_of_examples_are_refused(study):
    about = json.loads((study / "study.json").read_text())
    about["data"]["test"]["count"] = 500
    (study / "study.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="want a bit for each of 500 examples"):
        differences(read(study))
