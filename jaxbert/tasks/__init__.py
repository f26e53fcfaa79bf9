"""What models are fine-tuned for: one row a task."""

from __future__ import annotations

import os
from typing import Any

from flax import nnx

from jaxbert.data import Examples
from jaxbert.errors import InputError
from jaxbert.models import Compute, EncoderConfig
from jaxbert.models.auto import AutoConfig, model_class
from jaxbert.tasks.task import Task
from jaxbert.tasks.text_classification import (
    TEXT_CLASSIFICATION,
    TEXT_REGRESSION,
    load_examples,
)
from jaxbert.weights.directory import model_directory
from jaxbert.weights.pretrained import LoadReport, load_pretrained

__all__ = [
    "TASKS",
    "TEXT_CLASSIFICATION",
    "TEXT_REGRESSION",
    "Task",
    "abstract_model",
    "choose_task",
    "get_task",
    "load_examples",
    "load_model",
    "task_class",
]

TASKS: dict[str, Task] = {task.name: task for task in (TEXT_CLASSIFICATION, TEXT_REGRESSION)}


def get_task(task: str | Task) -> Task:
    """The task of that name; a task is itself.

    Raises:
      InputError: no such name; lists those there are.

    Example:
      >>> get_task("text-classification").selection_metric(None)
      ('accuracy', True)
    """
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise InputError(f"{task=} must be one of {', '.join(TASKS)}")
    return TASKS[task]


def task_class(task: Task, model_type: str) -> Any:
    """The class of that family that does the task.

    Example:
      >>> task_class(TEXT_REGRESSION, "bert").__name__
      'BertForSequenceClassification'
    """
    return model_class(model_type, task.head.__name__)


def abstract_model(task: Task, config: EncoderConfig, compute: Compute | None = None) -> Any:
    """The model of that configuration that does the task, its parameters shapes: none is drawn.

    Example:
      >>> from jaxbert import AutoConfig
      >>> model = abstract_model(TEXT_CLASSIFICATION, AutoConfig.preset("bert-large-cased"))
      >>> model.encoder.embeddings.word_embeddings.embedding.shape
      (28996, 1024)
    """
    build = task_class(task, config.model_type)
    return nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0), compute=compute))


def load_model(
    task: Task,
    source: str | os.PathLike[str],
    *,
    examples: Examples | None = None,
    revision: str | None = None,
    **options: Any,
) -> tuple[Any, LoadReport]:
    """(the model of a directory or hub id that does the task, what was drawn anew and unused).

    Args:
      examples: to train on: the model gets a head for their labels. None = as it is.
      options: as of `from_pretrained`.

    Raises:
      As `PretrainedMixin.from_pretrained`.

    Example:
      >>> import tempfile
      >>> from flax import nnx
      >>> from jaxbert import BertConfig, BertModel
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> films = load_examples({"text": ["warm", "dull"], "label": ["good", "bad"]},
      ...                       label_column="label")
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     BertModel(config, rngs=nnx.Rngs(0)).save_pretrained(directory)
      ...     model, report = load_model(TEXT_CLASSIFICATION, directory, examples=films)
      >>> model.config.id2label, report.initialized
      (('bad', 'good'), ('head/classifier/bias', 'head/classifier/kernel'))
    """
    directory = model_directory(source, revision)
    chosen = task_class(task, AutoConfig.from_pretrained(directory).model_type)
    target = {} if examples is None else task.target(examples)
    return load_pretrained(chosen, directory, **target, **options)


def choose_task(task: str | Task | None, model: Any, examples: Examples | None = None) -> Task:
    """The task that is named, or that the model's configuration or the labels name.

    Raises:
      InputError: they name different ones, or the model cannot do it.

    Example:
      >>> from flax import nnx
      >>> from jaxbert import BertConfig, BertForSequenceClassification
      >>> config = BertConfig.preset("bert-tiny", problem_type="regression", num_labels=1)
      >>> model = nnx.eval_shape(lambda: BertForSequenceClassification(config, rngs=nnx.Rngs(0)))
      >>> choose_task(None, model).name
      'text-regression'
    """
    if task is None:
        return _decided(model, examples)
    chosen = get_task(task)
    if not isinstance(model, chosen.head):
        raise InputError(
            f"task {chosen.name} is done by a {chosen.head.__name__}, the model is a "
            f"{type(model).__name__}; load it with AutoModel{chosen.head.__name__}"
        )
    if examples is not None and examples.task not in (None, chosen.name):
        raise InputError(
            f"task {chosen.name}, but the labels of {examples.source} are for {examples.task}"
        )
    return chosen


def _decided(model: Any, examples: Examples | None) -> Task:
    able = [task for task in TASKS.values() if isinstance(model, task.head)]
    if not able:
        known = ", ".join(f"{t.name} ({t.head.__name__})" for t in TASKS.values())
        raise InputError(
            f"no task is known that a {type(model).__name__} is trained for: {known}; give task=, "
            "or another model"
        )
    problem = model.config.problem_type
    theirs, source = (None, "") if examples is None else (examples.task, examples.source)
    ours = [task.name for task in able if task.problem_type == problem] if problem else []
    if problem and not ours:
        raise InputError(
            f"the model is for {problem}, which is none of {', '.join(t.name for t in able)}; name "
            "one with task= to use it for that"
        )
    if ours and theirs not in (None, *ours):
        raise InputError(
            f"the model is for {ours[0]}, the labels of {source} are for {theirs}; name "
            "one with task="
        )
    name = ours[0] if ours else theirs
    return able[0] if name is None else get_task(name)
