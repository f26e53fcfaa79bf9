"""`benchmarks.level`: both sides learn from the same token ids and labels; its table."""

import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import f, t

from benchmarks import level, level_tables
from benchmarks.level_data import LEVELS, prepare
from benchmarks.level_torch import SIDES
from jaxbert.tasks import TaskOptions, get_task, load_examples

CONTEXT = "The film was good. The plot is dull. The music was great! A cast with a story."
TAGGED = "a\tO\ngood\tB-person\nfilm\tI-person\n\nthe\tO\n\t\t\nplot\tB-group\nis\tO\ndull\tO\n"
ASKED = [("what was great", "music"), ("what is dull", "plot"), ("who was good", "The film was")]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A directory of files in the form of the published ones."""
    folder = tmp_path_factory.mktemp("published")
    texts = {"tsv": "a good film\t1\nthe plot is dull\t0\ngreat\t1\nvery weak\t0\n",
             "csv": '"a film, good",a good film,4.750\n"dull",great,0.000\nend,the end,3.2\n',
             "conll": TAGGED}  # fmt: skip
    questions = [
        {"id": str(i), "question": asked,
         "answers": [{"text": told, "answer_start": CONTEXT.index(told)}]}
        for i, (asked, told) in enumerate(ASKED)
    ]  # fmt: skip
    texts["json"] = json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": questions}]}]})
    for row in LEVELS.values():
        for name in row.files:
            (folder / name).write_text(texts[name.rpartition(".")[2]], encoding="utf-8")
    return folder


def read(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def ours(name, path, tokenizer, length):
    """Our features of a file, as `jaxbert finetune` with the level's flags makes them."""
    row = LEVELS[name]
    stride = {"doc_stride": 4} if row.task == "question-answering" else {}
    options = TaskOptions(**stride)
    columns = {"text_pair_column": "text_pair"} if row.flags[:1] == ("--text-pair-column",) else {}
    examples = load_examples(path, task=row.task, labelled=True, options=options, **columns)
    task = get_task(row.task, options).bound(tokenizer)
    return task.encode(examples, tokenizer, length, None)


def theirs(name, path, tokenizer, length):
    rows = read(path)
    side = SIDES[LEVELS[name].task](tokenizer, rows, length)
    side.doc_stride = 4
    return side.features(rows)


def ids_and_labels(tokenized):
    """[(token ids, label or labels)] of every feature, or of every unit of several."""
    found, labels = [], tokenized.labels
    features = tokenized.features_of
    for unit, (first, last) in enumerate(itertools.pairwise(features)):
        places = [tokenized.of_feature(i) for i in range(first, last)]
        ids = [tokenized.input_ids[place].tolist() for place in places]
        if tokenized.label_layout == "token":
            found.append((ids[0], labels[places[0]].tolist()))
        elif tokenized.label_layout == "choice":
            found.append((ids, int(labels[unit])))
        else:
            found.append((ids[0], np.asarray(labels[first]).tolist()))
    return found


def their_ids_and_labels(features, choices):
    found = []
    for i, row in enumerate(features):
        ids = row["input_ids"]
        if "start_positions" in row:
            found.append((ids, [row["start_positions"], row["end_positions"]]))
        elif choices:
            found.append((ids[: choices[i]], row["labels"]))
        else:
            found.append((ids, row["labels"]))
    return found


@pytest.mark.parametrize("name", LEVELS)
def test_both_sides_learn_from_the_same_features(name, published, tokenizer, tmp_path):
    files = prepare(name, published, tmp_path, None)
    length = 16
    mine = ids_and_labels(ours(name, files["train"], tokenizer, length))
    rows = read(files["train"])
    choices = [len(row["choices"]) for row in rows] if "choices" in rows[0] else []
    other = their_ids_and_labels(theirs(name, files["train"], tokenizer, length), choices)
    assert [ids for ids, _ in mine] == [ids for ids, _ in other]
    for (_, label), (_, wanted) in zip(mine, other, strict=True):
        np.testing.assert_allclose(label, wanted, rtol=1e-6)


def test_fewer_rows_are_drawn_once_and_keep_their_order(published, tmp_path):
    whole = prepare("sst2", published, tmp_path / "whole", None)
    few = prepare("sst2", published, tmp_path / "few", 2)
    again = prepare("sst2", published, tmp_path / "again", 2)
    every, drawn, twice = (read(found["train"]) for found in (whole, few, again))
    assert len(drawn) == 2
    assert drawn == twice == [row for row in every if row in drawn]
    assert few["rows"] == [2, 1]


def test_welch_by_hand():
    found = level_tables.welch([1.0, 3.0], [0.0, 1.0, 2.0])
    # Variances 2 / 2 = 1 and 1 / 3; (4 / 3)^2 / (1 / 1 + (1 / 9) / 2) = 1.684 degrees of freedom.
    assert found.mean == pytest.approx(1.0)
    freedom = (4 / 3) ** 2 / (1 + 1 / 18)
    assert found.high - found.mean == pytest.approx(t.ppf(0.975, freedom) * math.sqrt(4 / 3))
    assert level_tables.welch([1.0], [0.5, 0.7]).low is None


def test_equal_spread_by_hand():
    # Distances from the medians 1 and 10: 0, 1, 1 and 0, 2, 4; F = (4 / 3)^2 * 1.5 / (26 / 12).
    found = level_tables._spread([1.0, 0.0, 2.0], [10.0, 8.0, 14.0])
    assert found == f"{f.sf((4 / 3) ** 2 * 1.5 / (26 / 12), 1, 4):.2f}"
    assert level_tables._spread([1.0, 2.0], [1.0, 2.0, 3.0]) == ""


def _run(side, seed, score, seconds, **more):
    return {"level": "sst2", "task": "text-classification", "side": side, "seed": seed,
            "scores": {"accuracy": score}, "seconds": seconds, "cold": seed == 0,
            "rows": [100, 50], "machine": {"cores": 2, "processor": "some"}, **more}  # fmt: skip


def test_the_table_shows_the_latest_runs_on_the_same_rows(monkeypatch):
    runs = [
        _run("jaxbert", 0, 0.1, 9.0, rows=[10, 5]),
        _run("jaxbert", 0, 0.2, 9.0),
        *(_run("jaxbert", seed, 0.80 + seed / 100, 40.0 - 10 * seed) for seed in (0, 1, 2)),
        *(_run("torch", seed, 0.80 + seed / 100, 50.0) for seed in (0, 1, 2)),
    ]
    monkeypatch.setattr(level_tables, "read_results", lambda name: runs)
    row = level_tables.level().splitlines()[2]
    # The interval of .80, .81, .82: 4.303 * 1 / sqrt 3 points.
    assert "81.0 ± 2.5 | 81.0 ± 2.5 | +0.0 (-2.3 to +2.3) | 1.00 | 40, 25 | 50 | 2.00x" in row


def test_a_failing_side_ends_it_with_what_it_said(monkeypatch):
    with pytest.raises(SystemExit, match="no such thing"):
        level._call([sys.executable, "-c", "raise SystemExit('no such thing')"], {})
