"""flax_model.msgpack: the Flax classes of transformers until 4.57, saved by flax.serialization.

A tree of maps whose leaves are arrays, each an extension of type 1 that holds, in msgpack again,
(shape, name of the dtype, bytes); one of type 3 is the same for a scalar. An array over 1 GiB is a
map of chunks. This walks over the sizes and leaves the bytes where they are: the library of that
name would hold all of it twice.

Reference: https://github.com/msgpack/msgpack/blob/master/spec.md, flax/serialization.py (0.12),
modeling_flax_utils.py and modeling_flax_bert.py of transformers (4.57).
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxbert.errors import InputError
from jaxbert.weights.readers.stored import (
    DTYPES,
    MAX_AXES,
    MAX_NAME,
    MAX_TENSORS,
    StoredTensor,
    Tensors,
    array_of,
    byte_count,
    in_torch_layout,
    read_part,
)

_MAX_DEPTH = 16
_ARRAY, _SCALAR = 1, 3
_CHUNKED = "__msgpack_chunked_array__"
_WORDS = {dtype.name: word for word, dtype in DTYPES.items()}
# First byte -> (what it begins, layout of its length or value); the others hold theirs themselves.
_HEADS = {
    0xC4: ("bytes", ">B"), 0xC5: ("bytes", ">H"), 0xC6: ("bytes", ">I"),
    0xC7: ("extension", ">B"), 0xC8: ("extension", ">H"), 0xC9: ("extension", ">I"),
    0xCC: ("integer", ">B"), 0xCD: ("integer", ">H"), 0xCE: ("integer", ">I"),
    0xCF: ("integer", ">Q"), 0xD0: ("integer", ">b"), 0xD1: ("integer", ">h"),
    0xD2: ("integer", ">i"), 0xD3: ("integer", ">q"),
    0xD9: ("string", ">B"), 0xDA: ("string", ">H"), 0xDB: ("string", ">I"),
    0xDC: ("array", ">H"), 0xDD: ("array", ">I"), 0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}  # fmt: skip
_FIXED = {0xC0: ("nil", 0), 0xC2: ("boolean", 0), 0xC3: ("boolean", 1)} | {
    0xD4 + i: ("extension", 1 << i) for i in range(5)
}


@dataclasses.dataclass(frozen=True)
class _Array:
    """Where an array's bytes are. size: in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def open_file(path: Path) -> Tensors:
    """{name: tensor} of one file, in PyTorch's names and layout.

    Reads names and sizes only; a tensor's bytes are read by `StoredTensor.read`.

    Raises:
      InputError: it is truncated, or is something else than a tree of arrays.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            walk = _Walk(file, size)
            tree = walk.node(0)
            if walk.at != size:
                raise InputError(f"it goes on after its end, at byte {walk.at}")
        if not isinstance(tree, dict):
            raise InputError("it is no map of names")
        return in_torch_layout(_flatten(path, tree, ()))
    except InputError as error:
        raise InputError(f"{path} is no Flax model: {error}; fetch it again") from None


class _Walk:
    """A msgpack file from beginning to end, passing over the arrays' bytes."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._nodes = 0
        self.at = 0

    def node(self, depth: int) -> Any:
        """A map of nodes, an `_Array`, or a number."""
        self._nodes += 1
        if depth > _MAX_DEPTH or self._nodes > 2 * MAX_TENSORS:
            raise InputError(f"it has too many or too deep maps for a model, at byte {self.at}")
        kind, value = self._head()
        if kind == "map":
            return self._map(value, depth)
        if kind == "extension":
            return self._extension(value)
        if kind in ("integer", "boolean"):
            return value
        raise InputError(f"it has a msgpack {kind} where an array should be, at byte {self.at}")

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self._string()
            if key in found:
                raise InputError(f"it has {key!r} twice")
            found[key] = self.node(depth + 1)
        return found

    def _extension(self, size: int) -> _Array:
        code = self._number(">b")
        if code not in (_ARRAY, _SCALAR):
            raise InputError(f"it has a msgpack extension of type {code}, wanted 1, an array")
        end = self.at + size
        if self._expect("array") != 3:
            raise InputError(f"an array at byte {self.at} is not (shape, dtype, bytes)")
        axes = self._expect("array")
        if axes > MAX_AXES:
            raise InputError(f"an array at byte {self.at} has {axes} axes")
        shape = tuple(self._expect("integer") for _ in range(axes))
        name = self._string()
        if name not in _WORDS:
            raise InputError(f"an array at byte {self.at} is of dtype {name!r}")
        count = self._expect("bytes")
        array = _Array(_WORDS[name], shape, self.at, count)
        if min(shape, default=0) < 0 or count != byte_count(shape, array.dtype):
            raise InputError(f"an array at byte {self.at} is {list(shape)} {name} in {count} bytes")
        self._skip(count)
        if self.at != end:
            raise InputError(f"an array at byte {array.offset} is not as long as its extension")
        return array

    def _string(self) -> str:
        kind, length = self._head()
        # flax writes the dtype's name as a string, and reads bytes too.
        if kind not in ("string", "bytes") or length > MAX_NAME:
            raise InputError(f"it has a msgpack {kind} where a name should be, at byte {self.at}")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"a name before byte {self.at} is not UTF-8") from None

    def _expect(self, wanted: str) -> int:
        kind, value = self._head()
        if kind != wanted:
            raise InputError(f"it has a msgpack {kind}, wanted {wanted}, at byte {self.at}")
        return value

    def _head(self) -> tuple[str, int]:
        """(what begins here, its length or value)."""
        code = self._number(">B")
        if code in _HEADS:
            kind, layout = _HEADS[code]
            return kind, self._number(layout)
        for first, last, kind in (
            (0x00, 0x7F, "integer"), (0x80, 0x8F, "map"), (0x90, 0x9F, "array"),
            (0xA0, 0xBF, "string"),
        ):  # fmt: skip
            if first <= code <= last:
                return kind, code - first
        return _FIXED.get(code, ("number", 0))

    def _number(self, layout: str) -> int:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _take(self, count: int) -> bytes:
        self._check(count)
        self.at += count
        return self._file.read(count)

    def _skip(self, count: int) -> None:
        self._check(count)
        self.at += count
        self._file.seek(self.at)

    def _check(self, count: int) -> None:
        if count > self._size - self.at:
            raise InputError(f"it is cut short at byte {self.at}")


