"""Texts to features: token ids, the words and characters they stand for, and their cache."""

from __future__ import annotations

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxbert.atomic import replacing
from jaxbert.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("jaxbert")

_CACHE_VERSION = 2
_CHUNK = 8192  # texts encoded at a time: bounds memory, keeps the tokenizer's threads busy


@dataclass(frozen=True)
class Tokenized:
    """Examples as token ids, one after the other (T tokens in all), special tokens included.

    A feature is what a model reads at a time. Most examples are one; a long text may be several
    windows, the choices of a question are as many as there are.

    input_ids, token_type_ids: [T] int32.
    offsets: [F + 1] int64; feature i is input_ids[offsets[i]:offsets[i + 1]].
    labels: None without, or by `label_layout`
      "example": [F, ...] int32 or float32;
      "token": [T] int32, -100 where ignored;
      "span": [F, 2] int32, first and last token, counted from the feature's first;
      "choice": [U] int32, which feature of the unit it is.
    truncated: how many examples `max_length` cut.
    weights: [F] float32, how much each counts in the loss; None = 1.
    example_of: [F] int64, which example each feature is of; None = the one of its number.
    units: [U + 1] int64; features units[j] to units[j + 1] are taken together, always in one row of
      a batch; None = each feature by itself.
    words: [T] int32, the word of the text that a token is of, -1 for special tokens; None = no one
      asked.
    spans: [T, 2] int32, the characters of the text that a token stands for, -1 for special tokens;
      None = no one asked.
    further: {name: [T] int32} that the step reads beside the ids; -1 where there is no token.

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
    weights: np.ndarray | None = None
    example_of: np.ndarray | None = None
    units: np.ndarray | None = None
    words: np.ndarray | None = None
    spans: np.ndarray | None = None
    further: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """[F] int64: tokens of each feature."""
        return np.diff(self.offsets)

    @cached_property
    def features_of(self) -> np.ndarray:
        """[U + 1] int64: `units`, also where each feature is one."""
        return np.arange(len(self) + 1) if self.units is None else self.units

    @cached_property
    def width(self) -> int:
        """The most features in a unit."""
        return int(np.diff(self.features_of).max(initial=1))

    def example(self, feature: int) -> int:
        """Which example a feature is of."""
        return feature if self.example_of is None else int(self.example_of[feature])

    def of_feature(self, feature: int) -> slice:
        """Where its tokens are in the arrays of all tokens."""
        return slice(int(self.offsets[feature]), int(self.offsets[feature + 1]))


class Form(NamedTuple):
    """How texts become features.

    pairs: two texts each. words: lists of words each, in place of texts. stride: see `tokenize`.
    shortened: which text of a pair is cut or divided: "longest_first", "only_first", "only_second".
    described: whether words and spans are wanted, which takes longer.

    Example:
      >>> Form(pairs=True, stride=128, shortened="only_second").words
      False
    """

    pairs: bool = False
    words: bool = False
    stride: int | None = None
    shortened: str = "longest_first"
    described: bool = False


def encode(
    inputs: Sequence[Any],
    form: Form,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    source: str,
    cache_dir: str | Path | None = None,
) -> Tokenized:
    """Token ids of texts, pairs of texts, or lists of words, as their form says; without labels.

    The special tokens' words and spans are -1; where `form.shortened` names one text of a pair, so
    are those of the other.

    Args:
      source: where they are from, for messages.
      cache_dir: as of `tokenize`.

    Raises:
      InputError: `max_length` leaves no room; a text without a token; a stride too long.

    Example:
      >>> from transformers import BertTokenizer
      >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] a good film".split()
      >>> tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
      >>> form = Form(stride=1, described=True)
      >>> found = encode(["a good film"], form, tokenizer, 4, source="films")
      >>> found.input_ids.tolist(), found.example_of.tolist(), found.spans[1:3].tolist()
      ([2, 5, 6, 3, 2, 6, 7, 3], [0, 0], [[0, 1], [2, 6]])
    """
    _check_room(form, tokenizer, max_length)
    # A copy, so that the caller's tokenizer keeps its own settings, and none of them counts here.
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.enable_truncation(
        max_length,
        stride=form.stride or 0,
        strategy=form.shortened,
        direction=tokenizer.truncation_side,
    )
    if cache_dir is None:
        found = _encode(inputs, form, backend, source)
    else:
        path = Path(cache_dir) / f"tokens-{_cache_key(inputs, form, backend)}.npz"
        cached = _load_cached(path, len(inputs))
        found = _encode(inputs, form, backend, source) if cached is None else cached
        if cached is None:
            try:
                _save_cached(path, found)
            except OSError as error:  # the ids are there all the same
                logger.warning("%s cannot be written: %s", path, error.strerror)
    empty = np.flatnonzero(found.lengths == 0)
    if len(empty):
        raise InputError(
            f"{source}: the tokenizer makes no token of the text in data row "
            f"{found.example(int(empty[0])) + 1} (and {len(empty) - 1} more): delete empty texts"
        )
    return found


def count_tokens(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, source: str
) -> np.ndarray:
    """[N] int64: how many tokens each text has, without special ones and uncut.

    Args:
      source: where they are from, for messages.

    Raises:
      InputError: the tokenizer cannot encode one.

    Example:
      >>> from transformers import BertTokenizer
      >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] a good film".split()
      >>> tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
      >>> count_tokens(["a good film", "good"], tokenizer, source="films").tolist()
      [3, 1]
    """
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    counts: list[int] = []
    for start in range(0, len(texts), _CHUNK):
        try:
            found = backend.encode_batch_fast(
                texts[start : start + _CHUNK], add_special_tokens=False
            )
        except Exception as error:  # the library has no class for it: no [UNK], for one
            raise _not_encoded(source, error) from error
        counts += map(len, found)
    return np.array(counts, np.int64)


def _not_encoded(source: str, error: Exception) -> InputError:
    return InputError(
        f"{source}: the tokenizer cannot encode a text ({error}): mend its "
        "vocabulary, or take the one that belongs to the model"
    )


def _check_room(form: Form, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    special = tokenizer.num_special_tokens_to_add(pair=form.pairs)
    if max_length <= special:
        raise InputError(
            f"{max_length=} leaves no room for text beside {special} special tokens: want at least "
            f"{special + 1}"
        )
    room = max_length - special
    if form.pairs and form.shortened == "longest_first":  # it leaves the shorter one half of it
        room //= 2
    if form.stride is not None and not 0 <= form.stride < room:
        raise InputError(
            f"stride={form.stride} must be from 0 to {room - 1}, below what {max_length=} leaves "
            f"for {'each text of a pair' if form.pairs else 'text'}"
        )


def _encode(inputs: Sequence[Any], form: Form, backend: Any, source: str) -> Tokenized:
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in _OF_TOKENS}
    lengths: list[int] = []
    example_of: list[int] = []
    truncated = 0
    # The fast one leaves out words and spans and, of a second text's further windows, their type.
    slow = form.described or form.stride is not None
    run = backend.encode_batch if slow else backend.encode_batch_fast
    for start in range(0, len(inputs), _CHUNK):
        try:
            encodings = run(inputs[start : start + _CHUNK], is_pretokenized=form.words)
        except Exception as error:  # the library has no class for it: no [UNK], for one
            raise _not_encoded(source, error) from error
        if form.stride is None:
            truncated += sum(bool(e.overflowing) for e in encodings)
        else:
            features = [[e, *e.overflowing] for e in encodings]
            example_of += [start + i for i, several in enumerate(features) for _ in several]
            encodings = list(chain.from_iterable(features))
        arrays["input_ids"].append(_flat(e.ids for e in encodings))
        arrays["token_type_ids"].append(_flat(e.type_ids for e in encodings))
        lengths += [len(e) for e in encodings]
        if form.described:
            of_text = None if form.shortened == "longest_first" else form.shortened
            for encoding in encodings:
                words, spans = _described(encoding, of_text)
                arrays["words"].append(words)
                arrays["spans"].append(spans)
    # Taken out one after the other, so that not all of them are there twice.
    whole: dict[str, Any] = {
        name: np.concatenate(chunks) for name in [*arrays] if (chunks := arrays.pop(name))
    }
    return Tokenized(
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        truncated=truncated,
        example_of=None if form.stride is None else np.array(example_of, np.int64),
        **whole,
    )


def _described(encoding: Any, of_text: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(the words [L], the spans [L, 2]) of a feature's tokens; -1 where there is none."""
    words = np.array([-1 if w is None else w for w in encoding.word_ids], np.int32)
    spans = np.array(encoding.offsets, np.int32).reshape(-1, 2)
    texts = np.array([-1 if s is None else s for s in encoding.sequence_ids], np.int32)
    foreign = texts < 0 if of_text is None else texts != (0 if of_text == "only_first" else 1)
    words[foreign], spans[foreign] = -1, -1
    return words, spans


