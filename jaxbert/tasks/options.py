"""What tasks can be told beside what every training is told; imports no jax."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from jaxbert.errors import InputError
from jaxbert.settings import check_choices, check_kinds, is_number, setting

TEXT_CLASSIFICATION = "text-classification"
TEXT_REGRESSION = "text-regression"
MULTI_LABEL = "multi-label-classification"
TOKEN_CLASSIFICATION = "token-classification"
QUESTION_ANSWERING = "question-answering"
MULTIPLE_CHOICE = "multiple-choice"
MASKED_LM = "masked-lm"
NAMES = (
    TEXT_CLASSIFICATION,
    TEXT_REGRESSION,
    MULTI_LABEL,
    TOKEN_CLASSIFICATION,
    QUESTION_ANSWERING,
    MULTIPLE_CHOICE,
    MASKED_LM,
)
SCHEMES = ("conll", "strict")

_task = functools.partial(setting, group="task")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Of all tasks; `OF_TASK` says which task has which, and others refuse it.

    Raises:
      InputError: a value that cannot be; names all that there are.

    Example:
      >>> TaskOptions(stride=32).stride
      32
    """

    stride: int | None = _task(
        "long texts are read in windows that share so many tokens; none = they are cut",
        default=None,
        metavar="TOKENS",
    )
    class_weights: str | None = _task(
        "how much classes count in the loss: balanced, or NAME=WEIGHT,...",
        default=None,
        metavar="WEIGHTS",
    )
    scheme: str = _task(
        "how tags make entities: as conlleval reads them, or IOB2 to the letter",
        default="conll",
        choices=SCHEMES,
    )
    doc_stride: int | None = _task(
        "tokens that windows of a context share; none = 128, or a third of --max-length",
        default=None,
        metavar="TOKENS",
    )
    max_answer_length: int = _task("tokens of the longest answer", default=30)
    n_best: int = _task("answers given for a question", default=1)
    null_threshold: float | None = _task(
        "how much likelier than the best answer none must be; none = tuned on --eval", default=None
    )
    mask_probability: float = _task("share of the words that are to be told", default=0.15)
    whole_words: bool = _task("mask whole words", default=False)

    def __post_init__(self) -> None:
        check_kinds(self)
        check_choices(self)
        least = {"stride": 0, "doc_stride": 0, "max_answer_length": 1, "n_best": 1}
        problems = [
            f"{name}={value} must be at least {low}"
            for name, low in least.items()
            if (value := getattr(self, name)) is not None and value < low
        ]
        if not (is_number(self.mask_probability) and 0 < self.mask_probability < 1):
            problems.append(f"mask_probability={self.mask_probability} must be between 0 and 1")
        if problems:
            raise InputError("; ".join(problems))

    def given(self) -> dict[str, Any]:
        """Those that are not as they are by default.

        Example:
          >>> TaskOptions(stride=32).given()
          {'stride': 32}
        """
        defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(self)}
        return {
            name: value
            for name, default in defaults.items()
            if (value := getattr(self, name)) != default
        }

    def of_use(self) -> dict[str, Any]:
        """Of those given, what matters to a model at work too, and is not kept in another way."""
        return {name: v for name, v in self.given().items() if name not in _OF_TRAINING}

    def check(self, task: str) -> None:
        """InputError of every value that is set and has no meaning for a task of that name."""
        foreign = [
            f"{name}={value!r} is for {' and '.join(_tasks_with(name))}"
            for name, value in self.given().items()
            if name not in OF_TASK.get(task, ())
        ]
        if foreign:
            raise InputError(f"task {task}: {'; '.join(foreign)}; leave it out")


OF_TASK: dict[str, tuple[str, ...]] = {
    TEXT_CLASSIFICATION: ("stride", "class_weights"),
    TEXT_REGRESSION: ("stride",),
    MULTI_LABEL: ("stride",),
    TOKEN_CLASSIFICATION: ("stride", "scheme"),
    QUESTION_ANSWERING: ("doc_stride", "max_answer_length", "n_best", "null_threshold"),
    MULTIPLE_CHOICE: (),
    MASKED_LM: ("mask_probability", "whole_words"),
}
# A null threshold is a threshold like those that are tuned, and stands with them.
_OF_TRAINING = ("class_weights", "null_threshold")


def _tasks_with(name: str) -> list[str]:
    return [task for task, names in OF_TASK.items() if name in names]
