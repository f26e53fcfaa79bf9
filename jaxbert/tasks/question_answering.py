"""Which part of a context answers a question, if any does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Array

from jaxbert.data import Examples
from jaxbert.errors import InputError
from jaxbert.models import EncoderConfig
from jaxbert.models.heads import ForQuestionAnswering
from jaxbert.models.outputs import QuestionAnsweringOutput
from jaxbert.tasks import losses
from jaxbert.tasks.answer_scores import best_threshold, score_answers, score_each
from jaxbert.tasks.answers import CANDIDATES, Found, best_texts, find_answers, tell_answers
from jaxbert.tasks.losses import SumAndCount
from jaxbert.tasks.options import QUESTION_ANSWERING, TaskOptions
from jaxbert.tasks.questions import QuestionExamples, encode_questions, read_questions
from jaxbert.tasks.task import Batch, Predicted, Task

NULL = "null"  # what config.json calls the threshold

COLUMNS = {
    "question_column": "question",
    "context_column": "context",
    "answers_column": "answers",
    "id_column": None,
}


def _target(examples: Examples) -> Mapping[str, Any]:
    del examples
    return {}  # the head is the same for all


def _configure(config: EncoderConfig, examples: Examples, *, options: TaskOptions) -> EncoderConfig:
    """With a threshold, if questions may have no answer: 0 until one is tuned, as theirs."""
    if not isinstance(examples, QuestionExamples):
        raise InputError(
            f"{examples.source} holds no questions: read it with load_examples(..., "
            f"task={QUESTION_ANSWERING!r})"
        )
    known = _threshold(config, options)
    if known is None and examples.answers is not None and not all(examples.answers):
        known = 0.0
    return config if known is None else _with_threshold(config, known)


def _threshold(config: EncoderConfig, options: TaskOptions) -> float | None:
    """None where every question has an answer."""
    asked = options.null_threshold
    return dict(config.thresholds).get(NULL) if asked is None else asked


def _with_threshold(config: EncoderConfig, value: float) -> EncoderConfig:
    return dataclasses.replace(config, thresholds=((NULL, float(value)),))


def _loss(outputs: QuestionAnsweringOutput, batch: Batch, smoothing: float) -> SumAndCount:
    del smoothing
    return losses.span(
        outputs.start_logits,
        outputs.end_logits,
        batch["segment_ids"],
        batch["labels"],
        batch["weights"],
    )


def _results(outputs: QuestionAnsweringOutput, batch: Batch) -> dict[str, Array]:
    del batch
    return outputs._asdict()


def _find(predicted: Predicted, options: TaskOptions) -> list[Found]:
    count = max(CANDIDATES, options.n_best)
    return find_answers(predicted, longest=options.max_answer_length, count=count)


def _golds(predicted: Predicted) -> tuple[tuple[str, ...], ...]:
    answers = getattr(predicted.examples, "answers", None)
    assert answers is not None, "there are labels"
    return answers


def _score(
    config: EncoderConfig, predicted: Predicted, *, options: TaskOptions
) -> dict[str, float]:
    found, threshold = _find(predicted, options), _threshold(config, options)
    best, leads = best_texts(predicted, found), np.array([one.lead for one in found])
    given = best
    if threshold is not None:
        given = ["" if lead > threshold else text for text, lead in zip(best, leads, strict=True)]
    return score_answers(_golds(predicted), given, best, leads)


def _decode(
    config: EncoderConfig, predicted: Predicted, *, options: TaskOptions
) -> list[dict[str, Any]]:
    found = _find(predicted, options)
    return tell_answers(predicted, found, _threshold(config, options), options.n_best)


def _calibrate(
    config: EncoderConfig, predicted: Predicted, *, options: TaskOptions
) -> EncoderConfig:
    """With the threshold of the best F1, halfway between the questions that it parts.

    As it is where the threshold is given, where the model has learned that there always is an
    answer, and where none of these questions, or all, have none.
    """
    golds = _golds(predicted)
    answered = np.array([bool(several) for several in golds])
    tunable = options.null_threshold is None and _threshold(config, options) is not None
    if not tunable or answered.all() or not answered.any():
        return config
    found = _find(predicted, options)
    best, leads = best_texts(predicted, found), np.array([one.lead for one in found])
    if not np.isfinite(leads).any():
        return config  # no context has a token
    scores = score_each(golds, best, second=True).f1
    threshold = best_threshold(scores, answered, leads, best)
    return _with_threshold(config, (threshold.last + threshold.next) / 2)


def question_answering(options: TaskOptions) -> Task:
    """Which part of a context answers a question, if any does."""
    return Task(
        name=QUESTION_ANSWERING,
        head=ForQuestionAnswering,
        columns=COLUMNS,
        signatures=(frozenset({"question", "context", "answers"}),),
        read=read_questions,
        encode=partial(encode_questions, doc_stride=options.doc_stride),
        target=_target,
        configure=partial(_configure, options=options),
        loss=_loss,
        results=_results,
        score=partial(_score, options=options),
        decode=partial(_decode, options=options),
        calibrate=partial(_calibrate, options=options),
        metrics={"f1": True, "exact_match": True},
        full_score=100.0,
        label_layout="span",
        smooths_labels=False,
    )
