"""`TrainConfig`: everything that decides how a run trains, apart from its model and its data.

Imports no jax: the command line makes its flags of the fields.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from jaxbert.errors import InputError
from jaxbert.optim.config import DEFAULT_STRATEGY, OptimizerConfig
from jaxbert.settings import build, is_number, setting

SETTINGS = "finetune.json"  # in a run's directory: the options of `finetune`, for --resume
LARGEST_SEED = 2**32 - 1  # a key is made of 32 bits
LAYOUTS = ("packed", "bucketed", "padded")
ENGINES = ("jit", "pmap", "mesh")  # those of `make_engine`, which needs jax
# Of `embed`.
POOLINGS = ("mean", "first", "pooler", "max", "last", "mean-sqrt-length", "weighted-mean")

_training = functools.partial(setting, group="training")
_hardware = functools.partial(setting, group="hardware")
_run = functools.partial(setting, group="run")


def _default_optimizer() -> OptimizerConfig:
    from jaxbert.optim.strategies import get_strategy

    return get_strategy(DEFAULT_STRATEGY).config()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a run trains: frozen, and JSON both ways (`dataclasses.asdict`, `from_dict`).

    What a field means stands in its help, and in `jaxbert finetune --help`. `batch_size` is the
    examples in an update: accumulation, packing and devices divide it, and never change it. Layout
    and engine change speed and nothing else. Texts that `max_length` cuts are counted. `optimizer`
    is learning rates and all else of the update.

    Raises:
      InputError: on construction, naming every bad value.

    Example:
      >>> config = TrainConfig(epochs=2, batch_size=16)
      >>> TrainConfig.from_dict(dataclasses.asdict(config)) == config
      True
      >>> TrainConfig(layout="square")
      Traceback (most recent call last):
      jaxbert.errors.InputError: training: layout='square' must be one of packed, bucketed, padded
    """

    epochs: int = _training("passes over the training examples", default=3)
    batch_size: int = _training(
        "examples in a batch, of all devices; an update takes one", default=32
    )
    eval_batch_size: int | None = _training(
        "examples in a batch of evaluation; none = as many", default=None
    )
    max_length: int = _training("tokens kept of an example", default=128)
    seed: int = _training("of the order of examples, dropout and new parameters", default=0)
    layout: str = _hardware(
        "how examples share rows: speed, and nothing else", default="packed", choices=LAYOUTS
    )
    parallel: str = _hardware(
        "jit: one device; pmap, mesh: all of them", default="jit", choices=ENGINES
    )
    mesh: str | None = _hardware(
        "for mesh, devices along its axes, as in data=4,fsdp=2; left out, all along fsdp",
        default=None,
        metavar="AXES",
    )
    accumulation: int = _hardware(
        "parts an update is computed in, one after the other: less memory", default=1
    )
    label_smoothing: float = _training("in [0, 1), for classes", default=0.0)
    eval_every: int | None = _training(
        "steps between evaluations; none = once an epoch", default=None, metavar="STEPS"
    )
    metric: str | None = _training(
        "score by which the best model is chosen; left out, the task's own", default=None
    )
    patience: int | None = _training(
        "evaluations without gain after which training stops; none = never",
        default=None,
        metavar="N",
    )
    checkpoint_every: int | None = _run(
        "steps between checkpoints; none = at each evaluation", default=None, metavar="STEPS"
    )
    keep_checkpoints: int = _run("how many of the newest stay", default=2, metavar="N")
    log_every: int = _run("steps between lines of metrics.jsonl", default=10, metavar="STEPS")
    optimizer: OptimizerConfig = dataclasses.field(default_factory=_default_optimizer)

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)!r} must be a whole number, at least {least}"
            for name, least in _LEAST.items()
            if not _is_count(getattr(self, name), least, optional=name in _OPTIONAL)
        ]
        if not (is_number(self.label_smoothing) and 0 <= self.label_smoothing < 1):
            problems.append(f"label_smoothing={self.label_smoothing!r} must be in [0, 1)")
        if isinstance(self.seed, int) and self.seed > LARGEST_SEED:
            problems.append(f"seed={self.seed} must be a whole number, at most {LARGEST_SEED}")
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
            raise InputError("training: " + "; ".join(problems))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `dataclasses.asdict`, also after JSON or TOML.

        Raises:
          InputError: unknown keys, all named; bad values.
        """
        return build(cls, fields, "training")


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
