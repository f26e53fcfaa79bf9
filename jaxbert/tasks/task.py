"""`Task`: one kind of work that a model is fine-tuned for, as one row of data and functions.

The trainer, the laboratory and the command line know this row and no task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array

from jaxbert.data import Examples, Tokenized
from jaxbert.errors import InputError
from jaxbert.models import EncoderConfig
from jaxbert.tasks.losses import SumAndCount

Batch = Mapping[str, Array]
# {field of the model's outputs: values of all examples, in their order}: [N, ...] where a label is
# an example's, a list of N arrays [length, ...] where it is a token's.
Results = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of work that a model is fine-tuned for.

    Attributes:
      name: as on the command line.
      head: the class, of `models.heads`, whose subclasses can do it.
      read: (source, **columns) -> labelled examples.
      encode: (examples, tokenizer, max_length, cache_dir) -> token ids, with the labels where
        `label_layout` says.
      target: of examples, what `from_pretrained` must be asked for: labels or num_labels.
      configure: (model's configuration, examples) -> the configuration, completed by what the
        labels are called; InputError where labels do not mean what the model's do.
      loss: (outputs, batch, label smoothing) -> (sum, count), in JAX.
      score: (examples, results) -> {metric: value}, on the host.
      decode: (configuration, results) -> for each example what to tell the user, as JSON.
      metrics: {metric: whether more is better}; the first is the one to select models by.
      problem_type: what a model's config.json says of it; None = it has no word for it.
      label_layout: what has a label, and a result: an "example" or a "token".
      outputs: the fields of the model's outputs that `score` and `decode` read.
      smooths_labels: whether label smoothing has a meaning.

    Example:
      >>> from jaxbert.tasks import TASKS
      >>> regression = TASKS["text-regression"]
      >>> list(regression.metrics), regression.label_layout
      (['mse', 'pearson', 'spearman'], 'example')
    """

    name: str
    head: type[Any]
    read: Callable[..., Examples]
    encode: Callable[..., Tokenized]
    target: Callable[[Examples], Mapping[str, Any]]
    configure: Callable[[EncoderConfig, Examples], EncoderConfig]
    loss: Callable[[Any, Batch, float], SumAndCount]
    score: Callable[[Examples, Results], dict[str, float]]
    decode: Callable[[EncoderConfig, Results], list[dict[str, Any]]]
    metrics: Mapping[str, bool]
    problem_type: str | None = None
    label_layout: str = "example"
    outputs: tuple[str, ...] = ("logits",)
    smooths_labels: bool = True

    def selection_metric(self, name: str | None) -> tuple[str, bool]:
        """The score that models are selected by, and whether more of it is better.

        Args:
          name: one of `metrics`, or "loss"; None = the first.

        Raises:
          InputError: there is none of that name; lists those there are.
        """
        known = {**self.metrics, "loss": False}
        name = name or next(iter(known))
        if name not in known:
            raise InputError(f"metric={name!r} is not one of {', '.join(known)} ({self.name})")
        return name, known[name]

    def configured(self, config: EncoderConfig, examples: Examples | None) -> EncoderConfig:
        """The configuration of a model that does this, as its config.json should say it."""
        if examples is not None:
            config = self.configure(config, examples)
        return dataclasses.replace(config, problem_type=self.problem_type)

    def check_labels(self, config: EncoderConfig, examples: Examples) -> None:
        """InputError unless labels are there and mean what the model's do."""
        if examples.labels is None:
            raise InputError(f"{examples.source}: evaluation needs labels")
        if examples.task not in (None, self.name):
            raise InputError(
                f"the model is for {self.name}, the labels of {examples.source} are for "
                f"{examples.task}"
            )
        self.configure(config, examples)
