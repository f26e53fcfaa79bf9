"""Exact match and F1 by hand, and where SQuAD's official scripts have their corners."""

import re
import string
from collections import Counter, defaultdict

import numpy as np
import pytest

from jaxbert.tasks.answer_scores import (
    best_threshold,
    exact_match,
    f1,
    normalize,
    score_answers,
    score_each,
)

NORMALIZED = {
    "The Rhine Gorge": "rhine gorge",
    "the  a an\tAN The": "",
    "thebes and an ant": "thebes and ant",
    "U.S.A.": "usa",
    "1,000.5%": "10005",
    "mother-in-law's": "motherinlaws",
    "a.m.": "am",  # the points are gone before the articles are
    "«Die Zeit»": "«die zeit»",  # not ASCII's punctuation
    "Beyoncé\u2019s": "beyoncé\u2019s",
    "ÉCOLE": "école",
    "İ": "i̇",  # lower case of one letter is two
    "das\u00a0Haus\u2003hier": "das haus hier",  # any white space is one
    "the\u00a0end": "end",
    "l'a": "la",
    "é a è": "é è",
    "b\u2014a\u2014c": "b\u2014 \u2014c",  # an article leaves a space
    "": "",
}


@pytest.mark.parametrize("text", NORMALIZED)
def test_normalization(text):
    assert normalize(text) == NORMALIZED[text]


def test_exact_match():
    assert exact_match("The Middle Rhine", "middle  rhine.") == 1
    assert exact_match("Middle Rhine", "Rhine") == 0
    assert exact_match("the", "a") == 1  # both are nothing


@pytest.mark.parametrize(
    ("gold", "guess", "first", "second"),
    [
        ("the Middle Rhine", "Middle Rhine", 1, 1),
        ("Middle Rhine", "the upper Rhine valley", 0.4, 0.4),  # 1 of 3, 1 of 2
        ("Rhine Rhine gorge", "Rhine", 0.5, 0.5),  # 1 of 1, 1 of 3
        ("Rhine", "Rhine Rhine", 2 / 3, 2 / 3),
        ("Rhine", "gorge", 0, 0),
        ("Rhine", "", 0, 0),
        ("", "Rhine", 0, 0),
        ("", "", 0, 1),
        ("the", "a", 0, 1),
        ("!", "", 0, 1),
    ],
)
def test_f1_by_both_scripts(gold, guess, first, second):
    assert f1(gold, guess, empty_is_equal=False) == pytest.approx(first)
    assert f1(gold, guess, empty_is_equal=True) == pytest.approx(second)


def test_the_nearest_of_several_answers_counts():
    scored = score_each([("a long river", "Rhine")], ["the Rhine"], second=False)
    assert (scored.exact.tolist(), scored.f1.tolist()) == ([1], [1])


def test_in_the_second_version_answers_without_words_do_not_count():
    golds = [("the", "Rhine"), ("the",), ()]
    guesses = ["", "", ""]
    assert score_each(golds, guesses, second=True).exact.tolist() == [0, 1, 1]
    assert score_each(golds[:2], guesses[:2], second=False).exact.tolist() == [1, 1]


def test_scores_of_the_first_version():
    found = score_answers(
        [("Rhine",), ("Middle Rhine", "Main")], ["Rhine", "Rhine"], ["x", "y"], np.zeros(2)
    )
    assert found == pytest.approx({"f1": 100 * (1 + 2 / 3) / 2, "exact_match": 50})


def test_scores_of_the_second_version():
    golds = [("Rhine",), ("Middle Rhine",), (), ()]
    best, leads = ["Rhine", "Rhine", "Main", "Bonn"], np.array([-4.0, 1.0, -2.0, 3.0])
    given = [text if lead <= 0 else "" for text, lead in zip(best, leads, strict=True)]
    found = score_answers(golds, given, best, leads)
    assert found == pytest.approx(
        {
            "f1": 50, "exact_match": 50,  # right, none for one, one for none, right
            "HasAns_exact": 50, "HasAns_f1": 50, "NoAns_exact": 50, "NoAns_f1": 50,
            # Only the first is answered: 1 + 0 + 1 + 1 of 4.
            "best_exact": 75, "best_exact_thresh": -4, "best_f1": 75, "best_f1_thresh": -4,
        }
    )  # fmt: skip
    golds[1], leads[2] = ("Rhine",), 2.0
    found = score_answers(golds, ["Rhine", "", "", ""], best, leads)
    assert (found["f1"], found["best_f1"], found["best_f1_thresh"]) == (75, 100, 1)


