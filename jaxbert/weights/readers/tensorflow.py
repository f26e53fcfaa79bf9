"""TensorFlow's checkpoints, `*.ckpt.index` and `*.ckpt.data-00000-of-00001`: Google's own files.

The index is a sorted table whose values are protocol buffers: under the empty key how many data
files there are, under each tensor's name its type, shape, place and checksum. Names become
dotted and kernels [out, in]; what else a family called differently then is for its `spellings`.

Reference: tensorflow/core/protobuf/tensor_bundle.proto, core/util/tensor_bundle/tensor_bundle.cc,
core/framework/types.proto and tensor_shape.proto (2.21).
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from jaxbert.errors import InputError
from jaxbert.weights.readers.crc32c import crc32c, masked
from jaxbert.weights.readers.sstable import read_table
from jaxbert.weights.readers.stored import (
    MAX_AXES,
    StoredTensor,
    Tensors,
    array_of,
    byte_count,
    in_torch_layout,
    read_part,
)
from jaxbert.weights.readers.wire import fields

_MAX_INDEX = 8 << 20
_MAX_MESSAGE = 1000  # what says where a tensor is; of one with four axes it is 40 bytes
_DTYPES = {
    1: "F32", 2: "F64", 3: "I32", 4: "U8", 5: "I16", 6: "I8", 9: "I64", 10: "BOOL", 14: "BF16",
    17: "U16", 19: "F16", 22: "U32", 23: "U64",
}  # fmt: skip
_LITTLE = 0
# What optimizers keep beside the weights: Google's own for BERT, and Adam.
_NO_WEIGHTS = frozenset({"global_step", "adam_m", "adam_v", "Adam", "Adam_1"})
# How TensorFlow 2 stores attributes of objects in place of variables by name.
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Where a tensor is. crc: as stored, masked."""

    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def open_file(index: Path) -> Tensors:
    """{name: tensor} of an index and the data files beside it, without the optimizer's.

    Reads the index only; a tensor's bytes are read by `StoredTensor.read`, which compares them with
    their checksum.

    Raises:
      InputError: a file is missing, truncated or damaged, or holds something else than variables.
    """
    if index.stat().st_size > _MAX_INDEX:
        raise InputError(f"{index} is of {index.stat().st_size} bytes: it is no index of a model")
    try:
        table = dict(read_table(index.read_bytes()))
        shards = _shards(table.pop(b"", None))
        names = {name: _text(name) for name in table}
        if _OBJECTS in names.values():
            raise InputError("it holds the objects of TensorFlow 2, wanted variables by name")
        entries = {
            names[name]: _entry(names[name], value)
            for name, value in table.items()
            if not _NO_WEIGHTS & set(names[name].split("/"))
        }
        return in_torch_layout(
            _stored(index, shards, name, entry) for name, entry in entries.items()
        )
    except InputError as error:
        raise InputError(f"{index} is no TensorFlow checkpoint: {error}; fetch it again") from None


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("a name is not UTF-8") from None


def _shards(header: bytes | None) -> int:
    """How many data files there are."""
    if header is None:
        raise InputError("it has no header")
    found = _numbers(header)
    if found.get(2, _LITTLE) != _LITTLE:
        raise InputError("its numbers are in big-endian order, wanted little-endian")
    return found.get(1, 0)


def _numbers(message: bytes) -> dict[int, int]:
    return {number: value for number, value in fields(message) if isinstance(value, int)}


def _entry(name: str, message: bytes) -> _Entry:
    if len(message) > _MAX_MESSAGE:
        raise InputError(f"{name!r} is told in {len(message)} bytes")
    numbers = _numbers(message)
    if any(number == 7 for number, _ in fields(message)):
        raise InputError(f"{name!r} is cut into slices: save it with one part for each variable")
    dtype = _DTYPES.get(numbers.get(1, 0))
    if dtype is None:
        raise InputError(f"{name!r} is of TensorFlow's type {numbers.get(1, 0)}, wanted numbers")
    shape = _shape([part for number, part in fields(message) if number == 2])
    entry = _Entry(dtype, shape, *(numbers.get(number, 0) for number in (3, 4, 5, 6)))
    if entry.size != byte_count(shape, dtype):
        raise InputError(f"{name!r} is {list(shape)} {dtype} in {entry.size} bytes")
    return entry


def _shape(messages: list[int | bytes]) -> tuple[int, ...]:
    sizes = []
    for message in messages:
        parts = fields(message) if isinstance(message, bytes) else ()
        sizes += [
            _numbers(part).get(1, 0) for n, part in parts if n == 2 and isinstance(part, bytes)
        ]
    if len(sizes) > MAX_AXES or max(sizes, default=0) >= 1 << 63:  # -1, for an unknown one
        raise InputError("a shape has too many axes, or an unknown one")
    return tuple(sizes)


def _stored(index: Path, shards: int, name: str, entry: _Entry) -> StoredTensor:
    path = index.with_name(f"{index.stem}.data-{entry.shard:05}-of-{shards:05}")
    if not path.is_file():
        raise InputError(f"{name!r} is in {path.name}, which is not beside it")
    if entry.offset + entry.size > path.stat().st_size:
        raise InputError(f"{name!r} is after the end of {path.name}")
    return StoredTensor(name, entry.shape, entry.dtype, functools.partial(_load, path, name, entry))


def _load(path: Path, name: str, entry: _Entry) -> np.ndarray:
    content = read_part(path, entry.offset, entry.size)
    if masked(crc32c(content)) != entry.crc:
        raise InputError(f"{path}: {name!r} does not match its checksum: fetch it again")
    return array_of(content, entry.dtype, entry.shape)
