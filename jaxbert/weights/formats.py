"""Hugging Face's safetensors files <-> numpy arrays by name; nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxbert.atomic import replacing, write_text
from jaxbert.errors import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 1000**3

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_OTHER_FORMATS = ("pytorch_model*.bin", "*.h5", "*.msgpack", "*.ckpt.index", "*.pt", "*.pth")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in its file.

    Args:
      name: in the file.
      shape: its axes' sizes.
      dtype: in the format's words: F64, F32, F16, BF16, I64, U8, BOOL, F8_E4M3 ...
      file: the open file, mapped into memory.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Any = dataclasses.field(repr=False)

    @property
    def is_float(self) -> bool:
        """Whether it holds plain floating-point numbers, at least 16 bits wide."""
        return self.dtype in ("F64", "F32", "F16", "BF16")

    def read(self) -> np.ndarray:
        """Its values; BF16 as `ml_dtypes.bfloat16`."""
        return self.file.get_tensor(self.name)


def open_checkpoint(directory: Path) -> dict[str, StoredTensor]:
    """{name: tensor} of a directory's model.safetensors, or of the shards its index names.

    Reads the headers only; a tensor's bytes are read by `StoredTensor.read`.

    Raises:
      FileNotFoundError: the directory has no such file.
      InputError: a file is truncated or corrupt, a shard is missing, the index is none or points
        outside the directory, or the weights are in a format that is not read.
    """
    if (directory / SINGLE).is_file():
        return _open_file(directory / SINGLE)
    if (directory / INDEX).is_file():
        return _open_shards(directory / INDEX)
    others = sorted({path.name for glob in _OTHER_FORMATS for path in directory.glob(glob)})
    if others:
        raise InputError(
            f"{directory} holds its weights as {', '.join(others)}, which jaxbert does not read "
            f"(a pickle can run any code): convert it to {SINGLE} with save_pretrained of the "
            "library that wrote it"
        )
    raise FileNotFoundError(f"{directory} has neither {SINGLE} nor {INDEX}")


def _open_file(path: Path) -> dict[str, StoredTensor]:
    try:
        file = safe_open(path, framework="np")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise InputError(
            f"{path} is no complete safetensors file ({error}): fetch or write it again"
        ) from None
    return {
        name: StoredTensor(name, tuple(part.get_shape()), part.get_dtype(), file)
        for name, part in slices.items()
    }


def _open_shards(index: Path) -> dict[str, StoredTensor]:
    weight_map = _read_index(index)
    shards = sorted(set(weight_map.values()))
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise InputError(
            f"{index} names files that are not beside it: {', '.join(absent)}; fetch them again"
        )
    opened = {shard: _open_file(index.parent / shard) for shard in shards}
    lost = [f"{name} in {shard}" for name, shard in weight_map.items() if name not in opened[shard]]
    if lost:
        raise InputError(f"{index} names tensors that are not in their files: {', '.join(lost)}")
    return {name: opened[shard][name] for name, shard in weight_map.items()}


def _read_index(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(x, str) for x in weight_map.values()):
        raise InputError(f"{index} must hold an object weight_map, tensor name -> file name")
    # Only a plain name: an index must not make us open a file elsewhere.
    outside = sorted({x for x in weight_map.values() if not re.fullmatch(r"\w[\w.-]*", x)})
    if outside:
        raise InputError(f"{index} must name files beside itself, got {', '.join(outside)}")
    return weight_map


def read_json(path: Path, fix: str = "mend it, or fetch the model again") -> dict[str, Any]:
    """The JSON object in a file.

    Args:
      fix: what to do where there is none, for the message.

    Raises:
      InputError: it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}; {fix}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(content).__name__}; {fix}")
    return content


def write_checkpoint(
    directory: Path, tensors: Mapping[str, np.ndarray], max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes model.safetensors, or shards with an index when it would be over `max_shard_bytes`.

    Each file appears complete or not at all; then model files of an earlier save that are not of
    this one are removed, as Hugging Face does. The format is that of `transformers`.
    """
    shards = _split(tensors, max_shard_bytes)
    if len(shards) == 1:
        files = [SINGLE]
    else:
        files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for file, names in zip(files, shards, strict=True):
        # The format stores bytes as they lie, so a transposed view must become an array first.
        arrays = {name: np.asarray(tensors[name], order="C") for name in names}
        _save(directory / file, arrays)
    if len(shards) > 1:
        weight_map = {n: file for file, names in zip(files, shards, strict=True) for n in names}
        total = sum(array.nbytes for array in tensors.values())
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        files.append(INDEX)
    for path in directory.iterdir():
        is_model = path.name in (SINGLE, INDEX) or _SHARD.fullmatch(path.name)
        if is_model and path.name not in files:
            path.unlink()


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    try:
        with replacing(path) as temporary:
            save_file(arrays, temporary, metadata={"format": "pt"})
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(f"{path} cannot be written: {error}") from error


def _split(tensors: Mapping[str, np.ndarray], max_shard_bytes: int) -> list[list[str]]:
    """The names, in order, in parts of at most that size; a larger tensor is a part by itself."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, array in tensors.items():
        if shards[-1] and size + array.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += array.nbytes
    return shards


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, as `transformers` lays it out; the file is complete or absent."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
