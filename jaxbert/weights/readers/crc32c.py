"""CRC-32C of large arrays in NumPy: many stretches of the bytes at a time, then put together.

The remainder of a text is linear in its bits: that of two texts, one after the other, is the first
one's moved on over as many zeros as the second is long, plus the second one's. So the bytes are cut
into stretches of equal length, and one step goes on by four bytes in all of them. What is too short
for that is taken byte by byte.

Reference: RFC 3720, appendix B.4, for the polynomial and its check values; LevelDB's util/crc32c.h
for the mask.
"""

from __future__ import annotations

import functools

import numpy as np

_POLYNOMIAL = np.uint32(0x82F63B78)
_ONES = np.uint32(0xFFFFFFFF)
# Stretches at a time; the rest that one number leaves is for the next.
_STRETCHES = (4096, 64)


def crc32c(content: bytes | memoryview) -> int:
    """The CRC-32C of these bytes.

    Example:
      >>> hex(crc32c(b"123456789"))
      '0xe3069283'
    """
    array = np.frombuffer(content, np.uint8)
    register = _ONES
    for stretches in _STRETCHES:
        count = array.size // (4 * stretches) * (4 * stretches)
        if count:
            register = _advance(register, array[:count], stretches)
            array = array[count:]
    rest, table = int(register), _byte_list()
    for byte in array.tobytes():
        rest = table[(rest ^ byte) & 0xFF] ^ (rest >> 8)
    return rest ^ int(_ONES)


def masked(crc: int) -> int:
    """As LevelDB stores it: a checksum of bytes that hold checksums is a poor one.

    Example:
      >>> hex(masked(0xE3069283))
      '0xc78ab0e5'
    """
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _advance(register: np.uint32, content: np.ndarray, stretches: int) -> np.uint32:
    """The register after these bytes, a multiple of four to each stretch."""
    words = content.view("<u4").reshape(stretches, -1)
    low, high = _word_tables()
    registers = np.zeros(stretches, np.uint32)
    registers[0] = register
    for step in range(words.shape[1]):
        registers ^= words[:, step]
        registers = low[registers & np.uint32(0xFFFF)] ^ high[registers >> np.uint32(16)]
    move = _zeros(4 * words.shape[1])
    while registers.size > 1:
        registers = _apply(move, registers[0::2]) ^ registers[1::2]
        move = _apply(move, move)
    return registers[0]


@functools.cache
def _byte_table() -> np.ndarray:
    """[256]: what a byte becomes in a register after one byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & np.uint32(1), _POLYNOMIAL, np.uint32(0)) ^ (table >> np.uint32(1))
    return table


@functools.cache
def _byte_list() -> list[int]:
    """The same for Python's own numbers, which are faster one at a time."""
    return _byte_table().tolist()


@functools.cache
def _word_tables() -> tuple[np.ndarray, np.ndarray]:
    """[65536] each: what the lower and the upper half of a register become after four bytes."""
    tables = [_byte_table()]
    for _ in range(3):
        last = tables[-1]
        tables.append(tables[0][last & np.uint32(0xFF)] ^ (last >> np.uint32(8)))
    half = np.arange(1 << 16)
    low, high = half & 0xFF, half >> 8
    return tables[3][low] ^ tables[2][high], tables[1][low] ^ tables[0][high]


def _zeros(count: int) -> np.ndarray:
    """[32]: what each bit of a register becomes over so many zero bytes."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    result = bits
    power = _byte_table()[bits & np.uint32(0xFF)] ^ (bits >> np.uint32(8))
    while count:
        if count & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        count >>= 1
    return result


def _apply(matrix: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """The linear map that takes bit i to matrix[i], of each register."""
    result = np.zeros_like(registers)
    for bit in range(32):
        chosen = registers >> np.uint32(bit) & np.uint32(1)
        result ^= chosen * matrix[bit]
    return result
