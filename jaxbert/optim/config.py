"""`OptimizerConfig`: everything that decides how fast each parameter moves, and when."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxbert.optim.layers import CONVENTIONS
from jaxbert.optim.schedules import is_number, schedule_problems

OPTIMIZERS = ("adamw", "adafactor", "lamb", "lion", "sgd")
Rows = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer of a run: frozen, hashable, and JSON both ways.

    `json.dumps(dataclasses.asdict(config))` writes it, `OptimizerConfig.from_dict` reads it. Where
    it says rows, a mapping or lists (as TOML and JSON have them) become tuples. A pattern in a row
    is a regex for a whole label (`layer_3`, `layer_[0-2]`, `head`) or a whole path (`.*/bias`); the
    first row that matches a leaf decides, and a row that decides nothing is an error later on.

    Attributes:
      optimizer: one of `OPTIMIZERS`.
      learning_rate: the peak, for multiplier 1. Adafactor takes it as an absolute step size too.
      schedule: a key of `schedules.SCHEDULES`.
      schedule_options: (option, number) rows for that schedule.
      warmup: below 1 a fraction of all steps, from 1 a number of steps; None = the schedule's own.
      layer_decay: d in (0, 1]; the learning rate of a layer is d times that of the layer above.
      convention: a key of `layers.CONVENTIONS`: where that counting starts.
      head_multiplier: the head's.
      multipliers: (pattern, multiplier) rows that replace the multipliers of the two lines above.
      frozen: patterns of what never moves: no moments, no part in the clipping norm.
      unfreezing: a number = epochs from one group's awakening to the next, from the top down
        (0 = all at once); or (pattern, epoch) rows, unmatched leaves at epoch 0.
      reinitialise_layers: how many top layers, with the pooler, start from fresh initial values.
      weight_decay: decoupled, times the learning rate; not on biases and LayerNorm.
      clip_norm: the largest norm of the gradient of all that moves; None = no clipping.
      beta1: of Adam, LAMB, Lion; SGD's momentum.
      beta2: of Adam, LAMB, Lion; None = 0.999, and 0.99 for Lion.
      epsilon: of Adam and LAMB, outside the root. 1e-6 is BERT's own, and keeps leaves whose
        gradient is rounding noise (attention's key bias) from moving.
      bias_correction: of Adam and LAMB; False = as Google's BERT.

    Raises:
      ValueError: on construction, naming every bad value.
    """

    optimizer: str = "adamw"
    learning_rate: float = 5e-5
    schedule: str = "linear"
    schedule_options: Rows = ()
    warmup: float | None = None
    layer_decay: float = 1.0
    convention: str = "standard"
    head_multiplier: float = 1.0
    multipliers: Rows = ()
    frozen: tuple[str, ...] = ()
    unfreezing: float | Rows = 0.0
    reinitialise_layers: int = 0
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    beta1: float = 0.9
    beta2: float | None = None
    epsilon: float = 1e-6
    bias_correction: bool = True

    def __post_init__(self) -> None:
        for name in ("schedule_options", "multipliers", "frozen", "unfreezing"):
            object.__setattr__(self, name, _as_tuples(getattr(self, name)))
        problems = _problems(self)
        if problems:
            raise ValueError("optimizer: " + "; ".join(problems))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> OptimizerConfig:
        """The inverse of `dataclasses.asdict`, also after JSON or TOML.

        Raises:
          ValueError: unknown keys, all named; bad values.
        """
        check_keys("optimizer", fields, [field.name for field in dataclasses.fields(cls)])
        return cls(**fields)


def check_keys(what: str, given: Mapping[str, Any], known: list[str]) -> None:
    """Raises ValueError naming every unknown key and all the known ones."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{what}: unknown {', '.join(unknown)}; known are {', '.join(known)}")


def _as_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        value = list(value.items())
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def _is_rows(value: Any, good: Callable[[float], bool] = lambda v: True) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(row, tuple)
        and len(row) == 2
        and isinstance(row[0], str)
        and is_number(row[1])
        and good(row[1])
        for row in value
    )


def _at_least_zero(value: Any) -> bool:
    return is_number(value) and value >= 0


def _positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_momentum(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1


# field: (whether a value is good, what is wanted)
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "optimizer": (lambda v: v in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
    "learning_rate": (_positive, "a positive number"),
    "schedule_options": (_is_rows, "rows of (option, number)"),
    "layer_decay": (lambda v: _positive(v) and v <= 1, "a number in (0, 1]"),
    "convention": (lambda v: v in tuple(CONVENTIONS), f"one of {', '.join(CONVENTIONS)}"),
    "head_multiplier": (_positive, "a positive number"),
    "multipliers": (
        lambda v: _is_rows(v, _positive),
        "rows of (pattern, number > 0); to keep a group still, freeze it",
    ),
    "frozen": (
        lambda v: isinstance(v, tuple) and all(isinstance(p, str) for p in v),
        "a list of patterns",
    ),
    "unfreezing": (
        lambda v: _at_least_zero(v) or _is_rows(v, _at_least_zero),
        "a number of epochs >= 0, or rows of (pattern, epoch >= 0)",
    ),
    "reinitialise_layers": (
        lambda v: _at_least_zero(v) and isinstance(v, int),
        "a whole number, at least 0",
    ),
    "weight_decay": (_at_least_zero, "a number, at least 0"),
    "clip_norm": (lambda v: v is None or _positive(v), "a positive number or None"),
    "beta1": (_is_momentum, "a number in [0, 1)"),
    "beta2": (lambda v: v is None or _is_momentum(v), "a number in [0, 1) or None"),
    "epsilon": (_positive, "a positive number"),
    "bias_correction": (lambda v: isinstance(v, bool), "True or False"),
}


def _problems(config: OptimizerConfig) -> list[str]:
    bad = {
        name: wanted for name, (good, wanted) in _CHECKS.items() if not good(getattr(config, name))
    }
    problems = [f"{name}={getattr(config, name)!r} must be {bad[name]}" for name in bad]
    options = {} if "schedule_options" in bad else dict(config.schedule_options)
    problems += schedule_problems(config.schedule, config.warmup, options)
    for name in ("multipliers", "frozen", "unfreezing"):
        problems += [] if name in bad else _pattern_problems(name, getattr(config, name))
    return problems + _unused(config)


def _pattern_problems(name: str, value: Any) -> list[str]:
    rows = value if isinstance(value, tuple) else ()
    problems = []
    for row in rows:
        pattern = row if isinstance(row, str) else row[0]
        try:
            re.compile(pattern)
        except re.error as error:
            problems.append(f"{name}: {pattern!r} is no regular expression ({error})")
    return problems


def _unused(config: OptimizerConfig) -> list[str]:
    """Settings that the chosen optimizer would silently ignore."""
    problems = []
    if not config.bias_correction and config.optimizer not in ("adamw", "lamb"):
        problems.append(f"bias_correction=False has no meaning for {config.optimizer!r}")
    if config.beta2 is not None and config.optimizer not in ("adamw", "lamb", "lion"):
        problems.append(f"beta2={config.beta2!r} has no meaning for {config.optimizer!r}")
    return problems
