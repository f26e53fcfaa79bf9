"""The files of torch.save since PyTorch 1.6: a zip of one pickle and the raw numbers.

The pickle is read as data (`torch_pickle`), so that nothing of it runs. What is read is what
`torch.save(model.state_dict(), path)` writes: a dictionary of tensors.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from jaxbert.errors import InputError
from jaxbert.weights.readers.stored import DTYPES, StoredTensor, Tensors, array_of, byte_count
from jaxbert.weights.readers.torch_pickle import View, describe, interpret
from jaxbert.weights.readers.zip_archive import ZipArchive

_PICKLE = "data.pkl"
_MAX_PICKLE = 8 << 20
# The pickled number that began every file until PyTorch 1.6, 0x1950a86a20f9469cfc6c.
_OLD_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
_FIX = "get it as model.safetensors from somebody whom you trust to open it"


def open_file(path: Path) -> Tensors:
    """{name: tensor} of one file.

    Reads the pickle only; a tensor's numbers are read by `StoredTensor.read`, which compares them
    with their checksum.

    Raises:
      InputError: it is truncated or damaged, of the format before PyTorch 1.6, or is or asks for
        something else than a dictionary of tensors.
    """
    with path.open("rb") as file:
        start = file.read(len(_OLD_MAGIC))
    if start == _OLD_MAGIC:
        raise InputError(
            f"{path} is in PyTorch's format before 1.6, which jaxbert does not read: save it again "
            "in PyTorch, torch.save(torch.load(path, weights_only=True), path)"
        )
    archive = ZipArchive(path)
    root = _root(archive)
    content = archive.read(root + _PICKLE)
    try:
        views = _state_dict(interpret(content))
    except InputError as error:
        raise InputError(f"{path} is no plain state_dict: {error}; {_FIX}") from None
    for name, view in views.items():
        _check_storage(archive, root, name, view)
    return {
        name: StoredTensor(
            name,
            view.shape,
            view.storage.dtype,
            functools.partial(_load, archive, _entry(root, view), view),
        )
        for name, view in views.items()
    }


def _root(archive: ZipArchive) -> str:
    """The one folder that torch.save puts all into, with a slash."""
    roots = [name.removesuffix(_PICKLE) for name in archive.entries if name.endswith(f"/{_PICKLE}")]
    if len(roots) != 1:
        raise InputError(
            f"{archive.path} must have one {_PICKLE} in a folder, got {len(roots)}: torch.save did "
            "not write it"
        )
    (root,) = roots
    size = archive.entries[root + _PICKLE].size
    if size > _MAX_PICKLE:
        raise InputError(f"{archive.path} has a pickle of {size} bytes: it is no plain state_dict")
    order = f"{root}byteorder"
    written = archive.read(order) if order in archive.entries else b"little"
    if written != b"little":
        raise InputError(
            f"{archive.path} has its numbers in byte order {written[:20]!r}, wanted b'little': "
            "save it again on an ordinary machine"
        )
    return root


def _state_dict(value: Any) -> dict[str, View]:
    if type(value) is not dict:
        raise InputError(f"it is {describe(value)}")
    others = [key for key, held in value.items() if type(key) is not str or type(held) is not View]
    if others:
        shown = ", ".join(f"{str(key)[:40]!r} ({describe(value[key])})" for key in others[:8])
        raise InputError(
            f"{len(others)} of its {len(value)} keys hold something other than a tensor, {shown}; "
            "if one of them is the model, save that alone"
        )
    return value


def _entry(root: str, view: View) -> str:
    return f"{root}data/{view.storage.key}"


def _check_storage(archive: ZipArchive, root: str, name: str, view: View) -> None:
    entry = archive.entries.get(_entry(root, view))
    wanted = byte_count((view.storage.numel,), view.storage.dtype)
    if entry is None or entry.size != wanted:
        got = "none" if entry is None else f"{entry.size} bytes"
        raise InputError(
            f"{archive.path}: {name!r} needs storage {view.storage.key} of {wanted} bytes, got "
            f"{got}: fetch it again"
        )


def _load(archive: ZipArchive, entry: str, view: View) -> np.ndarray:
    storage = array_of(archive.read(entry), view.storage.dtype, (view.storage.numel,))
    width = DTYPES[view.storage.dtype].itemsize
    strides = [stride * width for stride in view.strides]
    # `torch_pickle` has seen to it that all of it lies within the storage.
    seen = as_strided(storage[view.offset :], view.shape, strides, writeable=False)
    return np.ascontiguousarray(seen).reshape(view.shape)
