"""safetensors: a JSON header and raw bytes, read by the library of that name.

What the Flax classes of transformers until 4.57 wrote with `safe_serialization=True` says so in its
metadata, and has Flax's names and layout.

Reference: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxbert.errors import InputError
from jaxbert.weights.readers.stored import StoredTensor, Tensors, in_torch_layout


def open_file(path: Path) -> Tensors:
    """{name: tensor} of one file, in PyTorch's names and layout.

    Reads the header only; a tensor's bytes are read by `StoredTensor.read`.

    Raises:
      InputError: it is truncated or corrupt.
    """
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        is_flax = (file.metadata() or {}).get("format") == "flax"
        found = {
            name: StoredTensor(
                name,
                tuple(part.get_shape()),
                part.get_dtype(),
                functools.partial(_read, path, name),
            )
            for name, part in slices.items()
        }
    return in_torch_layout(found.values(), separator=".") if is_flax else found


def _read(path: Path, name: str) -> np.ndarray:
    """A tensor, by a mapping of its own: what one has touched of a file stays in memory with it."""
    with _opened(path) as file:
        array: np.ndarray = file.get_tensor(name)
    return array


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        raise InputError(
            f"{path} is no complete safetensors file ({error}): fetch or write it again"
        ) from None
