"""What every reader gives: tensors that still lie in their files, by name; and shards of them.

A file is somebody else's. Whatever it says of sizes is compared with its own size before anything
of that size is made, and there is a limit to what is made for what it says of anything else.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxbert.errors import InputError
from jaxbert.weights.json_files import read_json

# A BERT-large with the slots of its optimizer has 1,200 tensors, the longest name 70 letters.
MAX_TENSORS = 20_000
MAX_NAME = 500
MAX_AXES = 32

# One vocabulary for all formats, that of safetensors.
DTYPES: dict[str, np.dtype] = {
    word: np.dtype(scalar)
    for word, scalar in dict(
        F64=np.float64,
        F32=np.float32,
        F16=np.float16,
        BF16=ml_dtypes.bfloat16,
        I64=np.int64,
        I32=np.int32,
        I16=np.int16,
        I8=np.int8,
        U64=np.uint64,
        U32=np.uint32,
        U16=np.uint16,
        U8=np.uint8,
        BOOL=np.bool_,
    ).items()
}
# What JAX calls its leaves: the last part of their name in PyTorch, and whether a matrix of theirs
# is [in, out] where PyTorch's is [out, in]. TensorFlow shares the first.
_LEAVES = {"kernel": ("weight", True), "embedding": ("weight", False), "scale": ("weight", False)}

Tensors = dict[str, "StoredTensor"]


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in its file.

    Args:
      name: in the file.
      shape: its axes' sizes.
      dtype: one of `DTYPES`, or a word of safetensors for what nothing here computes with: F8_E4M3.
      load: reads it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray] = dataclasses.field(repr=False)

    @property
    def is_float(self) -> bool:
        """Whether it holds plain floating-point numbers, at least 16 bits wide."""
        return self.dtype in ("F64", "F32", "F16", "BF16")

    def read(self) -> np.ndarray:
        """Its values; BF16 as `ml_dtypes.bfloat16`.

        Raises:
          InputError: its bytes are not those that were written, where the format can tell.
        """
        return self.load()

    def transposed(self) -> StoredTensor:
        """The same with its axes in reverse order."""
        return dataclasses.replace(self, shape=self.shape[::-1], load=lambda: self.load().T)


def byte_count(shape: Iterable[int], dtype: str) -> int:
    """How many bytes an array takes, however large: nothing is made."""
    return math.prod(shape) * DTYPES[dtype].itemsize


def array_of(content: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of those little-endian bytes, in row-major order."""
    return np.frombuffer(content, DTYPES[dtype].newbyteorder("<")).reshape(shape)


def read_part(path: Path, offset: int, size: int) -> bytes:
    """So many bytes of a file.

    Raises:
      InputError: it ends before.
    """
    if not 0 <= offset <= offset + size <= path.stat().st_size:
        raise InputError(f"{path} is cut short at byte {offset}: fetch it again")
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def in_torch_layout(tensors: Iterable[StoredTensor], separator: str = "/") -> Tensors:
    """{name as PyTorch has it: tensor as PyTorch has it} of joined names as JAX has them.

    Args:
      separator: of the names.

    Raises:
      InputError: two names are one.
    """
    found: Tensors = {}
    for tensor in tensors:
        *scope, leaf = tensor.name.split(separator)
        leaf, turned = _LEAVES.get(leaf, (leaf, False))
        name = ".".join([*scope, leaf])
        if name in found:
            raise InputError(f"{found[name].name} and {tensor.name} are one tensor, {name}")
        found[name] = tensor.transposed() if turned and len(tensor.shape) == 2 else tensor
    return found


def open_shards(index: Path, open_file: Callable[[Path], Tensors]) -> Tensors:
    """The tensors of the files that an index of Hugging Face's names.

    Args:
      open_file: the reader of one of them; a tensor's `name` is what the index calls it.

    Raises:
      InputError: the index is none, or points outside its directory, or a file or tensor is
        missing.
    """
    weight_map = _read_index(index)
    shards = sorted(set(weight_map.values()))
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise InputError(
            f"{index} names files that are not beside it: {', '.join(absent)}; fetch them again"
        )
    found: Tensors = {}
    for shard in shards:
        for key, tensor in open_file(index.parent / shard).items():
            if weight_map.get(tensor.name) != shard:
                continue
            if key in found:
                raise InputError(f"{index}: {found[key].name} and {tensor.name} are one tensor")
            found[key] = tensor
    names = {tensor.name for tensor in found.values()}
    lost = [f"{name} in {shard}" for name, shard in weight_map.items() if name not in names]
    if lost:
        raise InputError(f"{index} names tensors that are not in their files: {', '.join(lost)}")
    return found


def _read_index(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(x, str) for x in weight_map.values()):
        raise InputError(f"{index} must hold an object weight_map, tensor name -> file name")
    # Only a plain name: an index must not make us open a file elsewhere.
    outside = sorted({x for x in weight_map.values() if not re.fullmatch(r"\w[\w.-]{0,199}", x)})
    if outside:
        raise InputError(f"{index} must name files beside itself, got {', '.join(outside)}")
    return weight_map
