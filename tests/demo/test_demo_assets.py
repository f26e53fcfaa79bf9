"""The real demo model and data: as counted by hand once, and batched well. Fetched if need be."""

import time

import numpy as np
import pytest
from transformers import AutoTokenizer

from jaxbert.data import Batches, load_demo, load_tags_demo, load_tokenizer, tokenize
from jaxbert.tasks import load_examples

# (examples, positive ones): those with a rating other than 0 of 10,605, 3,708, 5,190 and 4,200.
COUNTS = {
    "train": (8443, 4190),
    "dev": (1074, 531),
    "test": (1051, 521),
    "amazon": (3610, 2128),
    "nyt": (4946, 2204),
    "tweets": (4196, 2897),
}
# (tweets, words, entities)
COUNTS_OF_TAGS = {
    "train": (1931, 37_742, 1232),
    "dev": (210, 4089, 128),
    "test": (253, 4638, 136),
}


@pytest.fixture(scope="module")
def found():
    return load_demo()


@pytest.fixture(scope="module")
def tokenizer(found):
    return load_tokenizer(found.model)


def _path(found, name):
    return found.out_of_domain.get(name) or getattr(found, name)


@pytest.mark.parametrize(("name", "counts"), COUNTS.items())
def test_counts(found, name, counts):
    examples = load_examples(_path(found, name), label_column="label")
    assert examples.label_names == ("negative", "positive")
    assert (len(examples), int(examples.labels.sum())) == counts
    assert not any("\r" in text or "\t" in text for text in examples.texts)


def test_the_films_are_split_without_overlap(found):
    texts = [set(load_examples(_path(found, s)).texts) for s in ("train", "dev", "test")]
    assert not texts[0] & texts[1]
    assert not texts[1] & texts[2]
    assert len(texts[0] & texts[2]) <= 1  # one review is in the original twice


def test_a_second_call_is_quick(found):
    start = time.perf_counter()
    load_demo()
    assert time.perf_counter() - start < 1


def test_ids_are_those_of_transformers(found, tokenizer):
    texts = load_examples(found.test)
    stored = AutoTokenizer.from_pretrained(found.model)
    want = stored(list(texts.texts), truncation=True, max_length=128).input_ids
    got = tokenize(texts, tokenizer, 128)
    np.testing.assert_array_equal(got.input_ids, np.concatenate(want))
    assert got.truncated == 0


def test_packing_the_training_sentences(found, tokenizer):
    tokenized = tokenize(load_examples(found.train), tokenizer, 128)
    assert (len(tokenized.input_ids), tokenized.lengths.max()) == (226_792, 79)
    packed, bucketed = (
        Batches(tokenized, 32, max_length=128, shuffle=True, layout=layout)
        for layout in ("packed", "bucketed")
    )
    assert len(packed.shapes) <= 6
    assert packed.stats.packing_efficiency > 0.87
    assert bucketed.stats.packing_efficiency > 0.4


def test_the_tweets_with_tags():
    found = load_tags_demo()
    train = load_examples(found.train)
    kinds = "company facility geo-loc movie musicartist other person product sportsteam tvshow"
    assert train.label_names == tuple(
        [*(f"B-{kind}" for kind in kinds.split()), *(f"I-{kind}" for kind in kinds.split()), "O"]
    )
    counts = {}
    texts = set()
    for name in ("train", "dev", "test"):
        examples = load_examples(getattr(found, name), label_names=train.label_names)
        counts[name] = (len(examples), len(examples.labels), int((examples.labels < 10).sum()))
        assert not texts & set(examples.texts)
        texts |= set(examples.texts)
    assert counts == COUNTS_OF_TAGS
    assert sum(words for _, words, _ in counts.values()) == 46_469
