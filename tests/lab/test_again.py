"""`benchmarks.again`: which cells are drawn, what a study is run without, what is the same."""

import lab_journals
import numpy as np
import pytest

from benchmarks import again
from jaxbert.lab.journals import read
from jaxbert.lab.records import MERGED, merge


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "plan.toml").write_text(
        'control = "uniform"\nstrategies = ["uniform", "high"]\nsizes = { 100 = 1, 200 = 1 }\n'
        'seeds = { first = 3, most = 5 }\n[models.a]\nmodel = "demo"\n[tasks]\nfilms = {}\n'
    )
    rng = np.random.default_rng(0)
    rows = [{"test": rng.random(300) < 0.8, "mail": rng.random(300) < 0.7} for _ in range(3)]
    cells = {
        ("200", "uniform"): [{"hits": row} for row in rows],
        ("200", "high"): [{"hits": rows[0]}],
        ("100", "uniform"): [{"hits": row, "network": None} for row in rows],
    }
    lab_journals.study(tmp_path / "films--a", ["uniform", "high"], sizes=("100", "200"),
                       cells=cells, plan="films/a")  # fmt: skip
    merge(tmp_path / "films--a")
    return tmp_path


def test_runs_of_a_named_network_are_drawn_from_cells_of_several(plan):
    drawn = [*again.cells(read(plan).studies)]
    assert [cell[:4] for cell in drawn] == [("films", "a", "200", "uniform")] * 3
    assert [cell.seed for cell in drawn] == [0, 1, 2]
    assert drawn[1].place == "runs/200/uniform/1"


def test_a_run_is_left_out_of_the_one_file(plan):
    place = plan / "films--a"
    for journal in place.rglob("*.jsonl"):
        journal.unlink()
    again.leave_out(place / MERGED, "runs/200/uniform/1")
    assert set(read(place).cell("200", "uniform")) == {0, 2}
    with pytest.raises(ValueError, match="does not have runs/200/uniform/1 once"):
        again.leave_out(place / MERGED, "runs/200/uniform/1")


def test_the_same_is_the_same_in_every_example(plan):
    cell = read(plan / "films--a").cell("200", "uniform")
    assert again.compare(cell[0], cell[0]) == {"same": True, "difference": 0.0}
    found = again.compare(cell[0], cell[1])
    assert not found["same"]
    assert found["difference"] == abs(cell[0].score("test") - cell[1].score("test")) > 0


def test_a_study_that_names_no_network(plan):
    place = plan / "films--a"
    studies = {("", ""): read(place)}
    assert {cell.size for cell in again.cells(studies)} == {"200"}
    assert {cell.size for cell in again.cells(studies, "given")} == {"100", "200"}
    cell = next(again.cells(studies, "given"))
    assert cell.study == "."
    again.leave_out(place / MERGED, cell.place)
    again.name_network(place, "given")
    assert read(place).networks("100") == ["given"]
    assert len(read(place).cell("100", "uniform")) == 2
