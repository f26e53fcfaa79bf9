"""safetensors: a JSON header and raw bytes, read by the library of that name.

What the Flax classes of transformers until 4.57 wrote with `safe_serialization=True` says so in its
metadata, and has Flax's names and layout.

Reference: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import functools
from pathlib import Path

from safetensors import SafetensorError, safe_open

from jaxbert.errors import InputError
from jaxbert.weights.readers.stored import StoredTensor, Tensors, in_torch_layout


def open_file(path: Path) -> Tensors:
    """{name: tensor} of one file, in PyTorch's names and layout.

    Reads the header only; a tensor's bytes are mapped into memory and read by `StoredTensor.read`.

    Raises:
      InputError: it is truncated or corrupt.
    """
    try:
        file = safe_open(path, framework="np")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        is_flax = (file.metadata() or {}).get("format") == "flax"
    except SafetensorError as error:
        raise InputError(
            f"{path} is no complete safetensors file ({error}): fetch or write it again"
        ) from None
    found = {
        name: StoredTensor(
            name,
            tuple(part.get_shape()),
            part.get_dtype(),
            functools.partial(file.get_tensor, name),
        )
        for name, part in slices.items()
    }
    return in_torch_layout(found.values(), separator=".") if is_flax else found
