"""`Task`: one kind of work that a model is fine-tuned for, as one row of data and functions.

The trainer, the laboratory and the command line know this row and no task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from jaxbert.data import Examples, Tokenized
from jaxbert.errors import InputError
from jaxbert.models import EncoderConfig
from jaxbert.tasks.losses import SumAndCount

Batch = Mapping[str, Array]
# {name: values of all features, in their order}: [F, ...] where a result is a feature's, a list of
# F arrays [length, ...] where it is a token's.
Results = Mapping[str, Any]


class Predicted(NamedTuple):
    """What a model made of examples.

    loss: the mean; None without labels.

    Example:
      >>> Predicted._fields
      ('examples', 'tokenized', 'results', 'loss')
    """

    examples: Examples
    tokenized: Tokenized
    results: Results
    loss: float | None = None


def logits_of(outputs: Any, batch: Batch) -> dict[str, Array]:
    """The outputs' logits."""
    del batch
    return {"logits": outputs.logits}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of work that a model is fine-tuned for.

    Attributes:
      name: as on the command line.
      head: the class, of `models.heads`, whose subclasses can do it.
      columns: {argument: the column that it names where nobody names one, or None}.
      signatures: tables that have all columns of one of these are read for this task where nobody
        says which.
      read: (table, {argument: column}, labelled, label_names) -> examples, see `load_examples`.
      encode: (examples, tokenizer, max_length, cache_dir) -> token ids, with the labels where
        `label_layout` says.
      target: of examples, what `from_pretrained` must be asked for: labels or num_labels.
      configure: (model's configuration, examples) -> the configuration, completed by what the
        labels are called; InputError where labels do not mean what the model's do.
      weigh: training examples -> the same, with weights where the task gives them any.
      prepare: (batch, key) -> the batch as the model reads it, in JAX, for a task that makes its
        labels itself; None = as it is.
      loss: (outputs, batch, label smoothing) -> (sum, count), in JAX.
      results: (outputs, batch) -> {name: what is kept of every feature or token}, in JAX.
      score: (configuration, what the model made of examples) -> {metric: value}, on the host.
      decode: (configuration, what the model made of examples) -> for each example what to tell the
        user, as JSON.
      calibrate: (configuration, what it made of the evaluation's examples) -> the configuration
        with thresholds that suit them; None = there are none.
      metrics: {metric: whether more is better}; the first is the one to select models by.
      full_score: what is perfect by one of which more is better.
      problem_type: what a model's config.json says of it; None = it has no word for it.
      labelled: whether it needs labels.
      label_layout: what has a label: an "example", "token", "span" or "choice", see `Tokenized`.
      smooths_labels: whether label smoothing has a meaning.
      options: what it was made with, a `TaskOptions`; None for tasks that have none.
      bind: (task, tokenizer) -> the task for models with that tokenizer; None = for any.

    Example:
      >>> from jaxbert.tasks import TASKS
      >>> regression = TASKS["text-regression"]
      >>> list(regression.metrics), regression.label_layout
      (['mse', 'pearson', 'spearman'], 'example')
    """

    name: str
    head: type[Any]
    columns: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    signatures: tuple[frozenset[str], ...] = ()
    read: Callable[..., Examples]
    encode: Callable[..., Tokenized]
    target: Callable[[Examples], Mapping[str, Any]]
    configure: Callable[[EncoderConfig, Examples], EncoderConfig]
    weigh: Callable[[Examples], Examples] = lambda examples: examples
    prepare: Callable[[Batch, jax.Array], Batch] | None = None
    loss: Callable[[Any, Batch, float], SumAndCount]
    results: Callable[[Any, Batch], Mapping[str, Array]] = logits_of
    score: Callable[[EncoderConfig, Predicted], dict[str, float]]
    decode: Callable[[EncoderConfig, Predicted], list[dict[str, Any]]]
    calibrate: Callable[[EncoderConfig, Predicted], EncoderConfig] | None = None
    metrics: Mapping[str, bool]
    full_score: float = 1.0
    problem_type: str | None = None
    labelled: bool = True
    label_layout: str = "example"
    smooths_labels: bool = True
    options: Any = None
    bind: Callable[[Task, Any], Task] | None = None

    @property
    def key(self) -> Hashable:
        """Equal for tasks whose steps compile to the same."""
        return (self.name, self.prepare, self.loss, self.results)

    @property
    def settings(self) -> tuple[tuple[str, Any], ...]:
        """(name, value) of the options that a model is to be used with as it was trained."""
        return () if self.options is None else tuple(self.options.of_use().items())

    @property
    def result_layout(self) -> str:
        """What has a result: a "token", or an "example"."""
        return "token" if self.label_layout in ("token", "span") else "example"

    def bound(self, tokenizer: Any) -> Task:
        """The task for models with that tokenizer."""
        return self if self.bind is None else self.bind(self, tokenizer)

    def prepared(self, batch: Batch, key: jax.Array) -> Batch:
        """The batch as the model reads it."""
        return batch if self.prepare is None else self.prepare(batch, key)

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
        if examples is not None:  # of which there will be other thresholds
            config = self.configure(dataclasses.replace(config, thresholds=()), examples)
        return dataclasses.replace(config, problem_type=self.problem_type)

    def check_labels(self, config: EncoderConfig, examples: Examples) -> None:
        """InputError unless labels are there and mean what the model's do."""
        if examples.labels is None and self.labelled:
            raise InputError(f"{examples.source}: evaluation needs labels")
        if examples.task not in (None, self.name):
            raise InputError(
                f"the model is for {self.name}, the labels of {examples.source} are for "
                f"{examples.task}"
            )
        self.configure(config, examples)
