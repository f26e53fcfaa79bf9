"""Answers from logits: by hand, and beside the way of Hugging Face's script."""

import dataclasses

import numpy as np
import pytest
import tiny

from jaxbert.data import Tokenized
from jaxbert.models import BertConfig
from jaxbert.tasks import Predicted, TaskOptions, get_task
from jaxbert.tasks.answers import Found, Span, find_answers
from jaxbert.tasks.questions import QuestionExamples

CONFIG = BertConfig(**tiny.SHAPE)
WORDS = "aa bb cc dd ee ff gg hh".split()  # noqa: SIM905
CONTEXT = " ".join(WORDS)
QUESTION = 2  # tokens


def windows(*bounds, examples=1, example_of=None):
    """Windows of words `first` to `last` of the context, each [CLS] q q [SEP] words [SEP]."""
    spans, lengths = [], []
    for first, last in bounds:
        inner = [(3 * i, 3 * i + 2) for i in range(first, last)]
        rows = [(-1, -1)] * (QUESTION + 2) + inner + [(-1, -1)]
        spans += rows
        lengths.append(len(rows))
    ids = np.zeros(len(spans), np.int32)
    example_of = np.zeros(len(bounds), np.int64) if example_of is None else np.array(example_of)
    return Tokenized(
        ids, ids, np.concatenate([[0], np.cumsum(lengths)]), example_of=example_of,
        spans=np.array(spans, np.int32),
    )  # fmt: skip


def made(data, starts, ends, examples=1, ids=None):
    asked = QuestionExamples(("q q",) * examples, (CONTEXT,) * examples, ids=ids)
    results = {"start_logits": starts, "end_logits": ends}
    return Predicted(asked, data, {k: [np.float32(x) for x in v] for k, v in results.items()})


def logits(data, **of_words):
    """Of one window: -9, and of words (or the first token, "null") what is said."""
    row = np.full(data.lengths[0], -9.0)
    for word, value in of_words.items():
        row[0 if word == "null" else QUESTION + 2 + WORDS.index(word)] = value
    return row


def told(predicted, n_best=1, config=CONFIG, **options):
    return get_task(
        "question-answering", TaskOptions(n_best=n_best, **options)
    ).decode(config, predicted)  # fmt: skip


ONE = windows((0, 8))


def test_the_best_pair_by_hand():
    start = logits(ONE, bb=3, dd=4, null=9)
    end = logits(ONE, cc=2, bb=1.5, dd=-1, null=9)
    (found,) = find_answers(made(ONE, [start], [end]), longest=30, count=4)
    assert found.null == 18
    assert found.spans == [  # dd to cc, of 6, goes backwards
        Span(5, 3, 8), Span(4.5, 3, 5), Span(3, 9, 11), Span(2, 3, 11)
    ]  # fmt: skip
    assert found.lead == 13
    (only,) = find_answers(made(ONE, [start], [end]), longest=1, count=1)
    assert only.spans == [Span(4.5, 3, 5)]


def test_no_answer_lies_in_the_question():
    start, end = logits(ONE, bb=1, null=50), logits(ONE, bb=1, null=50)
    start[1:4] = end[1:4] = start[-1] = end[-1] = 50
    (found,) = find_answers(made(ONE, [start], [end]), longest=30)
    assert found.spans[0] == Span(2, 3, 5)
    assert {span.start % 3 for span in found.spans} == {0}
    assert len(found.spans) == 20


def test_what_is_told():
    start, end = logits(ONE, bb=3, null=1), logits(ONE, cc=2, bb=1, null=1)
    (row,) = told(made(ONE, [start], [end], ids=("x1",)))
    assert list(row) == ["answer", "score", "start", "end", "id"]
    assert (row["answer"], row["start"], row["end"], row["id"]) == ("bb cc", 3, 8, "x1")
    others = [3 - 9] * 5 + [2 - 9, 1 - 9] + [-18] * 100
    best = sorted([5, 4, *others], reverse=True)[:20]
    assert row["score"] == pytest.approx(np.exp(5) / np.exp(best).sum(), rel=1e-3)
    (row,) = told(made(ONE, [start], [end]), n_best=3)
    assert "id" not in row
    assert [one["answer"] for one in row["n_best"]] == ["bb cc", "bb", "bb cc dd"]
    assert row["n_best"][0] == {k: row[k] for k in ("answer", "score", "start", "end")}


