"""What a study works on: the examples of every role, from files or from the demo."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxbert.data import Examples, load_demo, load_tags_demo
from jaxbert.errors import InputError
from jaxbert.tasks import TEXT_CLASSIFICATION, TaskOptions, load_examples
from jaxbert.tasks.options import TOKEN_CLASSIFICATION

# Of the demo's large sets so many are used, drawn once: enough to tell models apart by two points,
# and few enough to be read after every run.
DEMO_OUT_OF_DOMAIN, NEUTRAL = 600, 500


# Which arguments of `load_data` say how texts of no task are read.
_OF_TEXTS = ("text_column", "text_pair_column", "header")


@dataclasses.dataclass(frozen=True)
class Data:
    """What a laboratory works on: examples of one task; of `neutral` the texts count.

    Attributes:
      train: the pool that training sets are drawn from.
      development: by which base rates are chosen, and learning curves drawn.
      test: in-domain test.
      out_of_domain: {name: test from elsewhere}, of the same classes if there are classes.
      neutral: held-out texts of no task, on which representations are compared.
      domain: what the task is about, for tables.
    """

    train: Examples
    development: Examples
    test: Examples
    out_of_domain: Mapping[str, Examples]
    neutral: Examples
    domain: str = "in domain"

    def __post_init__(self) -> None:
        labelled = {"train": self.train, "development": self.development, "test": self.test}
        labelled |= self.out_of_domain
        bad = [
            f"{name} ({examples.task or 'no labels'})"
            for name, examples in labelled.items()
            if examples.task is None or examples.task != self.train.task
        ]
        if bad:
            raise InputError(
                f"all examples of a study are for the task of those to train on, "
                f"{self.train.task}; these are not: {', '.join(bad)}"
            )

    @property
    def task(self) -> str:
        """The name of the task that all are for."""
        assert self.train.task is not None, "which has been checked"
        return self.train.task

    def describe(self) -> dict[str, Any]:
        """{role: source, fingerprint and number of examples}."""
        roles = {"train": self.train, "development": self.development, "test": self.test}
        roles |= {**self.out_of_domain, "neutral": self.neutral}
        return {
            role: {
                "source": Path(examples.source).name,
                "fingerprint": examples.fingerprint,
                "count": len(examples),
            }
            for role, examples in roles.items()
        }


def sample(examples: Examples, count: int | None, seed: int) -> Examples:
    """So many of the examples, drawn without replacement; None = all, as they are."""
    if count is None:
        return examples
    if count > len(examples):
        raise InputError(f"{examples.source}: {count} examples wanted, there are {len(examples)}")
    return examples.take(np.random.default_rng(seed).permutation(len(examples))[:count])


def load_data(
    train: str,
    development: str,
    test: str,
    out_of_domain: Mapping[str, str],
    neutral: str | None,
    *,
    task: str | None = None,
    options: TaskOptions | None = None,
    **columns: Any,
) -> Data:
    """The examples of files, or of whatever else `load_examples` reads.

    Args:
      out_of_domain: {name: source}.
      neutral: None = texts of `test`, evenly spread, 500 at most.
      task, options: None = what columns and labels of `train` say; as by default.
      columns: of all of them, as of `load_examples`.
    """

    def load(source: str, **known: Any) -> Examples:
        return load_examples(source, labelled=True, options=options, **columns, **known)

    pool = load(train, task=task)
    read = {
        name: load(source, label_names=pool.label_names, task=pool.task)
        for name, source in {**out_of_domain, "test": test, "development": development}.items()
    }
    if neutral is None:
        count = min(len(read["test"]), NEUTRAL)
        texts = read["test"].take(np.linspace(0, len(read["test"]) - 1, count).astype(int))
    else:
        own = {name: column for name, column in columns.items() if name in _OF_TEXTS}
        texts = load_examples(neutral, task=TEXT_CLASSIFICATION, labelled=False, **own)
    return Data(pool, read.pop("development"), read.pop("test"), read, texts)


def demo_data(task: str | None = None, options: TaskOptions | None = None) -> tuple[Path, Data]:
    """(the demo's model, its data): film reviews, with newspaper editorials as the neutral text.

    The editorials of the neutral text are not among those of the out-of-domain test. For tags of
    words they are tweets.

    Raises:
      InputError: the demo has no data for that task.
    """
    if task == TOKEN_CLASSIFICATION:
        demo = load_tags_demo()
        train, dev, test = map(str, (demo.train, demo.dev, demo.test))
        tagged = load_data(train, dev, test, {}, None, task=task, options=options)
        return demo.model, dataclasses.replace(tagged, domain="tweets")
    if task not in (None, TEXT_CLASSIFICATION.name):
        raise InputError(f"the demo has no data for task {task}: give a model and data")
    demo = load_demo()
    elsewhere = {name: str(path) for name, path in demo.out_of_domain.items()}
    whole = load_data(
        str(demo.train), str(demo.dev), str(demo.test), elsewhere, None, label_column="label"
    )
    tests, neutral = {}, whole.neutral
    for name, examples in whole.out_of_domain.items():
        order = np.random.default_rng(0).permutation(len(examples))
        tests[name] = examples.take(np.sort(order[:DEMO_OUT_OF_DOMAIN]))
        if name == "nyt":
            chosen = order[DEMO_OUT_OF_DOMAIN : DEMO_OUT_OF_DOMAIN + NEUTRAL]
            neutral = examples.take(np.sort(chosen))
    drawn = dataclasses.replace(whole, out_of_domain=tests, neutral=neutral, domain="film reviews")
    return demo.model, drawn
