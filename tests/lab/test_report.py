"""The report: numbers recomputed from the journals, hostile names, missing and failed runs."""

import json
import re

import lab_journals
import numpy as np
import pytest
from scipy import stats

from jaxbert.errors import InputError
from jaxbert.lab import tables
from jaxbert.lab.advice import advice, advice_by_model
from jaxbert.lab.journals import read
from jaxbert.lab.page import command
from jaxbert.lab.records import read_journal
from jaxbert.lab.regions import without_search
from jaxbert.lab.report import format_table, write_report
from jaxbert.lab.tables import budget, differences, markdown, results, sweep_table

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
    assert p == corrected == f"{stats.ttest_rel(BAD, GOOD).pvalue:.3g}"


def test_the_page_is_whole_and_loads_nothing(study, tmp_path):
    page = write_report(study, tmp_path / "out")
    text = page.read_text()
    assert not re.search(r"(src|href)=(?!\"data:)", text)
    assert "http" not in text
    images = {path.stem for path in page.parent.glob("*.png")}
    assert images == {
        "accuracy", "rates", "peaks", "drift", "similarity", "domains", "curves", "gradients"
    }  # fmt: skip
    assert text.count("data:image/png;base64,") == len(images)
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', text)) == len(images)
    order = ["class=lead", "The five claims", "Against uniform", "Results", "Reproduction"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert (page.parent / "report.md").read_text().strip() == markdown(read(study))
    # Readable on a phone and in the dark.
    assert "width=device-width" in text
    assert "@media(prefers-color-scheme:dark)" in text
    assert "@media(max-width:640px)" in text


def test_names_are_text_and_no_markup(tmp_path):
    tried = {("200", HOSTILE): {1e-4: [0.7]}}
    lab_journals.study(tmp_path, ["uniform", HOSTILE], cells=cells(("uniform", HOSTILE)),
                       tried=tried, in_domain=HOSTILE)  # fmt: skip
    assert read(tmp_path).missing == 0
    text = write_report(tmp_path, tmp_path / "out").read_text()
    assert "<script" not in text
    # In the paragraph at the top, effects, tables, curves and reproduction.
    assert text.count("&lt;script&gt;") > 10
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


def test_advice_names_the_best_its_equals_and_what_being_wrong_costs(tmp_path):
    spread = np.array([-0.002, 0, 0.002, 0.001, -0.001])
    means = {"uniform": 0.8, "same": 0.8001, "near": 0.795, "worse": 0.7}
    noise = {"uniform": 1, "same": 1.1, "near": 9, "worse": 2}
    given = {
        ("200", name): [{"test": v} for v in mean + noise[name] * spread]
        for name, mean in means.items()
    }
    rates = {("200", "same"): {1e-4: [0.8], 2e-4: [0.8], 4e-4: [0.7]}}
    lab_journals.study(tmp_path, list(means), seeds=5, cells=given, tried=rates)
    lead, (inside, outside) = advice([read(tmp_path)])
    assert inside == (
        "With 200 examples, in domain: same (80.0%); the same within 0.5 points: uniform; not told "
        "apart from it: near (0.5 less); worse: worse (by 10.0 points)."
    )
    assert outside.startswith("With 200 examples, out of domain: uniform (60.0%); the same within")
    assert lead == (
        "Behind the best strategy of a train size by at most, in points, in domain: same 0.0, "
        "uniform 0.0, near 0.5, worse 10.0*; out of domain: uniform 0.0, same 0.0, near 0.0, worse "
        "0.0. * is told apart from the best somewhere. Octaves of the base rate within a point of "
        "the best, on average: same 1.1."
    )


def test_the_rate_for_who_tries_none_is_least_behind_where_it_is_farthest(tmp_path):
    tried = {
        ("200", "uniform"): {1e-4: [0.70, 0.72], 2e-4: [0.80, 0.80], 4e-4: [0.79, 0.79]},
        ("full", "uniform"): {1e-4: [0.90, 0.90], 2e-4: [0.81, 0.81]},
        # Best at its own rate, but of 2e-4 a run diverged at one size and guesses, which is .5.
        ("200", "other"): {1e-4: [0.60, 0.60], 2e-4: [0.83, 0.81]},
        ("full", "other"): {1e-4: [0.88, 0.88], 2e-4: [0.80, None]},
        ("200", "some"): {1e-4: [0.82, 0.82]},
        ("500", "uniform"): {1e-4: [0.51, 0.51], 2e-4: [0.1, 0.1]},
        ("500", "other"): {1e-4: [0.1, 0.1], 2e-4: [0.51, 0.51]},
    }
    given = {(size, "uniform"): [{"test": 0.8}] * 3 for size in ("200", "full")}
    given |= {(size, "other"): [{"test": 0.7}] * 3 for size in ("200", "full")}
    given["500", "uniform"] = [{"test": 0.5}] * 3
    names = ["uniform", "other", "some"]
    study = lambda sizes: read(  # noqa: E731
        lab_journals.study(tmp_path / "-".join(sizes), names, sizes=sizes, cells=given, tried=tried)
    )
    found = study(("200", "full"))
    answer = without_search([found])
    assert list(answer) == ["uniform", "other"]
    # uniform: 1e-4 is .11 and 0 behind, 2e-4 .02 and .09; other: 1e-4 .22, .02, 2e-4 0, .25.
    assert answer["uniform"] == (2e-4, pytest.approx(0.09))
    assert answer["other"] == (1e-4, pytest.approx(0.22))
    assert (
        "Without a search, each at the one rate that is best for all sizes, behind the best on the "
        "development set by at most, in points: uniform 9.0 (at 0.0002), other 22.0 (at 0.0001)."
    ) in advice([found]).lead
    guessing = study(("200", "500", "full"))
    assert guessing.guesses("500")
    assert without_search([guessing]) == answer
    assert without_search([study(("200",))]) == {}


def test_a_task_without_sets_from_elsewhere_does_not_hide_those_of_another(tmp_path):
    given = {("200", "uniform"): [{"test": 0.8}] * 3, ("200", "other"): [{"test": 0.7}] * 3}
    for name in ("with", "without"):
        lab_journals.study(tmp_path / name, ["uniform", "other"], cells=given)
    about = tmp_path / "without" / "study.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"out_of_domain": []}))
    for path in (tmp_path / "without").rglob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[-1]["scores"].pop("mail")
        path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    _, (inside, outside) = advice([read(tmp_path / "with"), read(tmp_path / "without")])
    assert "in domain: uniform" in inside
    assert "out of domain: uniform" in outside


def test_where_the_control_guesses_nothing_is_advised(tmp_path):
    given = {("200", "uniform"): [{"test": 0.5}] * 3, ("200", "other"): [{"test": 0.51}] * 3}
    lab_journals.study(tmp_path, ["uniform", "other"], cells=given)
    assert advice([read(tmp_path)]) is None


def test_the_budget_and_the_command(tmp_path):
    grid = {"rates": [1e-4, 3e-4], "seeds": [100], "chosen": {"200": {"uniform": 3e-4}}}
    tried = {("200", "uniform"): {1e-4: [0.7], 3e-4: [0.8]}}
    lab_journals.study(tmp_path, ["uniform", "high"], grid=grid, tried=tried,
                       cells=cells(("uniform", "high")))  # fmt: skip
    found = read(tmp_path)
    assert budget(found)[1] == [["uniform", "0.0003 (the edge)"], ["high", "0.0001, its claim"]]
    assert command(found) == (
        "jaxbert lab run --strategies uniform,high --control uniform --train-sizes 200 --epochs 1 "
        "--grid 0.0001,0.0003 --seeds 3 --dtype float32 --output DIRECTORY"
    )
    from jaxbert.cli import make_parser

    make_parser().parse_args(command(found).split()[1:])


def test_how_wide_the_good_rates_are(tmp_path):
    tried = {
        ("200", "uniform"): {1e-4: [0.70, 0.72], 2e-4: [0.80, 0.80], 4e-4: [0.78, 0.80],
                             8e-4: [0.75, None]},
        ("200", "other"): {1e-4: [0.8], 2e-4: [0.805]},
    }  # fmt: skip
    grid = {"rates": [1e-4], "seeds": [100, 101], "chosen": {}}
    lab_journals.study(tmp_path, ["uniform", "other"], grid=grid, tried=tried, cells=cells())
    _, rows = tables.widths(read(tmp_path))
    # Down from .80 at 2e-4: .79 is 1/9 of an octave below it. Up: 4e-4 has .79, and so ends it.
    assert rows == [["uniform", "1.1 octaves"], ["other", "at least 1.0 octaves"]]
    text = write_report(tmp_path, tmp_path / "out").read_text()
    assert text.count("<polyline") == 2
    assert "How wide the good rates are" in text


def test_calibration_and_precision_are_told(tmp_path):
    # Every seed gets the same examples right: all that is not known is the test set's.
    hits = np.repeat(np.random.default_rng(0).random((2, 1, 300)) < 0.8, 3, axis=1)
    given = {
        ("200", name): [{"hits": {"test": row, "mail": row}} for row in rows]
        for name, rows in zip(("uniform", "high"), hits, strict=True)
    }
    lab_journals.study(tmp_path, ["uniform", "high"], cells=given)
    found = read(tmp_path)
    assert tables.calibration(found)[1] == [["uniform", "4.0 ± 0.0"], ["high", "4.0 ± 0.0"]]
    ((size, about, seeds, *needed),) = tables.precision(found)[1]
    assert (size, about, seeds) == ("200", "high - uniform, in domain", "3")
    assert re.fullmatch(r"\d+\.\d of 0.5", needed[0])
    error = np.std(hits[1, 0] * 1.0 - hits[0, 0], ddof=1) / 300**0.5
    assert needed[1] == f"{100 * 2 * 1.96 * error:.1f}"
    assert needed[2:] == ["over 1,000"] * 3
    text = write_report(tmp_path, tmp_path / "out").read_text()
    assert "Calibration" in text
    assert "How much is known" in text


def test_a_collection(tmp_path):
    (tmp_path / "plan.toml").write_text(
        'control = "uniform"\nstrategies = ["uniform", "high"]\nsizes = { 200 = 1 }\n'
        "seeds = { first = 3, most = 5 }\nmargins = { in_domain = 0.2 }\n"
        '[models.a]\nmodel = "demo"\n[tasks]\nfilms = {}\nmail = {}\nlater = {}\n'
    )
    for task in ("films", "mail"):
        lab_journals.study(tmp_path / f"{task}--a", ["uniform", "high"], seeds=5, plan=f"{task}/a",
                           cells=cells(("uniform", "high")))  # fmt: skip
    found = read(tmp_path)
    assert (found.missing, found.absent) == (0, (("later", "a"),))
    header, rows = tables.overview(found)
    assert header == ["claim", "over all", "films", "mail"]
    told = "200: undecided (no number of seeds known to decide)"
    assert rows[0][1:] == ["undecided", told, told]
    page = write_report(tmp_path, tmp_path / "out")
    text = page.read_text()
    assert "Not run yet: later, a" in text
    assert text.index("class=lead") < text.index("over all") < text.index("<details><summary>Verd")
    assert text.count("data:image/png;base64,") == 2 * 3
    assert "jaxbert lab run --plan PLAN.toml --only films/a --output DIRECTORY" in text
    assert "within the margin" in text
    assert "claim" in format_table(tmp_path)
    # The margin is the plan's: a tenth is within a fifth.
    assert tables.standing(found.studies["films", "a"], "200", "high", tables.IN_DOMAIN) == (
        "equivalent"
    )


def test_every_model_of_a_plan_has_its_own_advice(tmp_path):
    (tmp_path / "plan.toml").write_text(
        'control = "uniform"\nstrategies = ["uniform", "high"]\nsizes = { 200 = 1 }\n'
        'seeds = { first = 3, most = 5 }\n[models.a]\nmodel = "demo"\n[models.b]\nmodel = "demo"\n'
        "[models.guessing]\nmodel = 'demo'\n[tasks]\nfilms = {}\nmail = {}\ntags = {}\n"
    )
    scores = {
        ("films", "a"): (0.8, 0.7), ("films", "b"): (0.6, 0.9), ("films", "guessing"): (0.5, 0.5),
        ("mail", "a"): (0.8, 0.7), ("tags", "a"): (0.8, 0.9),
    }  # fmt: skip
    for (task, model), both in scores.items():
        given = {
            ("200", name): [{"test": score, "outside": score}] * 3
            for name, score in zip(("uniform", "high"), both, strict=True)
        }
        lab_journals.study(tmp_path / f"{task}--{model}", ["uniform", "high"], cells=given,
                           plan=f"{task}/{model}")  # fmt: skip
    renamed = {"metric": "macro_f1"}  # of which these journals have a hundredth less
    about = tmp_path / "tags--a" / "study.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | renamed))
    said = advice_by_model(read(tmp_path))
    assert [*said] == ["a on films, mail", "b on films", "a on tags"]
    assert "in domain: uniform 0.0, high 10.0*" in said["a on films, mail"].lead
    assert "in domain: high 0.0, uniform 30.0*" in said["b on films"].lead
    text = write_report(tmp_path, tmp_path / "out").read_text()
    for name, advised in said.items():
        assert f"<p class=lead>With {name}. {advised.lead}</p>" in text


def test_a_plan_without_studies(tmp_path):
    (tmp_path / "plan.toml").write_text(
        'control = "a"\nstrategies = ["a"]\nsizes = { full = 1 }\n[models.a]\n[tasks.t]\n'
    )
    with pytest.raises(FileNotFoundError, match="no finished run of its studies"):
        read(tmp_path)


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
    text = tables.as_markdown(["a|b"], [["<script>alert(1)</script>"]])
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "a&#124;b" in text