def test_no_answer_where_it_is_likelier_by_the_threshold():
    start, end = logits(ONE, bb=3, null=4), logits(ONE, cc=2, null=3)  # a lead of 2
    predicted = made(ONE, [start], [end])
    assert told(predicted)[0]["answer"] == "bb cc"  # without a threshold there always is one
    assert told(predicted, null_threshold=2.0)[0]["answer"] == "bb cc"
    (none,) = told(predicted, null_threshold=1.9, n_best=2)
    assert (none["answer"], none["start"], none["end"]) == ("", None, None)
    assert [row["answer"] for row in none["n_best"]] == ["", "bb cc"]
    assert none["score"] == none["n_best"][0]["score"] == pytest.approx(0.88, abs=0.01)
    (some,) = told(predicted, null_threshold=2.5, n_best=2)
    assert (some["answer"], some["score"]) == ("bb cc", some["n_best"][1]["score"])
    stored = dataclasses.replace(CONFIG, thresholds=(("null", 1.9),))
    assert told(predicted, config=stored)[0]["answer"] == ""
    assert told(predicted, config=stored, null_threshold=3.0)[0]["answer"] == "bb cc"


def test_windows_of_which_each_has_its_say():
    data = windows((0, 5), (3, 8))  # dd and ee are in both
    start, end = np.full((2, 10), -9.0), np.full((2, 10), -9.0)
    start[:, 0], end[:, 0] = (3, 1), (3, 2)  # nulls of 6 and of 3
    start[0, 4 + 1], end[0, 4 + 2] = 2, 2  # bb cc
    start[1, 4 + 3], end[1, 4 + 4] = 3, 3  # gg hh
    (found,) = find_answers(made(data, start, end), longest=30, count=2)
    assert found == Found(3, [Span(6, 18, 23), Span(4, 3, 8)])


@pytest.mark.parametrize(("bounds", "owner"), [
    # Poorer sides of dd and ee: 1 and 0 in the first window, 0 and 1 in the second.
    (((0, 5), (3, 8)), {"dd": 0, "ee": 1}),
    # The windows in another order, as a tokenizer that cuts on the left has them.
    (((3, 8), (0, 5)), {"dd": 1, "ee": 0}),
    # cc: 2 of five; 0. dd: 1; 1 of six, which is longer; ee: 0; 2.
    (((0, 5), (2, 8)), {"cc": 0, "dd": 1, "ee": 1}),
    # cc: 1 of four in both, and the first is taken.
    (((0, 4), (1, 5)), {"bb": 0, "cc": 0, "dd": 1}),
    # dd: 0, 1 of four, and 0; ee: 1 of four, 1 of five.
    (((0, 4), (2, 6), (3, 8)), {"dd": 1, "ee": 2, "ff": 2}),
])  # fmt: skip
def test_a_token_begins_an_answer_in_the_window_of_most_context(bounds, owner):
    data = windows(*bounds)
    for word, window in owner.items():
        scores = []
        for i, (first, last) in enumerate(bounds):
            starts = [np.full(n, -9.0) for n in data.lengths]
            ends = [np.full(n, -9.0) for n in data.lengths]
            if first <= WORDS.index(word) < last:
                starts[i][4 + WORDS.index(word) - first] = 5
                ends[i][4 + WORDS.index(word) - first] = 5
            (found,) = find_answers(made(data, starts, ends), longest=1, count=1)
            scores.append(found.spans[0].score)
        assert [score == 10 for score in scores] == [i == window for i in range(len(bounds))], word


