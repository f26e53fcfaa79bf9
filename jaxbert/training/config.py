"""`TrainConfig`: everything that decides how a run trains, apart from its model and its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxbert.optim import OptimizerConfig
from jaxbert.optim.config import check_keys
from jaxbert.optim.schedules import is_number
from jaxbert.optim.strategies import DEFAULT_STRATEGY, get_strategy
from jaxbert.training.parallel import ENGINES

LAYOUTS = ("packed", "bucketed", "padded")


def _default_optimizer() -> OptimizerConfig:
    return get_strategy(DEFAULT_STRATEGY).config()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a run trains: frozen, and JSON both ways (`dataclasses.asdict`, `from_dict`).

    Attributes:
      epochs: passes over the training set.
      batch_size: examples in an update; accumulation and packing divide it, never change it.
      eval_batch_size: examples in a batch of evaluation and prediction; None = `batch_size`.
      max_length: tokens of an example; longer texts are cut, and counted.
      seed: of the order of examples, of dropout, and of new parameters.
      layout: how examples share rows, see `data.Batches`; changes speed and nothing else.
      parallel: "jit" on one device, "pmap" or "mesh" on all, see `parallel`; changes nothing else.
      mesh: for "mesh", devices along its axes, as in "data=4,fsdp=2"; None = all along data.
      accumulation: parts a batch is computed in, one after the other: less memory.
      label_smoothing: in [0, 1).
      eval_every: steps between evaluations; None = once an epoch.
      metric: by which the best model is chosen; None = the problem's own.
      patience: evaluations without improvement after which training stops; None = never.
      checkpoint_every: steps between checkpoints; None = at each evaluation.
      keep_checkpoints: how many of the newest stay.
      log_every: steps between lines of metrics.jsonl.
      optimizer: learning rates and all else of the update.

    Raises:
      ValueError: on construction, naming every bad value.
    """

    epochs: int = 3
    batch_size: int = 32
    eval_batch_size: int | None = None
    max_length: int = 128
    seed: int = 0
    layout: str = "packed"
    parallel: str = "jit"
    mesh: str | None = None
    accumulation: int = 1
    label_smoothing: float = 0.0
    eval_every: int | None = None
    metric: str | None = None
    patience: int | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2
    log_every: int = 10
    optimizer: OptimizerConfig = dataclasses.field(default_factory=_default_optimizer)

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)!r} must be a whole number, at least {least}"
            for name, least in _LEAST.items()
            if not _is_count(getattr(self, name), least, optional=name in _OPTIONAL)
        ]
        if not (is_number(self.label_smoothing) and 0 <= self.label_smoothing < 1):
            problems.append(f"label_smoothing={self.label_smoothing!r} must be in [0, 1)")
        if self.layout not in LAYOUTS:
            problems.append(f"layout={self.layout!r} must be one of {', '.join(LAYOUTS)}")
        if self.parallel not in ENGINES:
            problems.append(f"parallel={self.parallel!r} must be one of {', '.join(ENGINES)}")
        if not (self.mesh is None or (isinstance(self.mesh, str) and self.parallel == "mesh")):
            problems.append(f"mesh={self.mesh!r} must be None, or a text beside parallel='mesh'")
        if not (self.metric is None or isinstance(self.metric, str)):
            problems.append(f"metric={self.metric!r} must be a name or None")
        if not isinstance(self.optimizer, OptimizerConfig):
            problems.append(f"optimizer={self.optimizer!r} must be an OptimizerConfig")
        if problems:
            raise ValueError("training: " + "; ".join(problems))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `dataclasses.asdict`, also after JSON or TOML.

        Raises:
          ValueError: unknown keys, all named; bad values.
        """
        check_keys("training", fields, [field.name for field in dataclasses.fields(cls)])
        given = dict(fields)
        if isinstance(given.get("optimizer"), Mapping):
            given["optimizer"] = OptimizerConfig.from_dict(given["optimizer"])
        return cls(**given)


def _is_count(value: Any, least: int, *, optional: bool) -> bool:
    if value is None:
        return optional
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# Where None stands for something.
_OPTIONAL = ("eval_batch_size", "eval_every", "patience", "checkpoint_every")
_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "eval_batch_size": 1,
    "max_length": 3,
    "seed": 0,
    "accumulation": 1,
    "eval_every": 1,
    "patience": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
    "log_every": 1,
}
