"""Files of weights -> tensors by name, whoever wrote them; nothing is ever unpickled.

A format is a file here and a row in `READERS`. All of them give the names and the layout of
PyTorch, so that what is further up knows one way to say a tensor's name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from jaxbert.errors import InputError
from jaxbert.weights.readers import msgpack, safetensors, tensorflow, torch_zip
from jaxbert.weights.readers.stored import StoredTensor, Tensors, open_shards

__all__ = ["READERS", "Reader", "StoredTensor", "open_checkpoint"]


@dataclasses.dataclass(frozen=True)
class Reader:
    """One format.

    Args:
      pattern: of the name of the file that has all, or leads to it.
      open: from that file's path to its tensors.
      index: the name of Hugging Face's index of several such files, where the format has one.
      beside: patterns of the names of the further files that belong to it.
    """

    pattern: str
    open: Callable[[Path], Tensors] = dataclasses.field(repr=False)
    index: str | None = None
    beside: tuple[str, ...] = ()

    @property
    def patterns(self) -> tuple[str, ...]:
        """Of all its files."""
        return (self.pattern, *([self.index] if self.index else ()), *self.beside)

    def find(self, directory: Path) -> list[Path]:
        """The files to open, at most one if it is clear which; an index where there is no file."""
        single = sorted(path for path in directory.glob(self.pattern) if path.is_file())
        if single or self.index is None:
            return single
        return [path for path in (directory / self.index,) if path.is_file()]

    def tensors(self, path: Path) -> Tensors:
        """Of a file that `find` has found."""
        return open_shards(path, self.open) if path.name == self.index else self.open(path)


def _hugging_face(open_file: Callable[[Path], Tensors], stem: str, suffix: str) -> Reader:
    """A format that Hugging Face's libraries write, in one file or in several."""
    name = f"{stem}{suffix}"
    return Reader(name, open_file, f"{name}.index.json", (f"{stem}-*-of-*{suffix}",))


# Tried in this order: what is most likely written last by the one who put it there, first.
READERS: tuple[Reader, ...] = (
    _hugging_face(safetensors.open_file, "model", ".safetensors"),
    _hugging_face(torch_zip.open_file, "pytorch_model", ".bin"),
    Reader("model.pt", torch_zip.open_file),
    Reader("model.pth", torch_zip.open_file),
    _hugging_face(msgpack.open_file, "flax_model", ".msgpack"),
    Reader("*.ckpt*.index", tensorflow.open_file, beside=("*.ckpt*.data-*-of-*",)),
)
# Weights all the same, to be told from a directory that has none.
_OTHER_FORMATS = (
    "pytorch_model*.bin", "*.h5", "*.msgpack", "*.ckpt*", "*.pt", "*.pth", "*.onnx", "*.gguf",
)  # fmt: skip


def open_checkpoint(directory: Path) -> Tensors:
    """{name: tensor} of a directory's weights, by the first of `READERS` that finds its file.

    Reads what a file says of its tensors only; a tensor's values are read by `StoredTensor.read`.
    Names and layout are PyTorch's.

    Raises:
      FileNotFoundError: the directory has no such file.
      InputError: a file is truncated or corrupt, a shard is missing, the index is none or points
        outside the directory, or the weights are in a format that is not read.
    """
    for reader in READERS:
        paths = reader.find(directory)
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise InputError(f"{directory} has several models, {names}: keep one of them there")
        if paths:
            return reader.tensors(paths[0])
    others = sorted({path.name for glob in _OTHER_FORMATS for path in directory.glob(glob)})
    if others:
        raise InputError(
            f"{directory} holds its weights as {', '.join(others)}, which jaxbert does not read: "
            "convert it to model.safetensors with save_pretrained of the library that wrote it"
        )
    known = ", ".join(name for row in READERS for name in (row.pattern, row.index) if name)
    raise FileNotFoundError(f"{directory} has no weights: none of {known}")
