"""Bytes of Google's formats: varints, protocol buffers without a schema, snappy.

Reference: https://protobuf.dev/programming-guides/encoding, and format_description.txt of snappy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from jaxbert.errors import InputError

# Of a field: an unsigned number, a double, a float, and texts, messages and whatever has a length.
Value: TypeAlias = int | float | np.float32 | bytes


def varint(content: bytes, at: int) -> tuple[int, int]:
    """(number, where it ends) of an unsigned one of at most 64 bits.

    Raises:
      InputError: there is none.
    """
    value = 0
    for i, byte in enumerate(content[at : at + 10]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80 and value < 1 << 64:
            return value, at + i + 1
    raise InputError(f"there is no number at byte {at} of {len(content)}")


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a protocol buffer's fields, in order; numbers are unsigned.

    Raises:
      InputError: it is no protocol buffer.
    """
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = varint(message, at)
            yield number, value
        elif kind in (1, 2, 5):
            size, at = varint(message, at) if kind == 2 else (8 if kind == 1 else 4, at)
            part = message[at : at + size]
            if len(part) != size:
                raise InputError("a message is cut short")
            at += size
            yield number, part if kind == 2 else int.from_bytes(part, "little")
        else:
            raise InputError(f"a message has a field of type {kind}")


def message(*fields: tuple[int, Value]) -> bytes:
    """A protocol buffer of these fields, (number, value) each.

    Example:
      >>> message((1, 300), (2, b"hi")).hex(" ")
      '08 ac 02 12 02 68 69'
    """
    return b"".join(_field(number, value) for number, value in fields)


def _field(number: int, value: Value) -> bytes:
    if isinstance(value, bytes):
        return _as_varint(number << 3 | 2) + _as_varint(len(value)) + value
    if isinstance(value, int):
        return _as_varint(number << 3) + _as_varint(value)
    kind, layout = (5, "<f") if isinstance(value, np.float32) else (1, "<d")
    return _as_varint(number << 3 | kind) + struct.pack(layout, value)


def _as_varint(value: int) -> bytes:
    """Of a number that is not negative."""
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def unsnappy(content: bytes, most: int) -> bytes:
    """What snappy has compressed.

    Args:
      most: how long it may be.

    Raises:
      InputError: it is not what snappy writes, or longer.
    """
    size, at = varint(content, 0)
    if size > most:
        raise InputError(f"a block of {len(content)} bytes would become {size}")
    made = bytearray()
    while at < len(content) and len(made) <= size:
        tag, at = content[at], at + 1
        if tag & 3 == 0:
            length, at = _literal(content, tag, at)
            made += content[at : at + length]
            at += length
        else:
            length, back, at = _copy(content, tag, at)
            if not 0 < back <= len(made):
                raise InputError("a compressed block copies from before its beginning")
            # What is copied may include what the copy itself has written: a pattern that repeats.
            pattern = bytes(made[-back : len(made) - back + length or None])
            made += (pattern * (length // len(pattern) + 1))[:length]
    if len(made) != size or at != len(content):
        raise InputError(f"a compressed block is {len(made)} bytes, wanted {size}")
    return bytes(made)


def _literal(content: bytes, tag: int, at: int) -> tuple[int, int]:
    """(length, where it starts): up to 60 in the tag, else in one to four bytes after it."""
    extra = max(0, (tag >> 2) - 59)
    if not extra:
        return (tag >> 2) + 1, at
    return int.from_bytes(content[at : at + extra], "little") + 1, at + extra


def _copy(content: bytes, tag: int, at: int) -> tuple[int, int, int]:
    """(length, how far back, where the tag ends)."""
    kind = tag & 3
    extra = {1: 1, 2: 2, 3: 4}[kind]
    if at + extra > len(content):
        raise InputError("a compressed block is cut short")
    offset = int.from_bytes(content[at : at + extra], "little")
    if kind == 1:
        return (tag >> 2 & 7) + 4, (tag >> 5) << 8 | offset, at + extra
    return (tag >> 2) + 1, offset, at + extra


def little(content: bytes, at: int) -> int:
    """The unsigned 32-bit number there."""
    if at < 0 or at + 4 > len(content):
        raise InputError(f"there is no number at byte {at} of {len(content)}")
    return struct.unpack_from("<I", content, at)[0]
