"""Logits of tokens to answers: the best spans of each question's context, over its windows.

Reference: `postprocess_qa_predictions` in utils_qa.py of transformers' examples, and
`write_predictions` in Google's run_squad.py, from which the choice among windows is. Theirs look at
pairs of the 20 best starts and the 20 best ends; here every pair is looked at, so that an answer
never scores less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxbert.tasks.task import Predicted

CANDIDATES = 20  # among which the probability is shared out, as theirs


class Span(NamedTuple):
    """Where an answer stands in its context, in characters, and the sum of its two logits.

    Example:
      >>> Span(7.5, 10, 14).start
      10
    """

    score: float
    start: int
    end: int


class Found(NamedTuple):
    """Of a question: the score of there being no answer, and the best spans, the best first.

    Example:
      >>> Found(2.0, [Span(7.5, 10, 14)]).lead
      -5.5
    """

    null: float
    spans: list[Span]

    @property
    def lead(self) -> float:
        """How much likelier than the best span no answer is."""
        return self.null - self.spans[0].score if self.spans else np.inf


def find_answers(predicted: Predicted, *, longest: int, count: int = CANDIDATES) -> list[Found]:
    """For each example what its windows make likely.

    A token that several windows have is an answer's first token only in the one where it has most
    context on its poorer side. How likely no answer is, is said by the window that finds it least
    likely.

    Args:
      longest: tokens of an answer, at most.
      count: spans to keep.
    """
    data, results = predicted.tokenized, predicted.results
    assert data.spans is not None, "encoded for this task"
    several: list[list[int]] = [[] for _ in range(len(predicted.examples))]
    for feature in range(len(data)):
        several[data.example(feature)].append(feature)
    found = []
    for features in several:
        logits = [
            (results["start_logits"][f], results["end_logits"][f], data.spans[data.of_feature(f)])
            for f in features
        ]
        nulls = [float(start[0] + end[0]) for start, end, _ in logits]
        own = _of_best_context([spans[spans[:, 0] >= 0] for *_, spans in logits])
        best = [
            span
            for (start, end, spans), mine in zip(logits, own, strict=True)
            for span in _best_spans(start, end, spans, mine, longest, count)
        ]
        best.sort(key=lambda span: (-span.score, span.start, span.end))
        found.append(Found(min(nulls), best[:count]))
    return found


def _best_spans(
    start: np.ndarray,
    end: np.ndarray,
    spans: np.ndarray,
    mine: np.ndarray,
    longest: int,
    count: int,
) -> list[Span]:
    """Of a window: the best `count` pairs of tokens of the context, in any order."""
    inner = np.flatnonzero(spans[:, 0] >= 0)
    if not len(inner):
        return []
    starts = np.where(mine, start[inner].astype(np.float64), -np.inf)
    width = min(longest, len(inner))
    ends = np.concatenate([end[inner].astype(np.float64), np.full(width - 1, -np.inf)])
    # [tokens, width]: of the pair that starts at a token and ends so many later
    scores = starts[:, None] + np.lib.stride_tricks.sliding_window_view(ends, width)
    flat = scores.ravel()
    top = np.argpartition(-flat, count - 1)[:count] if len(flat) > count else np.arange(len(flat))
    top = top[np.isfinite(flat[top])]
    first, more = np.divmod(top, width)
    places = zip(top, inner[first], inner[first + more], strict=True)
    return [Span(float(flat[t]), int(spans[a, 0]), int(spans[b, 1])) for t, a, b in places]


def _of_best_context(windows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each window's tokens [n, 2] whether it is the window in which they have most context.

    That is the smaller of the numbers of tokens before and after, and a hundredth of the window's
    length where two are equal; the first where that is equal too.
    """
    if len(windows) == 1:
        return [np.ones(len(windows[0]), bool)]
    order = sorted(range(len(windows)), key=lambda i: tuple(windows[i][:1, 0]))
    places: dict[int, np.ndarray] = {}
    begin, before = 0, None
    for i in order:  # neighbors share the tokens that begin before the first one's end
        spans = windows[i]
        if before is not None and len(before):
            begin += len(before) - int(np.count_nonzero(spans[:, 0] < before[-1, 1]))
        places[i] = begin + np.arange(len(spans))
        before = spans
    total = max((int(place[-1]) + 1 for place in places.values() if len(place)), default=0)
    best, owner = np.full(total, -np.inf), np.full(total, -1)
    for i in order:
        n = len(windows[i])
        context = np.minimum(np.arange(n), n - 1 - np.arange(n)) + 0.01 * n
        better = context > best[places[i]]
        best[places[i][better]] = context[better]
        owner[places[i][better]] = i
    return [owner[places[i]] == i for i in range(len(windows))]


def tell_answers(
    predicted: Predicted, found: Sequence[Found], threshold: float | None, n_best: int
) -> list[dict[str, Any]]:
    """For each question {"answer", "score", "start", "end"}, its "id", and "n_best" beyond one.

    score: the answer's probability among the `CANDIDATES` best. start, end: characters of the
    context, None where there is no answer.

    Args:
      threshold: how much likelier than the best span no answer must be to be the answer; None =
        there always is one.
    """
    examples = predicted.examples
    assert examples.pairs is not None, "contexts"
    ids = getattr(examples, "ids", None)
    told = []
    for i, (one, context) in enumerate(zip(found, examples.pairs, strict=True)):
        rows = _with_scores(one, context, null=threshold is not None or not one.spans)
        given = rows[0]
        if threshold is not None:
            none = one.lead > threshold
            given = next(row for row in rows if (row["start"] is None) == none)
        more = {"n_best": rows[:n_best]} if n_best > 1 else {}
        told.append({**given, **more, **({} if ids is None else {"id": ids[i]})})
    return told


def _with_scores(one: Found, context: str, *, null: bool) -> list[dict[str, Any]]:
    """All candidates, likeliest first."""
    rows: list[tuple[float, dict[str, Any]]] = [
        (span.score, {"answer": context[span.start : span.end], "start": span.start,
                      "end": span.end})
        for span in one.spans
    ]  # fmt: skip
    if null:
        rows.append((one.null, {"answer": "", "start": None, "end": None}))
    rows.sort(key=lambda row: -row[0])
    scores = np.array([score for score, _ in rows])
    shares = np.exp(scores - scores.max())
    return [
        {"answer": row["answer"], "score": float(share), "start": row["start"], "end": row["end"]}
        for share, (_, row) in zip(shares / shares.sum(), rows, strict=True)
    ]


def best_texts(predicted: Predicted, found: Sequence[Found]) -> list[str]:
    """Of each question the text of its best span."""
    assert predicted.examples.pairs is not None, "contexts"
    return [
        context[one.spans[0].start : one.spans[0].end] if one.spans else ""
        for one, context in zip(found, predicted.examples.pairs, strict=True)
    ]
