"""LevelDB's sorted table: keys and values in blocks with checksums, and an index of the blocks.

Reference: LevelDB's doc/table_format.md; tensorflow/core/lib/io/format.cc and block.cc.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxbert.errors import InputError
from jaxbert.weights.readers.crc32c import crc32c, masked
from jaxbert.weights.readers.stored import MAX_NAME, MAX_TENSORS
from jaxbert.weights.readers.wire import little, unsnappy, varint

_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER = 48
_TRAILER = 5  # how it is compressed, and a checksum
_NONE, _SNAPPY = 0, 1
_MAX_BLOCK = 4 << 20


def read_table(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) in the order of the keys.

    Args:
      table: the whole file.

    Raises:
      InputError: it is no table, is truncated, or does not match a checksum.
    """
    footer = table[-_FOOTER:]
    if len(footer) < _FOOTER or not footer.endswith(_MAGIC):
        raise InputError("it does not end as a table")
    _, _, at = _handle(footer, 0)  # of what is about the table
    offset, size, _ = _handle(footer, at)
    count = end = 0
    for _, handle in _entries(_block(table, offset, size)):
        offset, size, _ = _handle(handle, 0)
        # One large block, again and again, would take for ever.
        if offset < end:
            raise InputError(f"its block at byte {offset} begins before the last one ends")
        end = offset + size + _TRAILER
        for entry in _entries(_block(table, offset, size)):
            count += 1
            if count > MAX_TENSORS:
                raise InputError(f"it has more than {MAX_TENSORS} entries")
            yield entry


def _handle(content: bytes, at: int) -> tuple[int, int, int]:
    """(offset of a block, its size, where the handle ends)."""
    offset, at = varint(content, at)
    size, at = varint(content, at)
    return offset, size, at


def _block(table: bytes, offset: int, size: int) -> bytes:
    """A block's content."""
    end = offset + size
    if end + _TRAILER > len(table) - _FOOTER:
        raise InputError(f"its block at byte {offset} of {size} bytes is not within it")
    if masked(crc32c(table[offset : end + 1])) != little(table, end + 1):
        raise InputError(f"its block at byte {offset} does not match its checksum")
    content, kind = table[offset:end], table[end]
    if kind == _SNAPPY:
        return unsnappy(content, _MAX_BLOCK)
    if kind != _NONE:
        raise InputError(f"its block at byte {offset} is compressed in way {kind}")
    return content


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, value): of a key only what differs from the last one is there."""
    restarts = little(block, len(block) - 4)
    end = len(block) - 4 * (restarts + 1)
    at, key = 0, b""
    while at < end:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or shared + own > MAX_NAME:
            raise InputError(f"an entry at byte {at} of a block has a key that is none")
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + size]
        at += size
    if at != end:
        raise InputError("a block ends in the middle of an entry")
