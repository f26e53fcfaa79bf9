"""Text files, whole or a line at a time: in UTF-8, or refused with the place where they are not.

Only a newline ends a line. `str.splitlines` also splits at U+2028, form feeds and the like, which
are part of a text.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from jaxbert.errors import InputError

_MARK = "\ufeff"  # that some editors begin a file with


def read_text(path: Path) -> str:
    """The whole of a file.

    Raises:
      InputError: it is not UTF-8: which byte, in which line.
    """
    data = path.read_bytes()
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        at = start + error.start
        line = data.count(b"\n", 0, at) + 1
        encoding = "UTF-16" if b"\0" in data[:4] else "WINDOWS-1252"
        raise InputError(
            f"{path} is not UTF-8: byte 0x{data[at]:02x} at offset {at} (line {line}); convert it, "
            f"for example with: iconv -f {encoding} -t UTF-8"
        ) from None


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a file, of which one at a time is held in memory.

    Raises:
      As `read_text`, when the line comes that is not UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                read_text(path)  # it says where
                raise
            yield _without_end(text.removeprefix(_MARK) if number == 0 else text)


def lines_of(text: str) -> list[str]:
    r"""The lines of a text.

    Example:
      >>> lines_of("a good film\r\ndull\n")
      ['a good film', 'dull']
    """
    return [_without_end(line) for line in text.removesuffix("\n").split("\n")]


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")
