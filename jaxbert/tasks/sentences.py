"""Sentences as words, the tags of words, and which token stands for which word."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from jaxbert.data import Examples, Tokenized, texts_of
from jaxbert.data.sources import Column, columns_of, refuse
from jaxbert.data.tables import Table, some
from jaxbert.errors import InputError
from jaxbert.tasks.entities import check_tags, entities_of, makes_entities, unpaired
from jaxbert.tasks.options import TOKEN_CLASSIFICATION

logger = logging.getLogger("jaxbert")

COLUMNS: dict[str, str | None] = {
    "tokens_column": "tokens",
    "tags_column": "tags",
    "text_column": "text",
}
# What data sets call their tags; the first that is there is read where nobody names one.
TAGS = ("tags", "ner_tags", "pos_tags")


@dataclass(frozen=True)
class Sentences(Examples):
    """N sentences as words, with or without a tag for each word.

    texts: the words of each, with a space between two.
    words: a tuple of strings each.
    labels: [W] int32, of the words of all sentences, one sentence after the other.

    Example:
      >>> found = Sentences(("a film", "dull"), labels=np.array([0, 1, 0], np.int32),
      ...                   label_names=("O", "B-film"), words=(("a", "film"), ("dull",)))
      >>> found.take(np.array([1])).labels.tolist(), found.starts.tolist()
      ([0], [0, 2, 3])
    """

    words: tuple[tuple[str, ...], ...] = ()

    @cached_property
    def starts(self) -> np.ndarray:
        """[N + 1] int64: where each sentence's words begin among all words."""
        return starts_of([len(words) for words in self.words])

    def take(self, chosen: np.ndarray) -> Self:
        """The sentences at these places, in this order."""
        bare = dataclasses.replace(self, labels=None, words=tuple(self.words[i] for i in chosen))
        labels = self.labels
        if labels is not None:
            parts = [labels[self.starts[i] : self.starts[i + 1]] for i in chosen]
            labels = np.concatenate([*parts, labels[:0]])
        return dataclasses.replace(Examples.take(bare, chosen), labels=labels)

    def strings(self) -> tuple[Sequence[str] | None, ...]:
        """All words in it, and the tags' names."""
        return *super().strings(), tuple(itertools.chain.from_iterable(self.words))