def _flatten(path: Path, tree: dict[str, Any], scope: tuple[str, ...]) -> Iterator[StoredTensor]:
    for key, node in tree.items():
        name = "/".join((*scope, key))
        if isinstance(node, _Array):
            yield _stored(path, name, node.shape, [node])
        elif not isinstance(node, dict):
            raise InputError(f"{name!r} is the number {node}, wanted an array")
        elif _CHUNKED in node:
            yield _stored(path, name, *_chunks(name, node))
        else:
            yield from _flatten(path, node, (*scope, key))


def _chunks(name: str, node: dict[str, Any]) -> tuple[tuple[int, ...], list[_Array]]:
    """(shape, parts) of an array that was cut up."""
    shape, parts = _in_order(node.get("shape")), _in_order(node.get("chunks"))
    sound = (
        parts
        and len(shape) <= MAX_AXES
        and all(type(size) is int and size >= 0 for size in shape)
        and all(isinstance(part, _Array) and part.dtype == parts[0].dtype for part in parts)
        and sum(part.size for part in parts) == byte_count(shape, parts[0].dtype)
    )
    if not sound:
        raise InputError(f"the chunks of {name!r} do not make up an array")
    return shape, list(parts)


def _in_order(node: Any) -> tuple[Any, ...]:
    """The values of {"0": ..., "1": ...}."""
    if not isinstance(node, dict):
        return ()
    return tuple(node.get(str(i)) for i in range(len(node)))


def _stored(path: Path, name: str, shape: tuple[int, ...], parts: list[_Array]) -> StoredTensor:
    dtype = parts[0].dtype
    return StoredTensor(name, shape, dtype, functools.partial(_load, path, shape, parts))


def _load(path: Path, shape: tuple[int, ...], parts: list[_Array]) -> np.ndarray:
    content = b"".join([read_part(path, part.offset, part.size) for part in parts])
    return array_of(content, parts[0].dtype, shape)
