"""Zip archives as PyTorch writes them: stored entries with checksums, and an end without comment.

Python's `zipfile` takes whatever a directory of entries says and makes objects of it; here an entry
is a few numbers, there is a limit to them, and each must lie within the file. Nothing is extracted.

Reference: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxbert.errors import InputError
from jaxbert.weights.readers.stored import MAX_NAME, MAX_TENSORS, read_part

_LOCAL = struct.Struct("<4s22x2H")  # signature, lengths of name and extra field
# signature, flags, method, crc, compressed and real size, lengths of name, extra field and comment,
# offset of the local header
_CENTRAL = struct.Struct("<4s4x2H4x3I3H8xI")
_END = struct.Struct("<4s6xH2IH")  # signature, entries, directory's size and offset, comment
_LOCATOR = struct.Struct("<4s4xQ4x")  # signature, offset of the 64-bit end
_END_64 = struct.Struct("<4s28x3Q")  # signature, entries, directory's size and offset
_STORED, _ENCRYPTED = 0, 1
_FULL = 0xFFFFFFFF  # the 64-bit number stands in the extra field
_MAX_DIRECTORY = 4 << 20


class Entry(NamedTuple):
    """offset: of its local header. size: of its content. crc: CRC-32 of its content."""

    offset: int
    size: int
    crc: int


class ZipArchive:
    """The entries of a zip file, and their contents.

    Args:
      path: where it is.

    Raises:
      InputError: it is truncated or damaged; an entry is compressed, encrypted or twice there, ends
        after the file, or has a name that leads out of a directory; all together are larger than
        the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = path.stat().st_size
        self.entries: dict[str, Entry] = {}
        for name, entry in self._directory():
            if name in self.entries:
                raise InputError(f"{path} has its entry {name!r} twice: fetch it again")
            if len(self.entries) >= MAX_TENSORS:
                raise InputError(f"{path} has more than {MAX_TENSORS} entries: it is no model")
            self.entries[name] = entry
        if sum(entry.size for entry in self.entries.values()) > self._size:
            raise InputError(f"{path} has entries that lie over each other: it is no model")

    def read(self, name: str) -> bytes:
        """The content of an entry.

        Raises:
          InputError: it is not what its checksum says.
        """
        entry = self.entries[name]
        signature, *lengths = _LOCAL.unpack(read_part(self.path, entry.offset, _LOCAL.size))
        if signature != b"PK\3\4":
            raise self._damaged(f"there is no entry {name!r} where its directory says")
        content = read_part(self.path, entry.offset + _LOCAL.size + sum(lengths), entry.size)
        if zlib.crc32(content) != entry.crc:
            raise self._damaged(f"{name!r} does not match its checksum")
        return content

    def _directory(self) -> Iterator[tuple[str, Entry]]:
        count, size, offset = self._end()
        if size > _MAX_DIRECTORY:
            raise InputError(f"{self.path} has a directory of {size} bytes: it is no model")
        content = read_part(self.path, offset, size)
        start = 0
        for _ in range(count):
            name, entry, start = self._entry(content, start)
            yield name, entry
        if start != size:
            raise self._damaged("its directory is longer than its entries")

    def _end(self) -> tuple[int, int, int]:
        """(entries, directory's size, directory's offset)."""
        start = self._size - _END.size
        if start < 0:
            raise self._damaged("it is too short")
        signature, count, size, offset, comment = _END.unpack(
            read_part(self.path, start, _END.size)
        )
        if signature != b"PK\5\6" or comment:
            raise self._damaged("it does not end as a zip archive")
        if start < _LOCATOR.size:
            return count, size, offset
        signature, end = _LOCATOR.unpack(read_part(self.path, start - _LOCATOR.size, _LOCATOR.size))
        if signature != b"PK\6\7":
            return count, size, offset
        signature, *numbers = _END_64.unpack(read_part(self.path, end, _END_64.size))
        if signature != b"PK\6\6":
            raise self._damaged("its end is not where it says")
        return numbers[0], numbers[1], numbers[2]

    def _entry(self, content: bytes, start: int) -> tuple[str, Entry, int]:
        """(name, entry, where the next one starts)."""
        if start + _CENTRAL.size > len(content):
            raise self._damaged("its directory is shorter than its entries")
        signature, flags, method, crc, packed, size, *lengths, offset = _CENTRAL.unpack_from(
            content, start
        )
        if signature != b"PK\1\2":
            raise self._damaged("its directory is not where it says")
        start += _CENTRAL.size
        name = self._name(content[start : start + lengths[0]])
        extra = content[start + lengths[0] : start + lengths[0] + lengths[1]]
        size, packed, offset = self._wide(extra, [size, packed, offset])
        if method != _STORED or packed != size:
            raise InputError(
                f"{self.path} has a compressed entry {name!r}, and torch.save compresses none: "
                "save the model's state_dict with torch.save"
            )
        if flags & _ENCRYPTED:
            raise InputError(f"{self.path} has an encrypted entry {name!r}: decrypt it first")
        if offset + _LOCAL.size + size > self._size:
            raise self._damaged(f"{name!r} ends after the file")
        return name, Entry(offset, size, crc), start + sum(lengths)

    def _name(self, raw: bytes) -> str:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self._damaged("an entry's name is not UTF-8") from None
        parts = name.split("/")
        plain = not {"", ".", ".."} & set(parts) and not {"\\", ":", "\0"} & set(name)
        if not plain or len(raw) > MAX_NAME:
            raise InputError(
                f"{self.path} has an entry {name[:MAX_NAME]!r}, a name that torch.save gives "
                "none: it is no model"
            )
        return name

    def _wide(self, extra: bytes, numbers: list[int]) -> list[int]:
        """The numbers, those that 32 bits could not hold from the extra field."""
        wanted = [i for i, number in enumerate(numbers) if number == _FULL]
        while wanted and len(extra) >= 4:
            kind, length = struct.unpack_from("<2H", extra)
            field, extra = extra[4 : 4 + length], extra[4 + length :]
            if kind == 1 and len(field) >= 8 * len(wanted):
                for i, place in enumerate(wanted):
                    numbers[place] = int.from_bytes(field[8 * i : 8 * i + 8], "little")
                break
        return numbers

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.path} is no complete zip archive ({what}): fetch it again")
