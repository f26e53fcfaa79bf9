"""Sentences of a token a line, as the shared tasks of CoNLL have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxbert.data.lines import read_lines
from jaxbert.errors import InputError


def read_conll(path: Path) -> dict[str, Any]:
    """The columns "tokens" and "tags": lists, a row a sentence.

    A token stands first in its line, its tag last, with tabs or spaces between. Blank lines, and
    lines without a token, end a sentence. Of one column there are no tags.

    Raises:
      InputError: lines of different widths; no sentence.
    """
    sentences: list[list[list[str]]] = [[]]
    width, first = 0, 0
    for number, line in enumerate(read_lines(path), 1):
        fields = _fields(line)
        if not fields or not fields[0]:
            sentences.append([])
        elif fields[0] != "-DOCSTART-":
            if not width:
                width, first = len(fields), number
            if len(fields) != width:
                raise InputError(
                    f"{path}, line {number}: {len(fields)} columns where line {first} has {width}; "
                    "want a token, its tag, and one separator, tabs or spaces, in every line"
                )
            sentences[-1].append(fields)
    rows = [rows for rows in sentences if rows]
    if not rows:
        raise InputError(f"{path} holds no sentences: want a token a line, and its tag behind it")
    columns = {"tokens": [[fields[0] for fields in row] for row in rows]}
    if width > 1:
        columns["tags"] = [[fields[-1] for fields in row] for row in rows]
    return columns


def _fields(line: str) -> list[str]:
    """What stands between the tabs of a line or, where it has none, between its spaces."""
    if "\t" not in line:
        return [field for field in line.split(" ") if field]
    fields = [field.strip(" ") for field in line.split("\t")]
    while fields and not fields[-1]:
        fields.pop()
    return fields
