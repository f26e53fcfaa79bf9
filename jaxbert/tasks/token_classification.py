"""A tag for each word of a sentence: names and what they are of, parts of speech."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbert.data import Examples, Form, Tokenized, encode
from jaxbert.data.batching import IGNORED_LABEL
from jaxbert.models import EncoderConfig
from jaxbert.models.heads import ForTokenClassification
from jaxbert.models.outputs import ClassifierOutput
from jaxbert.tasks import losses
from jaxbert.tasks.entities import OUTSIDE, entities_of, entity_scores, makes_entities
from jaxbert.tasks.losses import SumAndCount
from jaxbert.tasks.metrics import count_classes
from jaxbert.tasks.options import TOKEN_CLASSIFICATION, TaskOptions
from jaxbert.tasks.sentences import (
    COLUMNS,
    TAGS,
    Sentences,
    places_of,
    read_sentences,
    spaced,
    spans_of,
    starts_of,
    words_of,
)
from jaxbert.tasks.task import Batch, Predicted, Task
from jaxbert.tasks.text_classification import class_target, configure_classes, names_of

METRICS = ("f1", "precision", "recall", "accuracy")


def _encode(
    examples: Examples,
    tokenizer: Any,
    max_length: int,
    cache_dir: str | Path | None = None,
    *,
    options: TaskOptions,
) -> Tokenized:
    """Of words, each by itself, or of whole texts; a word's label is its first token's.

    Other tokens have none, so every word counts once, in windows too.
    """
    form = Form(words=isinstance(examples, Sentences), stride=options.stride, described=True)
    inputs: Sequence[Any] = examples.texts
    if isinstance(examples, Sentences):
        inputs = spaced(examples.words, tokenizer)
    source = examples.source
    found = encode(inputs, form, tokenizer, max_length, source=source, cache_dir=cache_dir)
    if examples.labels is None:
        return found
    assert isinstance(examples, Sentences), "texts have no tags"
    places = places_of(found, examples.starts)
    told = places >= 0
    labels = np.full(len(found.input_ids), IGNORED_LABEL, np.int32)
    labels[places[told]] = examples.labels[told]
    return dataclasses.replace(found, labels=labels, label_layout="token")


def _loss(outputs: ClassifierOutput, batch: Batch, smoothing: float) -> SumAndCount:
    return losses.token_classification(outputs.logits, batch["labels"], smoothing=smoothing)


def _best(outputs: ClassifierOutput, batch: Batch) -> dict[str, Array]:
    """Of each token the likeliest tag and its probability, and not all logits."""
    del batch
    logits = outputs.logits.astype(jnp.float32)
    surprise = jax.nn.logsumexp(logits, axis=-1) - logits.max(axis=-1)
    return {"tags": logits.argmax(axis=-1).astype(jnp.int32), "probabilities": jnp.exp(-surprise)}


class _Told(NamedTuple):
    """Of all words, one example after the other.

    starts: [N + 1], of each example's words. tags: [W] int32, -1 where no token tells one.
    probabilities: [W] float32.
    """

    starts: np.ndarray
    tags: np.ndarray
    probabilities: np.ndarray


def _told(predicted: Predicted) -> _Told:
    examples, tokenized = predicted.examples, predicted.tokenized
    if isinstance(examples, Sentences):
        starts = examples.starts
    else:
        starts = words_of(tokenized, len(examples))
    places = places_of(tokenized, starts)
    tags, chances = (np.concatenate(predicted.results[n]) for n in ("tags", "probabilities"))
    there = places >= 0
    return _Told(starts, np.where(there, tags[places], -1), np.where(there, chances[places], 0))


def _tag_names(config: EncoderConfig) -> tuple[str, ...]:
    """The tags' names, and that of a word that no token tells: the last, which is -1."""
    names = names_of(config)
    return *names, OUTSIDE if OUTSIDE in names and makes_entities(names) else ""


