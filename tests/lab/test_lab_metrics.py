"""A report by another score than accuracy: its name, its direction, how it is shown."""

import json

import lab_journals
import pytest

from jaxbert.cli import make_parser
from jaxbert.lab.advice import advice
from jaxbert.lab.journals import read
from jaxbert.lab.page import command
from jaxbert.lab.report import write_report
from jaxbert.lab.tables import differences, results, sweep_table
from jaxbert.lab.verdicts import judge

LOW, HIGH = (7.2, 7.5, 7.1), (9.0, 9.6, 9.1)


def renamed(directory, name="study.json", metric="perplexity", **about):
    """The study with its journals' accuracies under another name, and no other scores."""
    path = directory / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metric": metric, **about}))
    for path in directory.rglob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for scores in (*(lines[-1]["scores"] or {}).values(), *lines):
            for old in ("macro_f1", "matthews"):
                scores.pop(old, None)
            if "accuracy" in scores:
                scores[metric] = scores.pop("accuracy")
        path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return directory


@pytest.fixture
def study(tmp_path):
    numbers = {"uniform": LOW, "discriminative": HIGH}
    cells = {("200", n): [{"test": v, "outside": v + 1} for v in vs] for n, vs in numbers.items()}
    lab_journals.study(tmp_path, [*numbers], cells=cells)
    options = {"mask_probability": 0.2, "whole_words": True}
    return renamed(tmp_path, task="masked-lm", higher_is_better=False, task_options=options)


def test_numbers_are_those_of_the_journals_and_gains_are_what_is_less(study):
    found = read(study)
    header, rows = results(found)
    assert header == ["train size", "strategy", "rate", "films", "mail", "runs", "failed"]
    assert rows[0][3].startswith("7.27 ± ")
    assert rows[1][3].startswith("9.23 ± ")
    ((_, name, inside, outside, _, _),) = differences(found)[1]
    assert name == "discriminative"
    assert inside.startswith("-2 (-")  # of -1.8, -2.1 and -2.0
    assert outside == inside
    lead, (first, _) = advice([found])
    assert first == (
        "With 200 examples, in domain: uniform (7.27); worse: discriminative (by 1.97)."
    )
    assert lead == (
        "Behind the best strategy of a train size by at most, in domain: uniform 0, discriminative "
        "1.97*; out of domain: uniform 0, discriminative 1.97*. * is told apart from the best "
        "somewhere."
    )
    last = judge(found)[-1]  # the claim that discriminative is best
    assert last.verdict == "contradicted"


def test_the_page_names_the_score_and_the_command_makes_it_again(study, tmp_path):
    text = write_report(study, tmp_path / "out").read_text()
    assert "Perplexity, of which less is better, mean and 95% interval over seeds" in text
    assert "Accurate is meant by perplexity, and what is gained is how much less" in text
    assert "Accuracy" not in text
    words = command(read(study)).split()
    start = words.index("--task")
    wanted = "--task masked-lm --mask-probability 0.2 --whole-words --metric perplexity"
    assert words[start : start + 7] == wanted.split()
    make_parser().parse_args(words[1:])


def test_squads_percents_are_shares(tmp_path):
    cells = {("200", "uniform"): [{"test": v} for v in (81.0, 83.0, 82.0)]}
    lab_journals.study(tmp_path, ["uniform"], cells=cells)
    renamed(tmp_path, metric="f1", task="question-answering", full_score=100.0)
    _, ((*_, score, _, _, _),) = results(read(tmp_path))
    assert score.startswith("82.0 ± ")
    assert "F1 in percent" in write_report(tmp_path, tmp_path / "out").read_text()


@pytest.mark.parametrize(("more", "failed"), [(True, "2"), (False, "0")])
def test_what_scores_nothing_failed_where_more_is_better(tmp_path, more, failed):
    cells = {("200", "uniform"): [{"test": v} for v in (0.4, 0.0, 0.0)]}
    lab_journals.study(tmp_path, ["uniform"], cells=cells)
    renamed(tmp_path, metric="f1", task="token-classification", higher_is_better=more)
    found = read(tmp_path)
    assert results(found)[1][0][-1] == failed
    assert found.guesses("200") is more
    text = write_report(tmp_path, tmp_path / "out").read_text()
    assert ("A run failed if it diverged, or if it scores nothing." in text) is more


def test_a_sweep_by_another_score(tmp_path):
    found = {(2e-5, 1.0): 8.25, (2e-5, 0.9): 7.5, (4e-4, 1.0): None, (4e-4, 0.9): 12.25}
    lab_journals.sweep(tmp_path, [2e-5, 4e-4], [1.0, 0.9], found)
    renamed(tmp_path, "sweep.json", task="masked-lm", higher_is_better=False)
    _, rows = sweep_table(read(tmp_path))
    assert rows == [["2e-05", "8.25", "7.5"], ["0.0004", "- (1 of 1 failed)", "12.2"]]
    assert write_report(tmp_path, tmp_path / "out").is_file()


def test_a_hostile_score_is_text(tmp_path):
    name = "<script>alert(1)</script>$x^{"
    cells = {("200", "uniform"): [{"test": v} for v in LOW]}
    lab_journals.study(tmp_path, ["uniform"], cells=cells)
    renamed(tmp_path, metric=name, task="masked-lm")
    text = write_report(tmp_path, tmp_path / "out").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
