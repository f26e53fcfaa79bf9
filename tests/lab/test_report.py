"""The report: numbers recomputed from the journals, hostile names, missing and failed runs."""

import re

import lab_journals
import pytest
from scipy import stats

from jaxbert.errors import InputError
from jaxbert.lab import report
from jaxbert.lab.journals import read, read_journal
from jaxbert.lab.report import (
    budget,
    command,
    differences,
    format_table,
    markdown,
    recommendation,
    results,
    sweep_table,
    write_report,
)

GOOD, BAD = (0.81, 0.84, 0.79), (0.70, 0.75, 0.71)
HOSTILE = "<script>alert(1)</script>|$x^{|" + "long " * 20


def cells(names=("uniform", "other"), sizes=("200",)):
    numbers = dict(zip(names, (GOOD, BAD), strict=True))
    return {(s, n): [{"test": v} for v in values] for n, values in numbers.items() for s in sizes}


@pytest.fixture
def study(tmp_path):
    return lab_journals.study(tmp_path, ["uniform", "other"], cells=cells())


def test_results_are_those_of_the_journals(study):
    header, rows = results(read(study))
    assert header == [
        "train size", "strategy", "rate", "films", "macro-F1", "mail", "runs", "failed"
    ]  # fmt: skip
    mean = sum(GOOD) / 3
    half = stats.t.interval(0.95, 2, mean, stats.sem(GOOD))[1] - mean
    assert rows[0] == [
        "200", "uniform", "0.0001", f"{100 * mean:.1f} ± {100 * half:.1f}",
        f"{100 * mean - 1:.1f} ± {100 * half:.1f}", "60.0 ± 0.0", "3", "0",
    ]  # fmt: skip


def test_differences_are_paired(study):
    _, ((size, name, inside, outside, p, corrected),) = differences(read(study))
    gaps = [b - a for a, b in zip(GOOD, BAD, strict=True)]
    low, high = stats.t.interval(0.95, 2, sum(gaps) / 3, stats.sem(gaps))
    assert (size, name) == ("200", "other")
    assert inside == (
        f"{100 * sum(gaps) / 3:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}, 3 seeds)"
    )
    assert outside == "+0.0 points (+0.0 to +0.0, 3 seeds)"
    assert (p, corrected) == ("0.25", "0.25")


def test_the_page_is_whole_and_loads_nothing(study, tmp_path):
    page = write_report(study, tmp_path / "out")
    text = page.read_text()
    assert not re.search(r"(src|href)=(?!\"data:)", text)
    assert "http" not in text
    images = {path.stem for path in page.parent.glob("*.png")}
    assert images == {
        "accuracy", "rates", "drift", "similarity", "domains", "curves", "gradients"
    }  # fmt: skip
    assert text.count("data:image/png;base64,") == len(images)
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', text)) == len(images)
    assert text.index("The five claims") < text.index("Results") < text.index("Reproduction")
    assert (page.parent / "report.md").read_text().strip() == markdown(read(study))


def test_names_are_text_and_no_markup(tmp_path):
    lab_journals.study(tmp_path, ["uniform", HOSTILE], cells=cells(("uniform", "other")))
    (tmp_path / "runs/200/other").rename(tmp_path / "runs/200/x")
    text = write_report(tmp_path, tmp_path / "out").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    rows = [line for line in markdown(read(tmp_path)).splitlines() if "uniform" in line]
    assert all(line.count("|") == rows[0].count("|") for line in rows)


def test_missing_diverged_and_guessing_runs(tmp_path):
    numbers = cells()
    numbers["200", "other"] = [{"test": 0.52}, {"test": 0, "diverged": True}, None]
    lab_journals.study(tmp_path, ["uniform", "other"], cells=numbers)
    (tmp_path / "runs/200/uniform/2.jsonl").write_text('{"event": "start"}\n{"eve')
    found = read(tmp_path)
    assert found.missing == 2
    _, rows = results(found)
    assert rows[0][-2:] == ["2", "0"]
    assert rows[1][3:] == ["52.0", "51.0", "60.0", "2", "2"]
    assert "2 runs are missing" in write_report(tmp_path, tmp_path / "out").read_text()
    assert "2 runs are missing" in format_table(tmp_path)


