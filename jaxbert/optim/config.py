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

SCHEDULE_FREE = "schedule-free-adamw"
OPTIMIZERS = ("adamw", "adafactor", "lamb", "lion", "sgd", SCHEDULE_FREE, "muon")
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
# Fields that are off at 0, and ask for more than a step of an optimizer.
METHODS = ("anchor_decay", "mixout", "sam_radius", "ema_decay", "lora_rank")
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
    beta1: float = _rate(
        "of adamw, lamb, lion; the momentum of sgd and muon; schedule-free's weight of its average",
        default=0.9,
    )
    beta2: float | None = _rate(
        "of adamw, lamb, lion, and the Adam in the others; none = 0.999, and 0.99 for lion",
        default=None,
    )
    epsilon: float = _rate("of every Adam, outside the root", default=1e-6)
    bias_correction: bool = _rate("of adamw and lamb; Google's BERT has none", default=True)
    anchor_decay: float = _rate(
        "L2-SP: decay of all but the head towards its start, in place of that towards zero",
        default=0.0,
    )
    mixout: float = _rate(
        "share of a matrix's rows that a step computes with as they were at the start", default=0.0
    )
    sam_radius: float = _rate(
        "SAM: how far uphill a step takes its gradient, at twice the work", default=0.0
    )
    ema_decay: float = _rate(
        "of a moving average of the weights, which is evaluated and saved instead; 0 = none",
        default=0.0,
    )
    lora_rank: int = _rate(
        "LoRA: rank of what lora_targets may change by; 0 = any; freeze the rest", default=0
    )
    lora_alpha: float = _rate("that change is times lora_alpha / lora_rank", default=8.0)
    lora_targets: tuple[str, ...] = _rate(
        "pattern of the matrices that change by a low rank; repeatable",
        default=(r".*/attention/(query|value|query_key_value)/kernel",),
        metavar="PATTERN",
    )

    def __post_init__(self) -> None:
        for name in ("schedule_options", "multipliers", "frozen", "unfreezing", "lora_targets"):
            object.__setattr__(self, name, _as_tuples(getattr(self, name)))
        problems = _problems(self)
        if problems:
            raise InputError("optimizer: " + "; ".join(problems))

    @property
    def methods(self) -> dict[str, float]:
        """{field: value} of what is in use of `METHODS`.

        Example:
          >>> OptimizerConfig(ema_decay=0.99).methods
          {'ema_decay': 0.99}
        """
        return {name: value for name in METHODS if (value := getattr(self, name))}

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


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1


def _is_patterns(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(pattern, str) for pattern in value)


def _is_count(value: Any) -> bool:
    return _at_least_zero(value) and isinstance(value, int)


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
    "frozen": (_is_patterns, "a list of patterns"),
    "unfreezing": (
        lambda v: _at_least_zero(v) or _is_rows(v, _at_least_zero),
        "a number of epochs >= 0, or rows of (pattern, epoch >= 0)",
    ),
    "reinitialize_layers": (_is_count, "a whole number, at least 0"),
    "weight_decay": (_at_least_zero, "a number, at least 0"),
    "clip_norm": (lambda v: v is None or _positive(v), "a positive number or None"),
    "beta1": (_is_share, "a number in [0, 1)"),
    "beta2": (lambda v: v is None or _is_share(v), "a number in [0, 1) or None"),
    "epsilon": (_positive, "a positive number"),
    "bias_correction": (lambda v: isinstance(v, bool), "True or False"),
    "anchor_decay": (_at_least_zero, "a number, at least 0"),
    "mixout": (_is_share, "a number in [0, 1)"),
    "sam_radius": (_at_least_zero, "a number, at least 0"),
    "ema_decay": (_is_share, "a number in [0, 1)"),
    "lora_rank": (_is_count, "a whole number, at least 0"),
    "lora_alpha": (_positive, "a positive number"),
    "lora_targets": (lambda v: _is_patterns(v) and len(v) > 0, "a list of patterns, one at least"),
}


def _problems(config: OptimizerConfig) -> list[str]:
    from jaxbert.optim.schedules import schedule_problems  # jax, which a flag does without

    bad = {
        name: wanted for name, (good, wanted) in _CHECKS.items() if not good(getattr(config, name))
    }
    problems = [f"{name}={getattr(config, name)!r} must be {bad[name]}" for name in bad]
    options = {} if "schedule_options" in bad else dict(config.schedule_options)
    problems += schedule_problems(config.schedule, config.warmup, options)
    for name in ("multipliers", "frozen", "unfreezing", "lora_targets"):
        problems += [] if name in bad else _pattern_problems(name, getattr(config, name))
    return problems + _unused(config) + ([] if bad else _conflicts(config))


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
    "beta1": ("adamw", "lamb", "lion", "sgd", SCHEDULE_FREE, "muon"),
    "beta2": ("adamw", "lamb", "lion", SCHEDULE_FREE, "muon"),
    "epsilon": ("adamw", "lamb", SCHEDULE_FREE, "muon"),
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


# Two fields, or an optimizer and a field: why they do not go together.
_EXCLUSIVE = (
    (SCHEDULE_FREE, "ema_decay", "both average the weights"),
    (SCHEDULE_FREE, "unfreezing", "its average would hold weights from before a group woke"),
    ("sam_radius", "unfreezing", "uphill would lead through groups that sleep"),
    ("lora_rank", "anchor_decay", "what starts at zero has no other start to decay to"),
    ("lora_rank", "mixout", "the factors do not exist at the start"),
    ("lora_rank", "sam_radius", "uphill would leave what a low rank can reach"),
    ("lora_rank", SCHEDULE_FREE, "an average of products is no product of averages"),
    ("lora_rank", "muon", "it would make a factor orthogonal, not the matrix"),
)


def _conflicts(config: OptimizerConfig) -> list[str]:
    """Settings that contradict each other; all values are good by themselves."""
    on = {config.optimizer, *config.methods} | ({"unfreezing"} if config.unfreezing else set())
    problems = [
        f"{one} and {other} do not go together: {why}"
        for one, other, why in _EXCLUSIVE
        if {one, other} <= on
    ]
    if config.optimizer == SCHEDULE_FREE and config.beta1 == 0:
        problems.append(f"beta1=0 leaves {SCHEDULE_FREE!r} no average: want more than 0")
    default = {field.name: field.default for field in fields(config)}
    idle = [n for n in ("lora_alpha", "lora_targets") if getattr(config, n) != default[n]]
    if idle and not config.lora_rank:
        problems.append(f"{', '.join(idle)} without lora_rank: give it, 8 for one")
    return problems
