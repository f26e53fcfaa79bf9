"""The JSON that SQuAD 1.1 and 2.0 come in, as columns: a row for each question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxbert.errors import InputError

_OF_QUESTION = ("id", "question", "answers", "is_impossible")


def is_squad(value: Any) -> bool:
    """Whether a JSON value is such a file: {"data": [{"paragraphs": [...]}, ...]}.

    Example:
      >>> is_squad({"version": "1.1", "data": [{"title": "Rivers", "paragraphs": []}]})
      True
    """
    articles = value.get("data") if isinstance(value, Mapping) else None
    return (
        isinstance(articles, list)
        and bool(articles)
        and isinstance(articles[0], Mapping)
        and "paragraphs" in articles[0]
    )


def squad_columns(value: Mapping[str, Any], name: str) -> dict[str, list[Any]]:
    """Its questions as the columns id, title, context, question, answers and is_impossible.

    Those that no question has are left out, as are answers in a file to be answered.

    Args:
      name: of the file, for messages.

    Raises:
      InputError: a part that is missing, or no list or object where one is wanted.

    Example:
      >>> asked = {"question": "Where?", "id": "7", "answers": []}
      >>> squad_columns(
      ...     {"data": [{"paragraphs": [{"context": "Here.", "qas": [asked]}]}]}, "rivers.json"
      ... )
      {'id': ['7'], 'context': ['Here.'], 'question': ['Where?'], 'answers': [[]]}
    """
    rows = list(_rows(value, name))
    if not rows:
        raise InputError(f"{name} holds no questions: there must be at least one")
    names = ("id", "title", "context", "question", "answers", "is_impossible")
    there = [column for column in names if any(column in row for row in rows)]
    return {column: [row.get(column) for row in rows] for column in there}


def _rows(value: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    for i, article in enumerate(value["data"], 1):
        where = f"{name}, article {i}"
        title = {"title": article["title"]} if "title" in _object(article, where) else {}
        for j, paragraph in enumerate(_part(article, "paragraphs", list, where), 1):
            place = f"{where}, paragraph {j}"
            context = _part(_object(paragraph, place), "context", str, place)
            for k, asked in enumerate(_part(paragraph, "qas", list, place), 1):
                spot = f"{place}, question {k}"
                _part(_object(asked, spot), "question", str, spot)
                own = {key: asked[key] for key in _OF_QUESTION if key in asked}
                yield {**title, "context": context, **own}


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: got {type(value).__name__}, want an object, as in SQuAD's JSON")
    return value


def _part(value: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    """What is under a key, which must be there and of that kind."""
    if key not in value:
        raise InputError(f"{where} has no {key!r}, which SQuAD's JSON has there: add it")
    if not isinstance(value[key], kind):
        got, want = type(value[key]).__name__, "a list" if kind is list else "a text"
        raise InputError(f"{where}: {key!r} is {got}, want {want}, as in SQuAD's JSON")
    return value[key]
