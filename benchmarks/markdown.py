"""What all tables of the documents share: Markdown, and how a machine is called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(row: dict[str, Any]) -> str:
    """Where a result was measured, as far as its processor goes."""
    found = row["machine"]
    return f"{found['cores']} cores of {found['processor']}"
