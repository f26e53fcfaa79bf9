"""Exact match and F1 of answers, in percent, as SQuAD's official scripts compute them.

Reference: evaluate-v1.1.py and evaluate-v2.0.py of SQuAD. They differ where an answer is nothing
but articles and punctuation, and in that 2.0 knows questions without an answer.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class Scored(NamedTuple):
    """[N] each, from 0 to 1."""

    exact: np.ndarray
    f1: np.ndarray


class Threshold(NamedTuple):
    """The best score there is, in percent, and what parts the questions to be answered.

    last: the lead of no answer in the last question that is. next: in the first that is not. Where
    there is none on a side, 1 beyond the other.
    """

    score: float
    last: float
    next: float


def normalize(text: str) -> str:
    """Lower case, without ASCII's punctuation and without articles, one space between words.

    Example:
      >>> normalize("The  Rhine's Gorge!")
      'rhines gorge'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(gold: str, guess: str) -> float:
    """Whether both are normalized to the same.

    Example:
      >>> exact_match("the Rhine", "Rhine.")
      1.0
    """
    return float(normalize(gold) == normalize(guess))


def f1(gold: str, guess: str, *, empty_is_equal: bool) -> float:
    """The harmonic mean of precision and recall of normalized words, each as often as it is there.

    Args:
      empty_is_equal: where one has no words, whether both have none (2.0); else 0 (1.1).

    Example:
      >>> f1("the Middle Rhine", "Rhine", empty_is_equal=True)
      0.6666666666666666
    """
    theirs, ours = normalize(gold).split(), normalize(guess).split()
    if empty_is_equal and not (theirs and ours):
        return float(theirs == ours)
    shared = (Counter(theirs) & Counter(ours)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(ours), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


def score_each(golds: Sequence[Sequence[str]], guesses: Sequence[str], *, second: bool) -> Scored:
    """Each guess by the gold answer that it is nearest to.

    Args:
      golds: of each question all answers; none where there is no answer.
      second: by the rules of 2.0, where answers without words do not count, and a question
        without any is answered right by an empty text.
    """
    exact, overlap = np.zeros(len(golds)), np.zeros(len(golds))
    for i, (several, guess) in enumerate(zip(golds, guesses, strict=True)):
        if second:
            several = [gold for gold in several if normalize(gold)] or [""]
        exact[i] = max(exact_match(gold, guess) for gold in several)
        overlap[i] = max(f1(gold, guess, empty_is_equal=second) for gold in several)
    return Scored(exact, overlap)


def score_answers(
    golds: Sequence[Sequence[str]],
    guesses: Sequence[str],
    best: Sequence[str],
    leads: np.ndarray,
) -> dict[str, float]:
    """{"f1", "exact_match"} and, where questions have no answer, what 2.0's script says of them.

    That is HasAns_, NoAns_: of the questions with and without; best_: with the threshold that suits
    these questions best.

    Args:
      guesses: as given, "" for no answer.
      best: what would be said if there had to be an answer.
      leads: [N], how much likelier no answer is than that.
    """
    answered = np.array([bool(several) for several in golds])
    second = not answered.all()
    scored = score_each(golds, guesses, second=second)
    found = {"f1": _percent(scored.f1), "exact_match": _percent(scored.exact)}
    if not second:
        return found
    for name, kind in (("HasAns", answered), ("NoAns", ~answered)):
        if kind.any():
            found[f"{name}_exact"] = _percent(scored.exact[kind])
            found[f"{name}_f1"] = _percent(scored.f1[kind])
    raw = score_each(golds, best, second=True)
    for name, values in raw._asdict().items():
        threshold = best_threshold(values, answered, leads, best)
        found[f"best_{name}"] = threshold.score
        found[f"best_{name}_thresh"] = threshold.last
    return found


def best_threshold(
    scores: np.ndarray, answered: np.ndarray, leads: np.ndarray, best: Sequence[str]
) -> Threshold:
    """The threshold of `leads` above which no answer is given, with the highest mean score.

    As `find_best_thresh` of evaluate-v2.0.py, but for questions with the same lead, which no
    threshold parts, and for a lead below zero being as good as any.

    Args:
      scores: [N], each best guess's. answered: [N] bool, whether there is an answer. best: the
        guesses, of which an empty one is right where there is none.
    """
    order = np.argsort(leads, kind="stable")
    said = np.array([bool(text) for text in best])
    gains = np.where(answered, scores, np.where(said, -1.0, 0.0))[order]
    sums = (~answered).sum() + np.concatenate([[0.0], np.cumsum(gains)])
    ordered = leads[order]
    bounds = np.concatenate([[-np.inf], ordered, [np.inf]])
    sums[bounds[:-1] == bounds[1:]] = -np.inf
    k = int(sums.argmax())  # so many questions are answered
    last, following = bounds[k], bounds[k + 1]
    last, following = (
        following - 1 if np.isneginf(last) else last,
        last + 1 if np.isposinf(following) else following,
    )
    return Threshold(100.0 * float(sums[k]) / len(scores), float(last), float(following))


def _percent(values: np.ndarray) -> float:
    return 100.0 * float(values.mean())
