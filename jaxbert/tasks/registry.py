"""Which tasks there are, which one a model or its labels are for, and models for them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from jaxbert.data import Examples
from jaxbert.data.tables import Table, read_table
from jaxbert.errors import InputError
from jaxbert.models import Compute, EncoderConfig
from jaxbert.models.auto import FAMILIES, AutoConfig, model_class
from jaxbert.tasks.masked_lm import masked_lm
from jaxbert.tasks.multi_label import multi_label_classification
from jaxbert.tasks.multiple_choice import multiple_choice
from jaxbert.tasks.options import TaskOptions
from jaxbert.tasks.question_answering import question_answering
from jaxbert.tasks.task import Task
from jaxbert.tasks.text_classification import read_texts, text_classification, text_regression
from jaxbert.tasks.token_classification import token_classification
from jaxbert.weights.directory import model_directory, read_config
from jaxbert.weights.pretrained import LoadReport, load_pretrained

_MAKERS: tuple[Callable[[TaskOptions], Task], ...] = (
    text_classification,
    text_regression,
    multi_label_classification,
    token_classification,
    question_answering,
    multiple_choice,
    masked_lm,
)
_DEFAULT = TaskOptions()
TASKS: dict[str, Task] = {
    task.name: dataclasses.replace(task, options=_DEFAULT)
    for task in (make(_DEFAULT) for make in _MAKERS)
}
_MAKER_OF = dict(zip(TASKS, _MAKERS, strict=True))
TEXT_CLASSIFICATION, TEXT_REGRESSION = TASKS["text-classification"], TASKS["text-regression"]


def get_task(task: str | Task, options: TaskOptions | None = None) -> Task:
    """The task of that name; a task is itself.

    Args:
      options: None = as they are by default.

    Raises:
      InputError: no such name, with those there are; an option that is not this task's.

    Example:
      >>> get_task("text-classification").selection_metric(None)
      ('accuracy', True)
    """
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise InputError(f"{task=} must be one of {', '.join(TASKS)}")
    if options is None:
        return TASKS[task]
    options.check(task)
    return dataclasses.replace(_MAKER_OF[task](options), options=options)


def load_examples(
    source: Any,
    *,
    task: str | Task | None = None,
    split: str | None = None,
    label_names: Sequence[str] | None = None,
    labelled: bool | None = None,
    header: bool = True,
    options: TaskOptions | None = None,
    **columns: str | Sequence[str] | None,
) -> Examples:
    """Reads the examples of a task from a file, a `datasets` hub id, or memory.

    Args:
      source, split, header: as in `data.tables.read_table`.
      task: its name; None: the columns decide and, of texts, the labels: whole numbers and names
        are classes, a decimal point anywhere makes them regression targets, a list is of labels
        that a text has.
      label_names: the classes of the model at hand; labels are mapped onto them.
      options: of the task, where its name or the columns say which; None = as they are by default.
      labelled: whether there are labels to be read; None: of texts, if `label_column` is given.
      columns: {argument: column}; those of the task, `Task.columns`, such as `text_column`;
        `label_columns` are several, with 0 or 1 for a label each.

    Raises:
      InputError: content that cannot be used; FileNotFoundError: no such file; ConnectionError: the
        hub did not answer. All in one line.

    Example:
      >>> films = load_examples({"text": ["good", "dull"], "label": ["yes", "no"]},
      ...                       label_column="label")
      >>> films.label_names, films.labels.tolist(), films.task
      (('no', 'yes'), [1, 0], 'text-classification')
    """
    table = read_table(source, split, header=header)
    given = {argument: column for argument, column in columns.items() if column is not None}
    chosen = _task_of_table(table, given) if task is None else get_task(task)
    if chosen is not None and TASKS.get(chosen.name) is chosen:
        chosen = get_task(chosen.name, options)
    named = chosen or TEXT_CLASSIFICATION
    wanted = columns_of_task(named, given)
    if labelled is None:
        labels = {"label_column", "label_columns"}
        labelled = "label_column" not in named.columns or bool(labels & given.keys())
    read = read_texts if chosen is None else chosen.read
    return read(table, wanted, labelled=labelled, label_names=label_names)


def columns_of_task(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """{argument: column} of all that the task reads, those given by their own names.

    Raises:
      InputError: one is given that it does not read.

    Example:
      >>> columns_of_task(TEXT_CLASSIFICATION, {"text_column": "review"})["label_column"]
      'label'
    """
    foreign = [f"{name}={column!r}" for name, column in given.items() if name not in task.columns]
    if foreign:
        known = ", ".join(task.columns)
        raise InputError(
            f"task {task.name} has no {' and no '.join(foreign)}: its columns are {known}"
        )
    return {**task.columns, **given}


def _task_of_table(table: Table, given: Mapping[str, Any]) -> Task | None:
    """The task that the columns are for, or the names that they are given; None for texts."""
    there = {str(column) for column in table.columns}
    own = given.keys() - {"text_column", "label_column", "label_columns"}
    for task in TASKS.values():
        named = task.signatures and own and own <= task.columns.keys()
        if named or any(signature <= there for signature in task.signatures):
            return task
    return None


def task_class(task: Task, model_type: str) -> Any:
    """The class of that family that does the task.

    Example:
      >>> task_class(TASKS["text-regression"], "bert").__name__
      'BertForSequenceClassification'
    """
    return model_class(model_type, task.head.__name__)


def task_of(directory: Path, options: TaskOptions | None = None) -> Task | None:
    """The task that a model's config.json says it is for; None where it is for none of ours.

    Raises:
      As `weights.directory.read_config`, and `get_task`.

    Example:
      >>> import pathlib, tempfile
      >>> config = '{"model_type": "bert", "architectures": ["BertForSequenceClassification"]}'
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     _ = (pathlib.Path(directory) / "config.json").write_text(config)
      ...     task_of(pathlib.Path(directory)).name
      'text-classification'
    """
    config = read_config(directory)
    names = config.get("architectures")
    row = FAMILIES.get(str(config.get("model_type")))
    if not (isinstance(names, list) and names and row is not None):
        return None
    head, problem = str(names[0]).removeprefix(row.prefix), config.get("problem_type")
    able = [task for task in TASKS.values() if task.head.__name__ == head]
    exact = [task for task in able if problem is not None and task.problem_type == problem]
    return get_task((exact or able)[0].name, options) if able else None


def abstract_model(task: Task, config: EncoderConfig, compute: Compute | None = None) -> Any:
    """The model of that configuration that does the task, its parameters shapes: none is drawn.

    Example:
      >>> from jaxbert import AutoConfig
      >>> task = TASKS["text-classification"]
      >>> model = abstract_model(task, AutoConfig.preset("bert-large-cased"))
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
      >>> task = TASKS["text-classification"]
      >>> films = load_examples({"text": ["warm", "dull"], "label": ["good", "bad"]},
      ...                       label_column="label")
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     BertModel(config, rngs=nnx.Rngs(0)).save_pretrained(directory)
      ...     model, report = load_model(task, directory, examples=films)
      >>> model.config.id2label, report.initialized
      (('bad', 'good'), ('head/classifier/bias', 'head/classifier/kernel'))
    """
    directory = model_directory(source, revision)
    chosen = task_class(task, AutoConfig.from_pretrained(directory).model_type)
    if examples is not None:
        task.weigh(examples)  # what it refuses is refused before a model is loaded
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
    names = [task.name for task in able]
    if name not in (None, *names):
        raise InputError(
            f"the labels of {source} are for {name}, a {type(model).__name__} is trained for "
            f"{', '.join(names)}; give task=, or another model"
        )
    return able[0] if name is None else get_task(name)
