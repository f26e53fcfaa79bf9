"""Entities that tags make, and how well they are found: the definitions of conlleval and seqeval.

A tag is "O", or a prefix and a type: "B-person". Two schemes read them:

"conll": as conlleval (Tjong Kim Sang & De Meulder 2003), and `seqeval` by default. B and S begin an
  entity, E and S end one, and so does a change of type; an I or E with nothing to go on with begins
  one too. So IOB1, IOB2 and BIOES are all read right. Of BILOU, L is read as E and U as S, which
  seqeval would not do.
"strict": IOB2 to the letter, as `seqeval` with mode="strict", scheme=IOB2. An entity is a B and the
  I of its type that follow; an I without one is none. Other prefixes are refused.

Tags none of which has a prefix, such as parts of speech, make no entities: every tag is a class.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from jaxbert.data.tables import some
from jaxbert.errors import InputError

OUTSIDE = "O"
_TAG = re.compile(r"([BIESLU])(?:-(.*))?", re.DOTALL)
_READ_AS = {"L": "E", "U": "S"}


class Entity(NamedTuple):
    """Words start to end - 1 of a sentence.

    Example:
      >>> Entity("person", 0, 2).type
      'person'
    """

    type: str
    start: int
    end: int


def makes_entities(tags: Iterable[str]) -> bool:
    """Whether these are tags of entities: "O" and prefixes with types.

    Example:
      >>> makes_entities(["O", "B-person", "I-person"]), makes_entities(["NOUN", "VERB"])
      (True, False)
    """
    inside = [tag for tag in tags if tag != OUTSIDE]
    return bool(inside) and all(_TAG.fullmatch(tag) for tag in inside)


def check_tags(tags: Iterable[str], scheme: str, source: str) -> None:
    """InputError where a scheme cannot read tags of entities.

    Example:
      >>> check_tags(["O", "B-person"], "strict", "tweets.conll")
    """
    foreign = sorted(tag for tag in set(tags) if tag != OUTSIDE and tag[:1] not in "BI")
    if scheme == "strict" and makes_entities(tags) and foreign:
        raise InputError(
            f"{source}: scheme 'strict' is IOB2, which has no {some(map(repr, foreign))}: use "
            "scheme 'conll', which reads them"
        )


def entities_of(tags: Sequence[str], scheme: str = "conll") -> list[Entity]:
    """The entities of a sentence, in their order.

    Example:
      >>> entities_of(["B-person", "I-person", "O", "I-place"])
      [Entity(type='person', start=0, end=2), Entity(type='place', start=3, end=4)]
      >>> entities_of(["B-person", "I-person", "O", "I-place"], "strict")
      [Entity(type='person', start=0, end=2)]
    """
    goes_on = _GOES_ON[scheme]
    found: list[Entity] = []
    before, start = (OUTSIDE, ""), -1
    for place, tag in enumerate([*tags, OUTSIDE]):
        now = _parts(tag)
        if start >= 0 and not goes_on(before, now):
            found.append(Entity(before[1], start, place))
            start = -1
        if start < 0 and now[0] != OUTSIDE and (scheme == "conll" or now[0] == "B"):
            start = place
        before = now
    return found


def _conll_goes_on(before: tuple[str, str], now: tuple[str, str]) -> bool:
    return before[0] in "BI" and now[0] in "IE" and before[1] == now[1]


def _strict_goes_on(before: tuple[str, str], now: tuple[str, str]) -> bool:
    return now[0] == "I" and before[1] == now[1]


# Whether an entity that has the tag before has the next one too.
_GOES_ON: dict[str, Callable[[tuple[str, str], tuple[str, str]], bool]] = {
    "conll": _conll_goes_on,
    "strict": _strict_goes_on,
}


@functools.lru_cache(maxsize=4096)  # a few tags, again and again
def _parts(tag: str) -> tuple[str, str]:
    """(prefix, type); what is no tag of an entity is outside."""
    found = _TAG.fullmatch(tag)
    if found is None:
        return OUTSIDE, ""
    return _READ_AS.get(found[1], found[1]), found[2] or "_"


def entity_scores(
    truth: Sequence[Sequence[str]], guesses: Sequence[Sequence[str]], scheme: str = "conll"
) -> dict[str, float]:
    """{"f1", "precision", "recall"} of entities: right are those with both ends and the type right.

    Args:
      truth, guesses: the tags of every sentence.

    Example:
      >>> entity_scores([["B-person", "O", "B-place"]], [["B-person", "O", "O"]])
      {'f1': 0.6666666666666666, 'precision': 1.0, 'recall': 0.5}
    """
    right = wanted = told = 0
    for theirs, ours in zip(truth, guesses, strict=True):
        there, found = set(entities_of(theirs, scheme)), set(entities_of(ours, scheme))
        right, wanted, told = right + len(there & found), wanted + len(there), told + len(found)
    return {
        "f1": 2 * right / (wanted + told) if right else 0.0,
        "precision": right / told if told else 0.0,
        "recall": right / wanted if wanted else 0.0,
    }


def unpaired(tags: Iterable[str]) -> list[str]:
    """The tags whose B or I is missing.

    Example:
      >>> unpaired(["O", "B-person", "I-place", "B-place"])
      ['I-person']
    """
    there = set(tags)
    types = {kind for tag in there for prefix, kind in [_parts(tag)] if prefix in "BI"}
    wanted = {f"{prefix}-{kind}" for kind in types for prefix in "BI" if kind != "_"}
    return sorted(wanted - there)
