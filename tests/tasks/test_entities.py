"""Entities and their scores are those of conlleval and seqeval, on hand-made and on random tags."""

import random
import warnings

import pytest
import seqeval.metrics
import seqeval.scheme
from seqeval.metrics.sequence_labeling import get_entities

from jaxbert.errors import InputError
from jaxbert.tasks.entities import (
    check_tags,
    entities_of,
    entity_scores,
    makes_entities,
    unpaired,
)

# Sentences by hand: tags, entities of scheme conll, entities of scheme strict.
CASES = {
    "IOB2": ("B-a I-a O B-a", "a02 a34", "a02 a34"),
    "two neighbors": ("B-a B-a I-a", "a01 a13", "a01 a13"),
    "IOB1": ("I-a I-a O I-b B-b I-b", "a02 b34 b46", "b46"),
    "I of another type": ("B-a I-b I-b O", "a01 b13", "a01"),
    "I after I of another type": ("B-a I-a I-b", "a02 b23", "a02"),
    "at the end": ("O B-a", "a12", "a12"),
    "nothing": ("O O", "", ""),
    "a type with a dash": ("B-x-y I-x-y", "x-y02", "x-y02"),
    "BIOES": ("S-a B-a E-a S-b O B-b I-b E-b", "a01 a13 b34 b58", None),
    "E and I without a beginning": ("E-a E-a I-a O I-b E-b", "a01 a12 a23 b46", None),
    "BILOU": ("U-a B-a L-a U-b O B-b I-b L-b", "a01 a13 b34 b58", None),
    "no types": ("B I O I B", "_02 _34 _45", "_02 _45"),
}


def spoken(entities):
    return " ".join(f"{e.type}{e.start}{e.end}" for e in entities)


@pytest.mark.parametrize("case", CASES)
def test_what_tags_make(case):
    tags, conll, strict = CASES[case]
    assert spoken(entities_of(tags.split())) == conll
    if strict is not None:
        assert spoken(entities_of(tags.split(), "strict")) == strict


def random_sentences(prefixes, seed, count=40):
    draw = random.Random(seed)
    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in ("a", "b-c"))]
    return [[draw.choice(tags) for _ in range(draw.randrange(1, 9))] for _ in range(count)]


@pytest.mark.parametrize("prefixes", ["BI", "BIES", "I"])
@pytest.mark.parametrize("seed", range(5))
def test_entities_are_seqevals(prefixes, seed):
    for tags in random_sentences(prefixes, seed):
        wanted = [(kind, start, end + 1) for kind, start, end in get_entities(tags)]
        assert [tuple(entity) for entity in entities_of(tags)] == wanted, tags
        if prefixes == "BI":
            (found,) = seqeval.scheme.Entities([tags], seqeval.scheme.IOB2).entities
            wanted = [(entity.tag, entity.start, entity.end) for entity in found]
            assert [tuple(entity) for entity in entities_of(tags, "strict")] == wanted, tags


@pytest.mark.parametrize("scheme", ["conll", "strict"])
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_seqevals(scheme, seed):
    truth = random_sentences("BI", seed)
    draw = random.Random(seed)
    guesses = [
        [tag if draw.random() < 0.8 else draw.choice(["O", "B-a", "I-a", "I-b-c"]) for tag in tags]
        for tags in truth
    ]
    options = {"mode": "strict", "scheme": seqeval.scheme.IOB2} if scheme == "strict" else {}
    found = entity_scores(truth, guesses, scheme)
    for name, score in found.items():
        wanted = getattr(seqeval.metrics, f"{name}_score")(truth, guesses, **options)
        assert score == pytest.approx(wanted, abs=1e-12), name
    assert 0.2 < found["f1"] < 0.9


def test_the_example_that_seqeval_publishes():
    """Of its README: one of two entities is found."""
    truth = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    guesses = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert entity_scores(truth, guesses) == {"f1": 0.5, "precision": 0.5, "recall": 0.5}


def test_nothing_found_and_nothing_there():
    nothing = {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    assert entity_scores([["B-a"]], [["O"]]) == nothing
    assert entity_scores([["O"]], [["B-a"]]) == nothing
    assert entity_scores([["O"]], [["O"]]) == nothing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert seqeval.metrics.f1_score([["O"]], [["O"]]) == 0


def test_which_tags_make_entities():
    assert makes_entities(["B-a", "I-a"])
    assert makes_entities(["O", "S"])
    for tags in (["O"], [], ["NOUN", "VERB"], ["O", "person"], ["B-a", "person"], ["0", "1"]):
        assert not makes_entities(tags), tags


def test_a_scheme_that_cannot_read_them():
    check_tags(["O", "S-a", "E-a"], "conll", "x")
    check_tags(["NOUN", "VERB"], "strict", "x")
    with pytest.raises(InputError, match="x: scheme 'strict' is IOB2, which has no 'E-a', 'S-a'"):
        check_tags(["O", "S-a", "B-a", "E-a"], "strict", "x")


def test_tags_whose_other_half_is_missing():
    assert unpaired(["O", "B-a", "I-a"]) == []
    assert unpaired(["B-b", "I-a", "S-c"]) == ["B-a", "I-b"]