def test_without_any_answer_there_is_none_to_score():
    found = score_answers([(), ()], ["", "x"], ["y", "x"], np.array([1.0, -1.0]))
    assert not any(name.startswith("HasAns") for name in found)
    assert (found["f1"], found["best_f1"], found["best_f1_thresh"]) == (50, 100, -2)


def test_thresholds_by_hand():
    answered = np.array([True, False, True])
    texts = ["x", "y", "z"]

    def best(scores, leads):
        return best_threshold(np.array(scores), answered, np.array(leads), texts)

    # All are answered: 1 + 0 + 1 of 3; the first alone: 1 + 1 + 0, as good, and it comes first.
    assert best([1.0, 0, 1], [0.0, 1, 2]) == pytest.approx((200 / 3, 0, 1))
    assert best([1.0, 0, 1], [0.0, 2, 1]) == pytest.approx((100, 1, 2))
    assert best([1.0, 0, 1], [0.0, -1, -2]) == pytest.approx((200 / 3, -2, -1))
    assert best([0.0, 0, 0], [0.0, 1, 2]) == pytest.approx((100 / 3, -1, 0))  # none at all
    assert best([1.0, 0, 1], [1.0, 1, 1]) == pytest.approx((200 / 3, 1, 2))  # all or none


def official_normalize(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text, flags=re.UNICODE).split())


def official_f1(gold, guess):
    gold, guess = official_normalize(gold).split(), official_normalize(guess).split()
    same = sum((Counter(gold) & Counter(guess)).values())
    if len(gold) == 0 or len(guess) == 0:
        return int(gold == guess)
    if same == 0:
        return 0
    precision, recall = same / len(guess), same / len(gold)
    return (2 * precision * recall) / (precision + recall)


def official_threshold(guesses, scores, odds, has_answer):
    """The walk over sorted questions, as the script has it."""
    current = best = sum(not has_answer[key] for key in has_answer)
    threshold = None
    for key in sorted(odds, key=lambda k: odds[k]):
        current += scores[key] if has_answer[key] else (-1 if guesses[key] else 0)
        if current > best:
            best, threshold = current, odds[key]
    return 100.0 * best / len(scores), threshold


def test_random_answers_by_the_official_way():
    rng = np.random.default_rng(0)
    words = ["the", "a", "Rhine", "rhine,", "gorge", "An", "été", "—", "x.y", "!"]

    def text(most):
        return " ".join(rng.choice(words, rng.integers(0, most + 1)))

    counts = defaultdict(int)
    for _ in range(60):
        golds = [tuple(text(3) for _ in range(rng.integers(0, 4))) for _ in range(8)]
        golds[0] = ()
        best, leads = [text(3) for _ in range(8)], rng.normal(size=8)
        kept = [[g for g in several if official_normalize(g)] or [""] for several in golds]
        scores = {
            i: max(official_f1(g, best[i]) for g in several) for i, several in enumerate(kept)
        }
        has = {i: bool(several) for i, several in enumerate(golds)}
        wanted = official_threshold(best, scores, dict(enumerate(leads)), has)
        found = score_answers(golds, best, best, leads)
        assert found["f1"] == pytest.approx(100 * np.mean([*scores.values()]))
        assert found["best_f1"] == pytest.approx(wanted[0])
        if wanted[1] is not None:
            assert found["best_f1_thresh"] == wanted[1]
        counts[wanted[1] is None] += 1
    assert len(counts) == 2  # both ways were met
