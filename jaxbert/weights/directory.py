"""Where a model is: a directory here, or the local copy of a hub repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jaxbert.errors import InputError
from jaxbert.weights.json_files import read_json
from jaxbert.weights.readers import READERS

CONFIG = "config.json"
# Of sentence-transformers: how it cuts its texts, what it does one after the other, what it writes
# before texts.
SENTENCES = "sentence_bert_config.json"
SENTENCE_MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
# Google's, beside a TensorFlow checkpoint. What their names begin with is the family, of which they
# say nothing themselves; else they are as Hugging Face's.
_GOOGLE_CONFIGS = ("bert_config.json",)
# What is fetched from a hub repository beside the weights; the tokenizer's files come along so that
# the directory is complete.
_HUB_FILES = (
    CONFIG,
    SENTENCES,
    SENTENCE_MODULES,
    PROMPTS,
    "[0-9]_*/config.json",
    "[0-9]_*/model.safetensors",
    *_GOOGLE_CONFIGS,
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def model_directory(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """`source` if it is a directory, else the local copy of that hub repository.

    Raises:
      OSError: there is neither.
      InputError: a revision of a directory is asked for.
    """
    path = Path(source)
    if path.is_dir():
        if revision is not None:
            raise InputError(f"{revision=} is for the hub, and {path} is a directory: leave it out")
        return path
    if path.exists():
        raise NotADirectoryError(f"{path} is a file: give the directory that holds {CONFIG}")
    try:
        return _fetch(str(source), revision)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise OSError(
            f"{str(source)!r} is no directory here, and did not come from the Hugging Face hub "
            f"({reason}): give the path of a model directory, or check the id and the connection"
        ) from error


def _fetch(repository: str, revision: str | None) -> Path:
    """The local copy, with the weights of one format: the first of `READERS` that is there.

    A repository often has the same weights in several. What is here already is not fetched again.
    """
    from huggingface_hub import snapshot_download

    for reader in READERS:
        files = [*_HUB_FILES, *reader.patterns]
        found = Path(snapshot_download(repository, revision=revision, allow_patterns=files))
        if reader.find(found):
            break
    return found


def read_config(directory: Path) -> dict[str, Any]:
    """The contents of a directory's config.json, or of Google's file in its place.

    Raises:
      FileNotFoundError: it has neither.
      InputError: the file holds no JSON object.
    """
    if (directory / CONFIG).is_file():
        return read_json(directory / CONFIG)
    for name in _GOOGLE_CONFIGS:
        if (directory / name).is_file():
            return {"model_type": name.removesuffix("_config.json")} | read_json(directory / name)
    raise FileNotFoundError(
        f"{directory} is no model: it has no {CONFIG}; give a directory that save_pretrained wrote"
    )
