"""What models are fine-tuned for: one file and one row a task."""

from typing import TYPE_CHECKING

from jaxbert.lazy import lazy

if TYPE_CHECKING:
    from jaxbert.tasks.options import TaskOptions
    from jaxbert.tasks.registry import (
        TASKS,
        TEXT_CLASSIFICATION,
        TEXT_REGRESSION,
        abstract_model,
        choose_task,
        columns_of_task,
        get_task,
        load_examples,
        load_model,
        task_class,
        task_of,
    )
    from jaxbert.tasks.task import Predicted, Task

_HOMES = {
    "jaxbert.tasks.options": ("TaskOptions",),
    "jaxbert.tasks.registry": (
        "TASKS",
        "TEXT_CLASSIFICATION",
        "TEXT_REGRESSION",
        "abstract_model",
        "choose_task",
        "columns_of_task",
        "get_task",
        "load_examples",
        "load_model",
        "task_class",
        "task_of",
    ),
    "jaxbert.tasks.task": ("Predicted", "Task"),
}

__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
