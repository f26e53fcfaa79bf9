"""Tiny examples of every task, a tiny model for each, and how many things its loss counts."""

import numpy as np
import tiny
from flax import nnx
from task_checks import SHAPE

from jaxbert import load_examples
from jaxbert.data.batching import IGNORED_LABEL
from jaxbert.models import BertConfig, Compute
from jaxbert.tasks import TASKS, TaskOptions, get_task, task_class

ADJECTIVES = "good bad dull fine great poor weak fresh warm cold".split()  # noqa: SIM905
NOUNS = "film plot cast music story".split()  # noqa: SIM905
LABELS = ("bad", "film", "music")
SETS = [[name for name in LABELS if name in text.split()] for text in tiny.TEXTS]
TAGS = ("B-mood", "B-part", "O")
CHOICES = {
    "question": ["the film was", "a story with", "the end is", "music and", "the plot is", "very"],
    "choices": [
        ["good", "bad film", "dull"],
        ["weak", "great plot"],
        ["very very bad", "fine", "cold music", "great"],
        ["bad", "good"],
        ["dull and long", "warm", "weak"],
        ["good", "poor"],
    ],
    "label": [0, 1, 3, 1, 1, 0],
}


def questions(count, seed=0, unanswered=0, sentences=1):
    """Of a noun that is asked for, what it is; of the end, which no context has, nothing."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        nouns = rng.permutation(NOUNS)[:sentences]
        said = [f"the {noun} is {rng.choice(ADJECTIVES)}" for noun in nouns]
        context, chosen = " and ".join(said), int(rng.integers(sentences))
        answer = said[chosen].split()[-1]
        start = len(" and ".join(said[: chosen + 1])) - len(answer)
        none = i < unanswered
        rows.append(
            {
                "id": f"q{i}",
                "question": "end" if none else str(nouns[chosen]),
                "context": context,
                "answers": {"text": [] if none else [answer],
                            "answer_start": [] if none else [start]},
            }
        )  # fmt: skip
    return {name: [row[name] for row in rows] for name in rows[0]}


def _tag(word):
    return "B-mood" if word in ADJECTIVES else "B-part" if word in NOUNS else "O"


def tables():
    """{task: its data as a user has them}, a dozen examples or so each."""
    words = [text.split() for text in tiny.TEXTS]
    texts, names = list(tiny.TEXTS), [tiny.CLASSES.label_names[i] for i in tiny.LABELS]
    return {
        "text-classification": {"text": texts, "label": names},
        "text-regression": {"text": texts, "label": tiny.NUMBERS.labels.tolist()},
        "multi-label-classification": {"text": texts, "label": SETS},
        "token-classification": {"tokens": words, "tags": [[*map(_tag, row)] for row in words]},
        "question-answering": questions(13, unanswered=3, sentences=2),
        "multiple-choice": {name: 2 * column for name, column in CHOICES.items()},
        "masked-lm": {"text": texts},
    }


# What makes a task more than its simplest: contexts in windows, and words enough to be told.
OPTIONS = {
    "question-answering": TaskOptions(doc_stride=2),
    "masked-lm": TaskOptions(mask_probability=0.3),
}
MAX_LENGTH = {"question-answering": 12}  # others have 16


def examples(name):
    """Of that task."""
    return load_examples(tables()[name], task=name, labelled=True)


def task(name, tokenizer):
    """Of that name, with its options."""
    return get_task(name, OPTIONS.get(name)).bound(tokenizer)


def network(name, dtype="float32", **config):
    """A model of one layer for the examples of that task."""
    target = TASKS[name].target(examples(name))
    labels = target.get("labels")
    fields = {"num_labels": target.get("num_labels", 2)}
    if labels is not None:
        fields = {"num_labels": len(labels), "id2label": tuple(labels)}
    config = BertConfig(**SHAPE, **fields, **config)
    return task_class(TASKS[name], "bert")(config, rngs=nnx.Rngs(0), compute=Compute(dtype=dtype))


def counted(name, tokenized, units):
    """How many things the loss of the first units of a data set counts."""
    tokens = tokenized.offsets[tokenized.features_of[units]]
    if name == "token-classification":
        return int((tokenized.labels[:tokens] != IGNORED_LABEL).sum())
    if name == "masked-lm":
        share = OPTIONS[name].mask_probability
        return sum(max(1, round(share * (n - 2))) for n in tokenized.lengths[:units].tolist())
    return units