def starts_of(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """[N + 1] int64: where each of N begins, of which there are so many."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def read_sentences(
    table: Table,
    columns: Mapping[str, str | None],
    *,
    labelled: bool = True,
    label_names: Sequence[str] | None = None,
    scheme: str = "conll",
) -> Examples:
    """Words and their tags; without tags, words or whole texts.

    The tags of a training set are numbered in alphabetic order, as `run_ner` of `transformers`
    numbers text, also where a data set from the hub numbers its own.

    Args:
      columns: {argument: the column's name}, those of `COLUMNS`.
      label_names: the tags of the model at hand; others are refused.
      scheme: how tags make entities, see `entities`.

    Raises:
      InputError: content that cannot be used.
    """
    found = columns_of(table.columns, table.name, _wanted(table, columns, labelled))
    if "tokens_column" not in found:
        return texts_of(found, table.name)
    words = _words(found["tokens_column"])
    sentences = Sentences(tuple(map(" ".join, words)), source=table.name, words=words)
    if not labelled:
        return sentences
    column = found["tags_column"]
    tags = _tags(column, words)
    names = tuple(label_names) if label_names else _names(tags, column.where, scheme)
    numbers = {name: i for i, name in enumerate(names)}
    flat = list(itertools.chain.from_iterable(tags))
    unknown = dict.fromkeys(tag for tag in flat if tag not in numbers)
    if unknown:
        raise InputError(
            f"{column.where} has tags the model does not know: {some(map(repr, unknown))}; it "
            f"knows {some(map(repr, names), 20)}"
        )
    return dataclasses.replace(
        sentences,
        labels=np.array([numbers[tag] for tag in flat], np.int32),
        label_names=names,
        task=TOKEN_CLASSIFICATION,
        reason=f"{found['tokens_column'].where} holds words, {column.where} their tags",
    )


def _wanted(
    table: Table, columns: Mapping[str, str | None], labelled: bool
) -> dict[str, str | None]:
    """The columns to read: words and tags; to predict for, words or a text."""
    there, wanted = table.columns, {name: columns[name] for name in COLUMNS}
    if labelled:
        if wanted["tags_column"] == COLUMNS["tags_column"]:
            wanted["tags_column"] = next((tags for tags in TAGS if tags in there), TAGS[0])
        return {**wanted, "text_column": None}
    tokens, text = wanted["tokens_column"], wanted["text_column"]
    named = {name for name in ("tokens_column", "text_column") if wanted[name] != COLUMNS[name]}
    if not named and tokens not in there and text not in there:
        raise InputError(
            f"{table.name} has neither a column {tokens!r} of words nor a column {text!r}: its "
            f"columns are {some(map(repr, there), 20)}; name one with tokens_column or text_column"
        )
    whole = "text_column" in named or ("tokens_column" not in named and tokens not in there)
    return {**wanted, "tags_column": None, "tokens_column" if whole else "text_column": None}


def _lists(column: Column, what: str) -> list[list[Any]]:
    """The values, each of which must be a list."""
    values, where = column
    rows = [v.tolist() if isinstance(v, np.ndarray) else v for v in values]
    other = [i for i, row in enumerate(rows) if not isinstance(row, list | tuple)]
    kind = type(rows[other[0]]).__name__ if other else ""
    refuse(where, f"{kind} where a list of {what} is wanted", other, "name another column")
    return [list(row) for row in rows]


def _words(column: Column) -> tuple[tuple[str, ...], ...]:
    rows, where = _lists(column, "words"), column.where
    other = [i for i, row in enumerate(rows) if not all(isinstance(word, str) for word in row)]
    refuse(where, "a word that is no text", other, "mend or delete it")
    broken = [
        i for i, row in enumerate(rows)
        if any("\ud800" <= letter <= "\udfff" for word in row for letter in word)
    ]  # fmt: skip
    refuse(where, "half a surrogate pair, which is no text,", broken, "mend or delete it")
    return tuple(map(tuple, rows))


def _tags(column: Column, words: Sequence[Sequence[str]]) -> list[list[str]]:
    rows, where = _lists(column, "tags"), column.where
    uneven = [i for i, row in enumerate(rows) if len(row) != len(words[i])]
    if uneven:
        first = uneven[0]
        counts = f"{len(rows[first])} tags for {len(words[first])} words"
        refuse(where, counts, uneven, "there must be a tag for each word")
    kinds = (str, int)
    other = [
        i for i, row in enumerate(rows)
        if not all(isinstance(tag, kinds) and not isinstance(tag, bool) and tag != ""
                   for tag in row)
    ]  # fmt: skip
    refuse(where, "a word without a tag, which is a text or a number,", other, "mend or delete it")
    return [[str(tag) for tag in row] for row in rows]


def _names(tags: Sequence[Sequence[str]], where: str, scheme: str) -> tuple[str, ...]:
    """The tags of a training set, in their order; tells what is odd about them."""
    names = set(itertools.chain.from_iterable(tags))
    if len(names) < 2:
        shown = repr(min(names)) if names else "none"
        raise InputError(f"{where} holds one tag only, {shown}: want at least two")
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    check_tags(names, scheme, where)
    if makes_entities(names):
        missing = unpaired(names)
        if missing:
            logger.warning(
                "%s: no word has the tag %s, so no model trained on it gives that or knows it in "
                "other data", where, some(missing),
            )  # fmt: skip
        if scheme == "strict":
            _tell_of_lost(tags, where)
    return tuple(sorted(names))


def _tell_of_lost(tags: Sequence[Sequence[str]], where: str) -> None:
    every = sum(len(entities_of(row)) for row in tags)
    lost = every - sum(len(entities_of(row, "strict")) for row in tags)
    if lost:
        logger.warning(
            "%s: %d of %d entities do not begin with a B, and are none for scheme 'strict' (IOB1?)",
            where, lost, every,
        )  # fmt: skip


def spaced(words: Sequence[Sequence[str]], tokenizer: Any) -> Sequence[Sequence[str]]:
    """The words as a tokenizer takes them: with a space before where it makes a difference.

    For byte-level tokenizers a word without one is the rest of a word; `transformers` has
    `add_prefix_space` for that.

    Example:
      >>> from transformers import BertTokenizer
      >>> tokenizer = BertTokenizer(vocab={"[UNK]": 0, "a": 1})
      >>> spaced([["a", "film"]], tokenizer)
      [['a', 'film']]
    """
    backend = tokenizer.backend_tokenizer
    bare, after = (backend.encode(text, add_special_tokens=False).ids for text in ("a", " a"))
    return words if bare == after else [[f" {word}" for word in row] for row in words]


def words_of(tokenized: Tokenized, examples: int) -> np.ndarray:
    """[N + 1] int64: where each example's words begin among all that there are tokens of."""
    counts = np.zeros(examples, np.int64)
    words, example = _there(tokenized)[1:]
    np.maximum.at(counts, example, words + 1)
    return starts_of(counts)


def places_of(tokenized: Tokenized, starts: np.ndarray) -> np.ndarray:
    """[W] int64: of each word the token that tells it, -1 where none does.

    That is the first of its tokens; where several windows have it, that of the window in which it
    is farthest from both ends.

    Args:
      starts: [N + 1], of each example's words among the W.
    """
    token, word, example = _there(tokenized)
    assert tokenized.spans is not None, "they are asked for"
    feature = np.searchsorted(tokenized.offsets, token, side="right") - 1
    key = starts[example] + word
    # A window may begin amid a word: the span tells that its first token there is not the first.
    first = np.flatnonzero(np.diff(feature, prepend=-1) | np.diff(key, prepend=-1))
    token, feature, key = token[first], feature[first], key[first]
    position = token - tokenized.offsets[feature]
    context = np.minimum(position, tokenized.lengths[feature] - 1 - position)
    order = np.lexsort((feature, -context, tokenized.spans[token, 0], key))
    chosen = order[np.flatnonzero(np.diff(key[order], prepend=-1))]
    places = np.full(starts[-1], -1, np.int64)
    places[key[chosen]] = token[chosen]
    return places


def _there(tokenized: Tokenized) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the tokens that words have, those words' numbers, their examples)."""
    assert tokenized.words is not None, "it is asked for"
    token = np.flatnonzero(tokenized.words >= 0)
    feature = np.searchsorted(tokenized.offsets, token, side="right") - 1
    example = feature if tokenized.example_of is None else tokenized.example_of[feature]
    return token, tokenized.words[token].astype(np.int64), example


def spans_of(tokenized: Tokenized, starts: np.ndarray) -> np.ndarray:
    """[W, 2] int64: the characters of each word, of all of its tokens."""
    token, word, example = _there(tokenized)
    assert tokenized.spans is not None, "they are asked for"
    key, spans = starts[example] + word, tokenized.spans[token].astype(np.int64)
    found = np.full((starts[-1], 2), [[np.iinfo(np.int64).max, 0]], np.int64)
    np.minimum.at(found[:, 0], key, spans[:, 0])
    np.maximum.at(found[:, 1], key, spans[:, 1])
    return found