def _flat(lists: Any) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), np.int32)


def _cache_key(inputs: Sequence[Any], form: Form, backend: Any) -> str:
    import tokenizers

    digest = hashlib.sha256()
    for one in inputs:
        for text in (one,) if isinstance(one, str) else one:
            encoded = text.encode()
            # The lengths go in too: ("ab", "c") and ("a", "bc") must differ.
            digest.update(b"%d:" % len(encoded) + encoded)
        digest.update(b"|")
    # The backend's state holds vocabulary, rules and truncation; the library's version, the rest.
    state = f"{_CACHE_VERSION} {tokenizers.__version__} {form} {backend.to_str()}"
    digest.update(state.encode())
    return digest.hexdigest()[:32]


_OF_TOKENS = ("input_ids", "token_type_ids", "words", "spans")
_ARRAYS = (*_OF_TOKENS, "offsets", "truncated", "example_of")


def _load_cached(path: Path, examples: int) -> Tokenized | None:
    """What `_save_cached` wrote; None if there is nothing, or nothing whole."""
    try:
        # Opened here: numpy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in _ARRAYS if name in file}
        found = Tokenized(**arrays | {"truncated": int(arrays["truncated"])})
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    tokens, features = len(found.input_ids), found.example_of
    beside = [array for array in (found.words, found.spans) if array is not None]
    whole = len(found.token_type_ids) == tokens == found.offsets[-1]
    whole = whole and all(len(array) == tokens for array in beside)
    if features is None:
        return found if whole and len(found) == examples else None
    whole = whole and len(features) == len(found) and features[-1] == examples - 1
    return found if whole else None


def _save_cached(path: Path, tokenized: Tokenized) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(tokenized, name) for name in _ARRAYS}
    there = {name: value for name, value in arrays.items() if value is not None}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **there)
