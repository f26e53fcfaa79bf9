"""JSON objects in files: read with an error that names the file, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxbert.atomic import write_text
from jaxbert.errors import InputError


def read_json(path: Path, fix: str = "mend it, or fetch the model again") -> dict[str, Any]:
    """The JSON object in a file.

    Args:
      fix: what to do where there is none, for the message.

    Raises:
      InputError: it holds something else.
    """
    content = _parsed(path, fix)
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(content).__name__}; {fix}")
    return content


def read_list(path: Path) -> list[Any]:
    """The JSON array in a file. InputError: it holds something else."""
    content = _parsed(path, "fetch the model again")
    if not isinstance(content, list):
        raise InputError(f"{path} must hold a JSON array, got {type(content).__name__}")
    return content


def _parsed(path: Path, fix: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}; {fix}") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, as `transformers` lays it out; the file is complete or absent."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