def test_examples_with_windows_in_any_number():
    data = windows((0, 8), (0, 5), (3, 8), example_of=[0, 1, 1])
    starts = [np.full(n, -9.0) for n in data.lengths]
    ends = [np.full(n, -9.0) for n in data.lengths]
    starts[0][4], ends[0][4] = 1, 1
    starts[2][8], ends[2][8] = 1, 1
    rows = told(made(data, starts, ends, examples=2, ids=(7, 8)))
    assert [(row["answer"], row["id"]) for row in rows] == [("aa", 7), ("hh", 8)]


def test_a_context_without_tokens_has_no_answer():
    data = windows((0, 0))
    (row,) = told(made(data, [np.zeros(5)], [np.zeros(5)]))
    assert row == {"answer": "", "score": 1.0, "start": None, "end": None}
    twice = windows((0, 0), (0, 0))
    assert told(made(twice, [np.zeros(5)] * 2, [np.zeros(5)] * 2)) == [row]


def test_logits_that_are_no_numbers_are_not_hidden():
    """What writes JSON refuses the score."""
    bad = np.full(13, np.nan)
    (row,) = told(made(ONE, [bad], [bad]))
    assert np.isnan(row["score"])


def hugging_face(features, context, *, n_best=20, longest=30, negative=False, threshold=0.0):
    """`postprocess_qa_predictions` for one example: (the answer, the list of the best)."""
    found, null = [], None
    for start, end, offsets in features:
        score = start[0] + end[0]
        null = score if null is None or null > score else null
        for a in np.argsort(start)[-1 : -n_best - 1 : -1]:
            for b in np.argsort(end)[-1 : -n_best - 1 : -1]:
                if offsets[a] is None or offsets[b] is None or b < a or b - a + 1 > longest:
                    continue
                found.append((start[a] + end[b], offsets[a][0], offsets[b][1]))
    if negative:
        found.append((null, 0, 0))
    found = sorted(found, key=lambda row: row[0], reverse=True)[:n_best]
    if negative and not any(row[1:] == (0, 0) for row in found):
        found.append((null, 0, 0))
    if not found:
        return "empty", []
    scores = np.array([row[0] for row in found])
    shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    rows = [(context[a:b], p) for (_, a, b), p in zip(found, shares, strict=True)]
    if not negative:
        return rows[0][0], rows
    best = next(row for row in found if row[1:] != (0, 0))
    return "" if null - best[0] > threshold else context[best[1] : best[2]], rows


@pytest.mark.parametrize("negative", [False, True])
def test_random_logits_as_hugging_face_reads_them(negative):
    """The question's tokens are unlikely, as training makes them: else it finds fewer spans."""
    rng = np.random.default_rng(0)
    spans = ONE.spans
    offsets = [tuple(span) if span[0] >= 0 else None for span in spans.tolist()]
    options = {"null_threshold": 0.5} if negative else {}
    empty = 0
    for _ in range(50):
        start, end = rng.normal(0, 3, (2, len(spans))).astype(np.float32)
        start[1:4] = end[1:4] = start[-1] = end[-1] = -30
        start[0], end[0] = rng.normal(3, 2, 2)
        wanted, rows = hugging_face(
            [(start, end, offsets)], CONTEXT, longest=3, negative=negative, threshold=0.5
        )
        (row,) = told(made(ONE, [start], [end]), 30, max_answer_length=3, **options)
        assert row["answer"] == wanted
        ours = [(one["answer"], one["score"]) for one in row["n_best"]]
        assert len(ours) == 8 + 7 + 6 + negative  # of 30 that were asked for
        assert [text for text, _ in ours][:20] == [text for text, _ in rows][:20]
        if len(ours) == len(rows):
            assert [p for _, p in ours] == pytest.approx([p for _, p in rows], rel=1e-5)
        empty += wanted == ""
    assert (5 < empty < 45) == negative


def test_every_pair_is_looked_at():
    """Also where theirs finds none, for none of the best starts is before a best end."""
    data = windows((0, 8))
    start, end = logits(data, gg=1, hh=1), logits(data, aa=1, bb=1)
    offsets = [tuple(span) if span[0] >= 0 else None for span in data.spans.tolist()]
    assert hugging_face([(start, end, offsets)], CONTEXT, n_best=2) == ("empty", [])
    (found,) = find_answers(made(data, [start], [end]), longest=30, count=1)
    assert found.spans[0].score == -8