def test_a_single_run_makes_a_page(tmp_path):
    one = {("full", "mine"): [{"test": 0.8}]}
    lab_journals.study(tmp_path, ["mine"], sizes=("full",), seeds=1, control="mine", cells=one)
    text = write_report(tmp_path, tmp_path / "out").read_text()
    assert "nan" not in re.sub(r"base64,[^\"]+", "", text)
    assert "not tested" in text
    assert recommendation(read(tmp_path)) == ["full: mine (80.0%)"]


def test_recommendation_names_what_is_not_told_apart(study):
    (line,) = recommendation(read(study))
    assert line == "200: uniform (81.3%)"
    near = [{"test": v} for v in (0.82, 0.80, 0.80)]
    for seed, values in enumerate(near):
        lab_journals.journal(study / f"runs/200/other/{seed}.jsonl", **values)
    (line,) = recommendation(read(study))
    assert line == "200: uniform (81.3%); not told apart from it: other"


def test_the_budget_and_the_command(tmp_path):
    grid = {"rates": [1e-4, 3e-4], "seeds": [100], "chosen": {"200": {"uniform": 3e-4}}}
    lab_journals.study(tmp_path, ["uniform", "high"], grid=grid, cells=cells(("uniform", "high")))
    found = read(tmp_path)
    assert budget(found)[1] == [["uniform", "0.0003"], ["high", "0.0001, its claim"]]
    assert command(found) == (
        "jaxbert lab run --strategies uniform,high --control uniform --train-sizes 200 --epochs 1 "
        "--grid 0.0001,0.0003 --seeds 3 --dtype float32 --output DIRECTORY"
    )
    from jaxbert.cli import make_parser

    make_parser().parse_args(command(found).split()[1:])


def test_a_sweep(tmp_path):
    accuracy = {(2e-5, 1.0): 0.8, (2e-5, 0.9): 0.82, (4e-4, 1.0): None, (4e-4, 0.9): 0.5}
    lab_journals.sweep(tmp_path, [2e-5, 4e-4], [1.0, 0.9], accuracy)
    found = read(tmp_path)
    assert sweep_table(found) == (
        ["rate \\ decay", "1", "0.9"],
        [["2e-05", "80.0", "82.0"], ["0.0004", "- (1 of 1 failed)", "50.0 (1 of 1 failed)"]],
    )
    page = write_report(tmp_path, tmp_path / "out")
    assert [path.name for path in page.parent.glob("*.png")] == ["sweep.png"]
    assert "--train-size 200 --epochs 3" in command(found)


def test_what_is_no_study(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds neither a study nor a sweep"):
        read(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"study.json is not valid JSON.*; put it back"):
        read(tmp_path)
    (tmp_path / "study.json").write_text('{"version": 7}')
    with pytest.raises(ValueError, match="want version 1"):
        read(tmp_path)


def test_damaged_journals_are_all_named(study):
    for seed in (0, 1):
        (study / f"runs/200/other/{seed}.jsonl").write_text('no\n{"event": "end"}\n')
    with pytest.raises(ValueError, match=r"0.jsonl line 1 is no JSON; 1.jsonl line 1 .*; delete"):
        read(study)
    path = study / "runs/200/other/0.jsonl"
    for content, message in ((b"\xff\xfe", "is no text"), (b"[]\n", "line 1 is no event")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"0.jsonl {message}.*; delete them"):
            read(study)
    path.write_text("")
    assert read_journal(path) is None


def test_no_name_is_a_tag_in_markdown():
    text = report._markdown(["a|b"], [["<script>alert(1)</script>"]])
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "a&#124;b" in text
