"""Text to token ids, once: alone knows tokenizer files, truncation and the cache of ids."""

from __future__ import annotations

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbert.atomic import replacing
from jaxbert.data.sources import Examples
from jaxbert.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("jaxbert")

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
_CACHE_VERSION = 1
_CHUNK = 8192  # texts encoded at a time: bounds memory, keeps the tokenizer's threads busy


@dataclass(frozen=True)
class Tokenized:
    """N examples as token ids, one after the other (T tokens in all), special tokens included.

    input_ids, token_type_ids: [T] int32.
    offsets: [N + 1] int64; example i is input_ids[offsets[i]:offsets[i + 1]].
    labels: None without; [N] where `label_layout` is "example", int32 or float32; [T] int32, -100
      where ignored, where it is "token".
    truncated: how many examples `max_length` cut.

    Example:
      >>> ids = np.array([2, 6, 3, 2, 3], np.int32)
      >>> two = Tokenized(ids, np.zeros_like(ids), offsets=np.array([0, 3, 5]))
      >>> len(two), two.lengths.tolist()
      (2, [3, 2])
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray | None = None
    label_layout: str = "example"
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """[N] int64: tokens of each example."""
        return np.diff(self.offsets)


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
    if described or not (path / "vocab.txt").exists():
        return transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    fold = not _has_capitals(path / "vocab.txt")
    return transformers.BertTokenizer.from_pretrained(path, do_lower_case=fold)


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
) -> Tokenized:
    """Token ids of every example, cut to `max_length` tokens, as `tokenizer(..., truncation=True)`.

    Of a pair, the longer text loses its last token first until both fit.

    Args:
      cache_dir: where ids are kept between runs, under a hash of texts, tokenizer and length.

    Example:
      >>> from transformers import BertTokenizer
      >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] a good film".split()
      >>> tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
      >>> tokenized = tokenize(Examples(("a good film", "good")), tokenizer, max_length=4)
      >>> tokenized.input_ids.tolist(), tokenized.truncated
      ([2, 5, 6, 3, 2, 6, 3], 1)
    """
    special = tokenizer.num_special_tokens_to_add(pair=examples.pairs is not None)
    if max_length <= special:
        raise InputError(
            f"{max_length=} leaves no room for text beside {special} special tokens: want at least "
            f"{special + 1}"
        )
    # A copy, so that the caller's tokenizer keeps its own settings, and none of them counts here.
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.enable_truncation(
        max_length, strategy="longest_first", direction=tokenizer.truncation_side
    )
    if cache_dir is None:
        tokenized = _encode(examples, backend)
    else:
        path = Path(cache_dir) / f"tokens-{_cache_key(examples, backend)}.npz"
        cached = _load_cached(path, len(examples))
        tokenized = _encode(examples, backend) if cached is None else cached
        if cached is None:
            try:
                _save_cached(path, tokenized)
            except OSError as error:  # the ids are there all the same
                logger.warning("%s cannot be written: %s", path, error.strerror)
    empty = np.flatnonzero(tokenized.lengths == 0)
    if len(empty):
        raise InputError(
            f"{examples.source}: the tokenizer makes no token of the text in data row "
            f"{empty[0] + 1} (and {len(empty) - 1} more): delete empty texts"
        )
    return replace(tokenized, labels=examples.labels)


def _encode(examples: Examples, backend: Any) -> Tokenized:
    inputs: Sequence[Any] = examples.texts
    if examples.pairs is not None:
        inputs = list(zip(examples.texts, examples.pairs, strict=True))
    ids, types, lengths, truncated = [], [], [], 0
    for start in range(0, len(inputs), _CHUNK):
        try:
            encodings = backend.encode_batch_fast(inputs[start : start + _CHUNK])
        except Exception as error:  # the library has no class for it: no [UNK], for one
            raise InputError(
                f"{examples.source}: the tokenizer cannot encode a text ({error}): mend its "
                "vocabulary, or take the one that belongs to the model"
            ) from error
        ids.append(_flat(e.ids for e in encodings))
        types.append(_flat(e.type_ids for e in encodings))
        lengths += [len(e) for e in encodings]
        truncated += sum(bool(e.overflowing) for e in encodings)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Tokenized(np.concatenate(ids), np.concatenate(types), offsets, truncated=truncated)


def _flat(lists: Any) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), np.int32)


def _cache_key(examples: Examples, backend: Any) -> str:
    import tokenizers

    # The backend's state holds vocabulary, rules and truncation; the library's version, the rest.
    state = f"{_CACHE_VERSION} {tokenizers.__version__} {examples.fingerprint} {backend.to_str()}"
    return hashlib.sha256(state.encode()).hexdigest()[:32]


def _load_cached(path: Path, examples: int) -> Tokenized | None:
    """What `_save_cached` wrote; None if there is nothing, or nothing whole."""
    try:
        # Opened here: numpy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = Tokenized(
                file["input_ids"],
                file["token_type_ids"],
                file["offsets"],
                truncated=int(file["truncated"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    tokens = len(found.input_ids)
    whole = len(found.token_type_ids) == tokens == found.offsets[-1] and len(found) == examples
    return found if whole else None


def _save_cached(path: Path, tokenized: Tokenized) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            input_ids=tokenized.input_ids,
            token_type_ids=tokenized.token_type_ids,
            offsets=tokenized.offsets,
            truncated=np.int64(tokenized.truncated),
        )
