"""numpy arrays by name -> the safetensors files of a Hugging Face directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxbert.atomic import replacing
from jaxbert.weights.json_files import write_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 1000**3

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


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
