"""`OptimizerConfig`: everything that decides how fast each parameter moves, and when.

Imports no jax: the command line makes its flags of the fields.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from jaxbert.errors import InputError
from jaxbert.settings import build, is_number, setting

OPTIMIZERS = ("adamw", "adafactor", "lamb", "lion", "sgd")
# The keys of `schedules.SCHEDULES` and `layers.CONVENTIONS`, which need jax.
SCHEDULE_NAMES = (
    "constant",
    "linear",
    "cosine",
    "cosine-restarts",
    "polynomial",
    "inverse-sqrt",
    "one-cycle",
    "triangular",
    "triangular2",
    "exp-range",
    "slanted-triangular",
    "warmup-stable-decay",
)
CONVENTION_NAMES = ("standard", "sun2019", "electra")
DEFAULT_STRATEGY = "discriminative"
Rows = tuple[tuple[str, float], ...]

_GROUP = "learning rates"
_rate = functools.partial(setting, group=_GROUP)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer of a run: frozen, hashable, and JSON both ways.

    `json.dumps(dataclasses.asdict(config))` writes it, `OptimizerConfig.from_dict` reads it. What a
    field means stands in its help, and in `jaxbert finetune --help`. Where it says rows, a mapping
    or lists (as TOML and JSON have them) become tuples. A pattern in a row is a regex for a whole
    label (`layer_3`, `layer_[0-2]`, `head`) or a whole path (`.*/bias`); the first row that matches
    a leaf decides, and a row that decides nothing is an error later on.

    Adafactor takes the learning rate as an absolute step size too. An epsilon of 1e-6 is BERT's
    own: it keeps leaves whose gradient is rounding noise (attention's key bias) from moving. A
    frozen leaf has no moments and no part in the clipping norm.

    Raises:
      InputError: on construction, naming every bad value.

    Example:
      >>> config = OptimizerConfig(learning_rate=3e-5, layer_decay=0.9, frozen=["embeddings"])
      >>> config.frozen, config.schedule
      (('embeddings',), 'linear')
      >>> OptimizerConfig.from_dict({"learning_rate": 0, "layer_decay": 0.9})
      Traceback (most recent call last):
      jaxbert.errors.InputError: optimizer: learning_rate=0 must be a positive number
    """

    optimizer: str = _rate("what turns a gradient into a step", default="adamw", choices=OPTIMIZERS)
    learning_rate: float = _rate("peak learning rate, for multiplier 1", default=5e-5)
    schedule: str = _rate(
        "course of the rate over the run", default="linear", choices=SCHEDULE_NAMES
    )
    schedule_options: Rows = setting(
        "(option, number) rows for that schedule", default=(), group=_GROUP
    )
    warmup: float | None = _rate(
        "below 1: a share of all steps; from 1: steps; none = the schedule's own", default=None
    )
    layer_decay: float = _rate(
        "d in (0, 1]: the rate of a layer is d times that of the layer above", default=1.0
    )
    convention: str = _rate(
        "where the counting of layers starts", default="standard", choices=CONVENTION_NAMES
    )
    head_multiplier: float = _rate("factor on the head's rate", default=1.0)
    multipliers: Rows = setting(
        "(pattern, multiplier) rows in place of the multipliers by depth and of the head",
        default=(),
        group=_GROUP,
    )
    frozen: tuple[str, ...] = _rate(
        "group (embeddings, layer_0, ...) or pattern that never moves; repeatable",
        default=(),
        flag="--freeze",
        metavar="GROUP",
    )
    unfreezing: float | Rows = setting(
        "epochs from one group's awakening to the next, from the top down; 0 = all at once "
        "(in a file also (pattern, epoch) rows; what they do not match wakes at once)",
        default=0.0,
        metavar="EPOCHS",
        group=_GROUP,
    )
    reinitialize_layers: int = _rate(
        "how many top layers, with the pooler, start from fresh initial values",
        default=0,
        metavar="N",
        aliases=("reinitialise_layers",),
    )
    weight_decay: float = _rate(
        "decoupled, times the learning rate; not on biases and LayerNorm", default=0.01
    )
    clip_norm: float | None = _rate(
        "largest norm of the gradient of all that moves; none = no clipping", default=1.0
    )
    beta1: float = _rate("of adamw, lamb, lion; the momentum of sgd", default=0.9)
    beta2: float | None = _rate(
        "of adamw, lamb, lion; none = 0.999, and 0.99 for lion", default=None
    )
    epsilon: float = _rate("of adamw and lamb, outside the root", default=1e-6)
    bias_correction: bool = _rate("of adamw and lamb; Google's BERT has none", default=True)

    def __post_init__(self) -> None:
        for name in ("schedule_options", "multipliers", "frozen", "unfreezing"):
            object.__setattr__(self, name, _as_tuples(getattr(self, name)))
        problems = _problems(self)
        if problems:
            raise InputError("optimizer: " + "; ".join(problems))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> OptimizerConfig:
        """The inverse of `dataclasses.asdict`, also after JSON or TOML, and of earlier versions.

        Raises:
          InputError: unknown keys, all named; bad values.
        """
        return build(cls, fields, "optimizer")


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
    "convention": (
        lambda v: v in CONVENTION_NAMES,
        f"one of {', '.join(CONVENTION_NAMES)}",
    ),
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
    "reinitialize_layers": (
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
    from jaxbert.optim.schedules import schedule_problems  # jax, which a flag does without

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


# field: the optimizers that it means something to
_USED_BY = {
    "beta1": ("adamw", "lamb", "lion", "sgd"),
    "beta2": ("adamw", "lamb", "lion"),
    "epsilon": ("adamw", "lamb"),
    "bias_correction": ("adamw", "lamb"),
}


def _unused(config: OptimizerConfig) -> list[str]:
    """Settings that the chosen optimizer would silently ignore."""
    default = {field.name: field.default for field in fields(config)}
    return [
        f"{name}={getattr(config, name)!r} has no meaning for {config.optimizer!r}"
        for name, optimizers in _USED_BY.items()
        if config.optimizer in OPTIMIZERS
        and config.optimizer not in optimizers
        and getattr(config, name) != default[name]
    ]