def _score(config: EncoderConfig, predicted: Predicted, *, scheme: str) -> dict[str, float]:
    """Of entities or, where tags make none, of the tags.

    A word that no token tells, in what is cut for one, is told to be outside of entities.
    """
    names, told = _tag_names(config), _told(predicted)
    truth, guesses = np.asarray(predicted.examples.labels), told.tags
    if makes_entities(names[:-1]):
        if names[-1]:
            guesses = np.where(guesses < 0, names.index(OUTSIDE), guesses)
        theirs, ours = (
            [[names[tag] for tag in tags] for tags in _by_example(values, told.starts)]
            for values in (truth, guesses)
        )
        scores = entity_scores(theirs, ours, scheme)
    else:
        scores = _tag_scores(truth, guesses)
    return {**scores, "accuracy": float((truth == guesses).mean())}


def _tag_scores(truth: np.ndarray, guesses: np.ndarray) -> dict[str, float]:
    """Means over the tags that there are, each as heavy as another."""
    count = count_classes(truth, guesses)
    scores = {"f1": count.f1, "precision": count.precision, "recall": count.recall}
    return {name: float(score.mean()) for name, score in scores.items()}


def _by_example(values: np.ndarray, starts: np.ndarray) -> Iterator[list[Any]]:
    for start, end in itertools.pairwise(starts):
        yield values[start:end].tolist()


def _decode(config: EncoderConfig, predicted: Predicted, *, scheme: str) -> list[dict[str, Any]]:
    """{"words", "tags"} and, where tags make entities, "entities" of each example.

    Words that were cut off have no tag, or are outside.
    """
    names, told, examples = _tag_names(config), _told(predicted), predicted.examples
    named, given = makes_entities(names[:-1]), isinstance(examples, Sentences)
    rows = []
    parts = (_by_example(values, told.starts) for values in (told.tags, told.probabilities))
    spans = _spans(predicted, told.starts)
    for text, places, tags, chances in zip(examples.texts, spans, *parts, strict=True):
        words = [
            _Word(start, end, names[tag], chance)
            for (start, end), tag, chance in zip(places, tags, chances, strict=True)
            if given or start < end  # of a text, some tokenizers make a word of spaces
        ]
        said: dict[str, Any] = {"words": [text[word.start : word.end] for word in words]}
        said["tags"] = [word.tag or None for word in words]
        if named:
            found = entities_of([word.tag for word in words], scheme)
            said["entities"] = [_entity(kind, text, words[a:b]) for kind, a, b in found]
        rows.append(said)
    return rows


class _Word(NamedTuple):
    """start, end: its characters in the text."""

    start: int
    end: int
    tag: str
    probability: float


def _entity(kind: str, text: str, words: Sequence[_Word]) -> dict[str, Any]:
    """score: the mean probability of its words' tags."""
    start, end = words[0].start, words[-1].end
    score = sum(word.probability for word in words) / len(words)
    return {"type": kind, "text": text[start:end], "start": start, "end": end, "score": score}


def _spans(predicted: Predicted, starts: np.ndarray) -> Iterable[list[tuple[int, int]]]:
    """The characters of every example's words in its text, without spaces around them."""
    examples = predicted.examples
    if isinstance(examples, Sentences):
        for words in examples.words:
            ends = starts_of([len(word) + 1 for word in words]).tolist()
            yield [(a, b - 1) for a, b in itertools.pairwise(ends)]
        return
    found = spans_of(predicted.tokenized, starts)
    for text, (start, end) in zip(examples.texts, itertools.pairwise(starts), strict=True):
        yield [_stripped(text, a, b) for a, b in found[start:end].tolist()]


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    word = text[start:end]
    start += len(word) - len(word.lstrip())
    return start, start + len(word.strip())


def token_classification(options: TaskOptions) -> Task:
    """A tag for each word."""
    return Task(
        name=TOKEN_CLASSIFICATION,
        head=ForTokenClassification,
        columns=COLUMNS,
        signatures=tuple(frozenset({"tokens", tags}) for tags in TAGS),
        read=partial(read_sentences, scheme=options.scheme),
        encode=partial(_encode, options=options),
        target=class_target,
        configure=configure_classes,
        loss=_loss,
        results=_best,
        score=partial(_score, scheme=options.scheme),
        decode=partial(_decode, scheme=options.scheme),
        metrics=dict.fromkeys(METRICS, True),
        label_layout="token",
    )
