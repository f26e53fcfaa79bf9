"""Tokenizers: their files, and the texts of examples through them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbert.data.features import Form, Tokenized, encode
from jaxbert.data.sources import Examples
from jaxbert.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
_LARGEST_ID = 10_000_000  # ten times the largest vocabulary


def load_tokenizer(source: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a model directory or hub id; runs no code that comes with it.

    Padding and truncation stored in its files are switched off: what is cut is decided by the
    caller. A directory with `vocab.txt` alone gets a WordPiece tokenizer, which folds case unless
    the vocabulary has capital letters (the file does not say, and Hugging Face always folds).

    Raises:
      FileNotFoundError: no such directory, or one without tokenizer files; InputError: files that
        make no fast tokenizer.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     with open(f"{directory}/vocab.txt", "w") as file:
      ...         print(*"[PAD] [UNK] [CLS] [SEP] [MASK] good".split(), sep="\\n", file=file)
      ...     load_tokenizer(directory)("Good")["input_ids"]
      [2, 5, 3]
    """
    path = Path(source).expanduser()
    if path.is_dir() and not any((path / name).exists() for name in _TOKENIZER_FILES):
        raise FileNotFoundError(
            f"{source} has no tokenizer files (one of {', '.join(_TOKENIZER_FILES)}): copy them "
            "there from the checkpoint the model comes from"
        )
    if not path.is_dir() and (path.is_absolute() or str(source).startswith((".", "~"))):
        raise FileNotFoundError(f"{source}: no such directory to load a tokenizer from")
    _check_ids(path / "tokenizer.json")
    try:
        tokenizer = _from_pretrained(path, str(source), revision)
    except Exception as error:  # malformed files raise whatever their parser raises
        kind = OSError if isinstance(error, OSError) else InputError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise kind(f"{source}: the tokenizer cannot be loaded: {reason}") from error
    if not tokenizer.is_fast:
        raise InputError(f"{source}: {type(tokenizer).__name__} has no fast version: want one")
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def _from_pretrained(path: Path, source: str, revision: str | None) -> PreTrainedTokenizerBase:
    import transformers

    if not path.is_dir():
        return transformers.AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    described = (path / "tokenizer.json").exists() or (path / "tokenizer_config.json").exists()
    found = _own_class(path)
    if found is not None:
        return found.from_pretrained(path)
    if described or not (path / "vocab.txt").exists():
        return transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    fold = not _has_capitals(path / "vocab.txt")
    return transformers.BertTokenizer.from_pretrained(path, do_lower_case=fold)


def _own_class(path: Path) -> Any:
    """The tokenizer's class, where the files name one that is of the model's own family.

    `AutoTokenizer` comes to the same, and on its way imports PyTorch where that is installed, which
    takes a second or two of every command.
    """
    import transformers

    try:
        config = json.loads((path / "config.json").read_bytes())
        settings = json.loads((path / "tokenizer_config.json").read_bytes())
        family = config["model_type"].replace("-", "_")
        name = settings["tokenizer_class"].removesuffix("Fast")
        if "auto_map" in settings or not name.endswith("Tokenizer"):
            return None
        found = getattr(transformers, name, None)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None  # a file is not there, or is not as it should be: the library decides
    home = f"transformers.models.{family}.tokenization_{family}"
    return found if getattr(found, "__module__", None) == home else None


def _check_ids(path: Path) -> None:
    """InputError for a token id that the library would make a table of gigabytes for."""
    try:
        content = json.loads(path.read_bytes())
        vocabulary, added = content["model"].get("vocab"), content.get("added_tokens", ())
        ids = [*vocabulary.values()] if isinstance(vocabulary, dict) else []
        ids += [token["id"] for token in added]
        largest = max((i for i in ids if isinstance(i, int)), default=0)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return  # there is none, or none that the library reads
    if largest > _LARGEST_ID:
        raise InputError(f"{path}: a token has the id {largest}, want at most {_LARGEST_ID}")


def _has_capitals(vocabulary: Path) -> bool:
    pieces = vocabulary.read_text(encoding="utf-8").split("\n")
    return any(piece != piece.lower() for piece in pieces if not piece.startswith("["))


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows that a model's embedding needs for all tokens, added ones included.

    Example:
      >>> from transformers import BertTokenizer
      >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] a good film".split()
      >>> tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
      >>> tokenizer.add_tokens(["plot"])
      1
      >>> vocabulary_size(tokenizer)
      9
    """
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: str | Path) -> None:
    """Writes the tokenizer's files into a model directory, for `transformers` and for us.

    Example:
      >>> import tempfile
      >>> from transformers import BertTokenizer
      >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] a good film".split()
      >>> tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     save_tokenizer(tokenizer, directory)
      ...     load_tokenizer(directory)("a film")["input_ids"]
      [2, 5, 7, 3]
    """
    tokenizer.save_pretrained(directory)


def tokenize(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    cache_dir: str | Path | None = None,
    *,
    stride: int | None = None,
) -> Tokenized:
    """Token ids of every example, cut to `max_length` tokens, as `tokenizer(..., truncation=True)`.

    Of a pair, the longer text loses its last token first until both fit.

    Args:
      cache_dir: where ids are kept between runs, under a hash of texts, tokenizer and length.
      stride: None cuts; else a long text is several features, each with so many tokens of the one
        before, and they count as one example together.

    Example:
      >>> from transformers import BertTokenizer
      >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] a good film".split()
      >>> tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
      >>> tokenized = tokenize(Examples(("a good film", "good")), tokenizer, max_length=4)
      >>> tokenized.input_ids.tolist(), tokenized.truncated
      ([2, 5, 6, 3, 2, 6, 3], 1)
    """
    pairs = examples.pairs
    inputs = examples.texts if pairs is None else list(zip(examples.texts, pairs, strict=True))
    form = Form(pairs=pairs is not None, stride=stride)
    found = encode(inputs, form, tokenizer, max_length, source=examples.source, cache_dir=cache_dir)
    if stride is None:
        return replace(found, labels=examples.labels, weights=examples.weights)
    assert found.example_of is not None, "a stride makes features"
    share = 1 / np.bincount(found.example_of).astype(np.float32)
    weights = share if examples.weights is None else share * examples.weights
    labels = None if examples.labels is None else examples.labels[found.example_of]
    return replace(found, labels=labels, weights=weights[found.example_of])
