"""The file of one run while it is made: what is written to it, and whether it came to its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxbert.errors import DivergedError, InputError

LOG_LINES = 25  # of the training loss in a journal
SIGNIFICANT = 6  # digits of a number in a journal
_OF_THE_MACHINE = ("examples_per_second", "tokens_per_second", "waiting_share")


class Journal:
    """The file of one run: JSON lines, written as it goes; the last, "end", makes it a result."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """One line; what measures the machine and not the training is left out."""
        kept = {k: v for k, v in values.items() if k not in _OF_THE_MACHINE}
        line = {"event": event, "step": step, **_rounded(kept)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """After the last line."""
        self._file.close()


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.{SIGNIFICANT}g}") if isinstance(value, float) else value


def diverged(error: DivergedError) -> dict[str, str]:
    """What the last line says of a run whose numbers stopped being finite."""
    return {"status": "diverged", "why": str(error).split(";")[0]}


def finished(journal: Path) -> dict[str, Any] | None:
    """The last line of a run that came to its end, diverged or not; None otherwise.

    Raises:
      InputError: the file is no text.
    """
    if not journal.is_file():
        return None
    try:
        last = journal.read_text(encoding="utf-8").splitlines()[-1:]
        end = json.loads(last[0]) if last else {}
    except UnicodeDecodeError as error:
        raise InputError(f"{journal} is no journal: {error}; delete it to run it again") from None
    except json.JSONDecodeError:  # killed in the middle of a line
        return None
    return end if isinstance(end, dict) and end.get("event") == "end" else None