# Scores and thresholds


def three():
    """Answered right, answered where none is, and none found where there is one."""
    data = windows((0, 8), (0, 8), (0, 8), example_of=[0, 1, 2])
    starts = [logits(data, bb=3, null=0), logits(data, cc=2, null=1), logits(data, dd=1, null=4)]
    ends = [logits(data, bb=3, null=0), logits(data, cc=2, null=1), logits(data, dd=1, null=4)]
    predicted = made(data, starts, ends, examples=3)  # leads: -6, -2, 6
    asked = dataclasses.replace(
        predicted.examples, answers=(("bb",), (), ("dd ee", "ff")),
        labels=np.array([[3, 5], [-1, -1], [9, 14]], np.int32),
    )  # fmt: skip
    return predicted._replace(examples=asked)


def score(predicted, threshold=None, config=CONFIG):
    task = get_task("question-answering", TaskOptions(null_threshold=threshold))
    return task.score(config, predicted)


def test_scores_with_and_without_a_threshold():
    predicted = three()
    third = 100 / 3
    assert score(predicted)["f1"] == pytest.approx(third * (1 + 0 + 2 / 3))
    assert score(predicted, 0.0)["f1"] == pytest.approx(third)
    assert score(predicted, -4.0)["f1"] == pytest.approx(third * 2)
    assert score(predicted, -4.0)["NoAns_f1"] == 100
    stored = dataclasses.replace(CONFIG, thresholds=(("null", -4.0),))
    assert score(predicted, config=stored) == score(predicted, -4.0)
    first = predicted._replace(
        examples=dataclasses.replace(predicted.examples, answers=(("bb",), ("cc",), ("dd",)))
    )
    assert score(first) == {"f1": 100, "exact_match": 100}


def test_the_threshold_is_tuned_where_some_have_no_answer():
    predicted, task = three(), get_task("question-answering")
    learned = dataclasses.replace(CONFIG, thresholds=(("null", 0.0),))
    found = task.calibrate(learned, predicted)
    assert dict(found.thresholds) == {"null": -4}  # halfway from -6 to -2
    # It has only ever seen answers; it was said; there is nothing to tune it by.
    assert task.calibrate(CONFIG, predicted) == CONFIG
    said = get_task("question-answering", TaskOptions(null_threshold=1.0))
    assert said.calibrate(learned, predicted) == learned
    for answers in ((("bb",),) * 3, ((),) * 3):
        first = dataclasses.replace(predicted.examples, answers=answers)
        assert task.calibrate(learned, predicted._replace(examples=first)) == learned
    # No context has a token: nothing leads by any number.
    bare = windows((0, 0), (0, 0), example_of=[0, 1])
    empty = made(bare, [np.zeros(5)] * 2, [np.zeros(5)] * 2, examples=2)
    asked = dataclasses.replace(empty.examples, answers=(("bb",), ()))
    assert task.calibrate(learned, empty._replace(examples=asked)) == learned


def test_what_the_task_says_of_itself():
    task = get_task("question-answering")
    assert task.selection_metric(None) == ("f1", True)
    assert task.selection_metric("exact_match") == ("exact_match", True)
    assert (task.full_score, task.smooths_labels) == (100, False)


def test_what_the_configuration_says_of_questions_without_an_answer():
    examples, task = three().examples, get_task("question-answering")
    said = get_task("question-answering", TaskOptions(null_threshold=1.5))
    assert dict(task.configured(CONFIG, examples).thresholds) == {"null": 0}
    assert dict(said.configured(CONFIG, examples).thresholds) == {"null": 1.5}
    answered = dataclasses.replace(examples, answers=(("bb",),) * 3)
    assert task.configured(CONFIG, answered).thresholds == ()
    hf = task.configured(CONFIG, examples).to_hf()
    assert hf["task_specific_params"] == {"thresholds": {"null": 0.0}}
