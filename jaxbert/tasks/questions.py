"""Questions with contexts and answers: read from columns, and where the answers are in features."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from jaxbert.data import Examples, Form, Tokenized, encode, texts_of
from jaxbert.data.features import count_tokens
from jaxbert.data.sources import Column, columns_of, refuse, values_of
from jaxbert.data.tables import Table
from jaxbert.errors import InputError
from jaxbert.tasks.options import QUESTION_ANSWERING

NO_ANSWER = -1
_DOC_STRIDE = 128  # of Hugging Face's and Google's scripts, whose max_length is three times as much
_FORM = '{"text": [...], "answer_start": [...]}, empty lists where there is no answer'


@dataclasses.dataclass(frozen=True)
class QuestionExamples(Examples):
    """N questions (`texts`), each about a context (`pairs`).

    labels: [N, 2] int32, where in the context the first answer begins and ends, in characters, its
    own white space left out; -1 -1 where there is none.
    answers: the texts of all answers of each, for the scores; None without labels.
    ids: what the questions are called; None where they have no names.

    Example:
      >>> one = QuestionExamples(("Where?",), ("Here.",), ids=("7",))
      >>> one.take(np.array([0, 0])).ids
      ('7', '7')
    """

    answers: tuple[tuple[str, ...], ...] | None = None
    ids: tuple[Any, ...] | None = None

    def take(self, chosen: np.ndarray) -> Self:
        """The examples at these places, in this order."""
        pick = lambda values: None if values is None else tuple(values[i] for i in chosen)  # noqa: E731
        taken = super().take(chosen)
        return dataclasses.replace(taken, answers=pick(self.answers), ids=pick(self.ids))

    def unlabelled(self) -> Self:
        """The same without answers."""
        return dataclasses.replace(super().unlabelled(), answers=None)

    def strings(self) -> tuple[Sequence[str] | None, ...]:
        """All texts in it; the ids change nothing that is learned or scored."""
        answers = None if self.answers is None else [json.dumps(one) for one in self.answers]
        return *super().strings(), answers


def read_questions(
    table: Table,
    columns: Mapping[str, str | None],
    *,
    labelled: bool = True,
    label_names: Sequence[str] | None = None,
) -> QuestionExamples:
    """Questions, contexts, answers and ids.

    Answers are {"text": [...], "answer_start": [...]}, as on the hub, or a list of {"text",
    "answer_start"}, as in SQuAD's own files; starts are counted in characters of the context. There
    may be any number, and none where the context does not answer the question.

    Args:
      columns: {argument: the column's name}; without `id_column`, "id" where there is one.

    Raises:
      InputError: answers of another form, or the first of them not where it says.
    """
    del label_names
    wanted = dict(columns) if labelled else {**columns, "answers_column": None}
    if wanted.get("id_column") is None and "id" in table.columns:
        wanted["id_column"] = "id"
    found = columns_of(table.columns, table.name, wanted)
    named = {"text_column": "question_column", "text_pair_column": "context_column"}
    asked = texts_of({name: found[column] for name, column in named.items()}, table.name)
    assert asked.pairs is not None, "a column of contexts"
    where = found["context_column"].where
    blank = [i for i, text in enumerate(asked.pairs) if not text.strip()]
    refuse(where, "no text", blank, "fill or delete it")
    ids = found.get("id_column")
    examples = QuestionExamples(
        asked.texts, asked.pairs, source=table.name, ids=None if ids is None else tuple(ids.values)
    )
    if not labelled:
        return examples
    answers = _answers(found["answers_column"])
    return dataclasses.replace(
        examples,
        labels=_characters(answers, asked.pairs, found["answers_column"].where),
        answers=tuple(tuple(answer.text for answer in several) for several in answers),
        task=QUESTION_ANSWERING,
        reason=f"{found['answers_column'].where} holds answers",
    )


class _Answer(NamedTuple):
    text: str
    start: int


def _answers(column: Column) -> list[list[_Answer]]:
    """Those of each question; refuses every form but two."""
    parsed = [_parse(value) for value in column.values]
    wrong: dict[str, list[int]] = {}
    for i, found in enumerate(parsed):
        if isinstance(found, str):
            wrong.setdefault(found, []).append(i)
    for what, rows in wrong.items():
        refuse(column.where, what, rows, f"want {_FORM}")
    return [found for found in parsed if not isinstance(found, str)]


def _parse(value: Any) -> list[_Answer] | str:
    """The answers, or what is wrong with them."""
    if isinstance(value, Mapping):
        parts = [value.get("text"), value.get("answer_start")]
        if any(not hasattr(part, "__len__") or isinstance(part, str) for part in parts):
            return "answers without lists of text and answer_start"
        texts, starts = map(values_of, parts)
        if len(texts) != len(starts):
            return "answers with more of text or of answer_start"
    elif isinstance(value, list | tuple | np.ndarray):
        if not all(isinstance(one, Mapping) for one in value):
            return "answers that are no objects"
        texts, starts = ([one.get(key) for one in value] for key in ("text", "answer_start"))
    else:
        return "no answers" if value is None else f"{type(value).__name__} where answers are wanted"
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return "an answer without text"
    if not all(isinstance(start, int) and not isinstance(start, bool) for start in starts):
        return "an answer_start that is no whole number"
    return [_Answer(*one) for one in zip(texts, starts, strict=True)]


def _characters(
    answers: Sequence[Sequence[_Answer]], contexts: Sequence[str], where: str
) -> np.ndarray:
    """[N, 2]: the first answer's first character and the one after its last, see `labels`.

    The other answers count in the scores, by their texts, and may say what they like.
    """
    labels = np.full((len(answers), 2), NO_ANSWER, np.int32)
    misplaced = []
    for i, (several, context) in enumerate(zip(answers, contexts, strict=True)):
        if several:
            text, start = several[0]
            if start < 0 or context[start : start + len(text)] != text:
                misplaced.append(i)
            inner = text.strip()
            begin = start + text.index(inner)
            labels[i] = begin, begin + len(inner)
    if misplaced:
        i, more = misplaced[0], len(misplaced) - 1
        told = _misplaced(answers[i][0], contexts[i])
        rows = f"data row {i + 1} (counted from 1)" + (f", and {more} more," if more else "")
        raise InputError(f"{where}, {rows}: {told}; mend it there")
    return labels


def _misplaced(answer: _Answer, context: str) -> str:
    """What stands where an answer should, and where the nearest place is that it stands at."""
    text, start = answer
    there = context[start : start + len(text)] if 0 <= start < len(context) else ""
    has = repr(there[:40]) if there else f"nothing, for it has {len(context)} characters"
    places = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
    nearest = min(places, key=lambda at: abs(at - start), default=None)
    hint = "and no place has the answer" if nearest is None else f"the nearest is {nearest}"
    return f"at answer_start={start} the context has {has} and not {text[:40]!r}; {hint}"


def encode_questions(
    examples: Examples,
    tokenizer: Any,
    max_length: int,
    cache_dir: str | Path | None = None,
    *,
    doc_stride: int | None = None,
) -> Tokenized:
    """Each question with as much of its context as there is room for, in as many windows as needed.

    The question stands first; where the tokenizer pads on the left, as Hugging Face's script has
    it, it stands second. Labels are the first and last token that the first answer has a character
    of, and the first token of the feature (mostly [CLS]) where the window does not hold it whole.

    Args:
      doc_stride: tokens of the context that a window shares with the one before; None = 128, or a
        third of `max_length` where that is less.

    Raises:
      InputError: a question that leaves no room for its context; questions without contexts.

    Reference: `prepare_train_features` in run_qa.py of transformers' examples, with which labels
    agree but for: an answer that the window's last token begins (theirs begins in the padding),
    one that is part of what several tokens stand for (theirs ends before it begins), and white
    space at an answer's ends (theirs takes a token more).
    """
    if examples.pairs is None:
        raise InputError(
            f"{examples.source}: questions without contexts: load_examples(..., "
            f"task={QUESTION_ANSWERING!r}, labelled=False) reads both"
        )
    questions = [question.lstrip() for question in examples.texts]  # as theirs
    stride = min(_DOC_STRIDE, max_length // 3) if doc_stride is None else doc_stride
    _check_room(examples, questions, tokenizer, max_length, stride)
    contexts, last = examples.pairs, tokenizer.padding_side == "left"
    inputs = list(zip(contexts, questions) if last else zip(questions, contexts))  # noqa: B905
    form = Form(
        pairs=True,
        stride=stride,
        shortened="only_first" if last else "only_second",
        described=True,
    )
    found = encode(inputs, form, tokenizer, max_length, source=examples.source, cache_dir=cache_dir)
    if examples.labels is None:
        return found
    labels = _token_spans(found, examples.labels)
    return dataclasses.replace(found, labels=labels, label_layout="span")


def _check_room(
    examples: Examples, questions: list[str], tokenizer: Any, max_length: int, stride: int
) -> None:
    """InputError where a question leaves so little room that its context cannot be divided."""
    assert examples.pairs is not None, "checked before"
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if stride >= max_length - special:
        raise InputError(
            f"doc_stride={stride} must be below what {max_length=} leaves beside {special} special "
            f"tokens, {max_length - special}"
        )
    room = max_length - special - count_tokens(questions, tokenizer, source=examples.source)
    narrow = np.flatnonzero(room <= stride)  # few or none
    if not len(narrow):
        return
    contexts = [examples.pairs[i] for i in narrow]
    needed = count_tokens(contexts, tokenizer, source=examples.source)
    refused = narrow[needed > room[narrow]]
    if len(refused):
        i, more = int(refused[0]), len(refused) - 1
        raise InputError(
            f"{examples.source}: the question in data row {i + 1} (counted from 1; and {more} "
            f"more) leaves {max(int(room[i]), 0)} of {max_length=} tokens for its context, and "
            f"windows share doc_stride={stride}: want a greater max_length, a smaller doc_stride, "
            "or shorter questions"
        )


def _token_spans(found: Tokenized, characters: np.ndarray) -> np.ndarray:
    """[F, 2] int32: the first and the last token of characters [N, 2] of each example's context."""
    assert found.spans is not None, "asked for"
    assert found.example_of is not None, "a stride makes features"
    starts, ends = found.spans.T
    of_context, bounds = starts >= 0, found.offsets[:-1]
    wanted = characters[found.example_of]
    begin, end = np.repeat(wanted, found.lengths, axis=0).T
    place = np.arange(len(starts)) - np.repeat(bounds, found.lengths)
    far = np.iinfo(np.int32).max

    def least(values: np.ndarray, among: np.ndarray) -> np.ndarray:
        return np.minimum.reduceat(np.where(among, values, far), bounds)

    def most(values: np.ndarray, among: np.ndarray) -> np.ndarray:
        return np.maximum.reduceat(np.where(among, values, -1), bounds)

    first = least(place, of_context & (ends > begin))
    last = most(place, of_context & (starts < end))
    whole = (least(starts, of_context) <= wanted[:, 0]) & (wanted[:, 1] <= most(ends, of_context))
    inside = whole & (first <= last)  # where there is no answer, no token is before its end
    return np.where(inside[:, None], np.stack([first, last], axis=1), 0).astype(np.int32)
