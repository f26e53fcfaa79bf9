"""What the commands are told, as dataclasses: flags are made of their fields. Imports no jax.

Later sources win: defaults, the strategy, the configuration file, the flags, `--set`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxbert.cli import flags
from jaxbert.cli.data_options import Checked, Columns, Splits
from jaxbert.errors import InputError
from jaxbert.models.compute import Compute
from jaxbert.optim.config import DEFAULT_STRATEGY
from jaxbert.settings import (
    build,
    fields_of,
    modern,
    not_settings,
    part,
    part_of,
    setting,
)
from jaxbert.tasks.options import NAMES as TASKS
from jaxbert.tasks.options import TaskOptions
from jaxbert.training.config import POOLINGS, TrainConfig

T = TypeVar("T")

_model = functools.partial(setting, group="model")
_data = functools.partial(setting, group="data")
_rates = functools.partial(setting, group="learning rates")
_hardware = functools.partial(setting, group="hardware")
_run = functools.partial(setting, group="run")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateOptions(Checked):
    """Of `jaxbert lr`: a model, and how fast what of it moves."""

    model: str = _model("directory, hub id, or published name of a model", metavar="DIR_OR_ID")
    strategy: str = _rates("named strategy, which sets what follows", default=DEFAULT_STRATEGY)
    strategy_file: str | None = _rates(
        "TOML file with strategies of your own", default=None, metavar="FILE"
    )
    training: TrainConfig = part(TrainConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindOptions(RateOptions):
    """Of `jaxbert lr-find`: of `jaxbert lr`, and what to train on."""

    model: str = _model("directory or hub id of the pre-trained model", metavar="DIR_OR_ID")
    revision: str | None = _model("branch, tag or commit of a hub model", default=None)
    task: str | None = _model(
        "what the model shall do; left out, columns and labels decide", default=None, choices=TASKS
    )
    resize_token_embeddings: bool = _model(
        "give the model rows for the tokens that its tokenizer has beyond its vocabulary",
        default=False,
    )
    train: str = _data(
        "training examples: csv, tsv, jsonl, parquet, or a hub data set", metavar="FILE_OR_ID"
    )
    task_options: TaskOptions = part(TaskOptions)
    columns: Columns = part(Columns)
    splits: Splits = part(Splits)
    compute: Compute = part(Compute)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneOptions(FindOptions):
    """Of `jaxbert finetune`: everything that decides a run, resolved; JSON both ways."""

    eval: str | None = _data(
        "examples by which the best model is chosen", default=None, metavar="FILE_OR_ID"
    )
    test: tuple[str, ...] = _data(
        "labelled examples to report on; repeatable", default=(), metavar="FILE_OR_ID"
    )
    output: str = _run("directory for the run", metavar="DIR")
    push_to_hub: str | None = _run(
        "hub repository that the finished model is copied to, private where it is new",
        default=None,
        metavar="OWNER/NAME",
    )

    def __post_init__(self) -> None:
        # One file in a TOML file.
        test = (self.test,) if isinstance(self.test, str) else self.test or ()
        object.__setattr__(self, "test", test)
        super().__post_init__()

    def to_json(self) -> str:
        """As a file that `--config` reads."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferOptions(Checked):
    """Of `jaxbert evaluate`, `predict` and `embed`: which model, on which columns, how computed."""

    model: str = _model("directory or hub id", metavar="DIR_OR_ID")
    revision: str | None = _model("branch, tag or commit of a hub model", default=None)
    task: str | None = _model(
        "what the model does; left out, its configuration says", default=None, choices=TASKS
    )
    split: str | None = _data("split of hub data sets", default=None)
    task_options: TaskOptions = part(TaskOptions)
    columns: Columns = part(Columns)
    compute: Compute = part(Compute)
    training: TrainConfig = part(TrainConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions(InferOptions):
    """Of `jaxbert predict`."""

    output: str | None = _run(
        "file for the JSON lines; left out, they are printed", default=None, metavar="FILE"
    )
    overwrite: bool = _run("replace the file in --output", default=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedOptions(InferOptions):
    """Of `jaxbert embed`."""

    pooling: str | None = _model(
        "what stands for a text; left out, as the model's own files say, else the mean",
        default=None,
        choices=POOLINGS,
    )
    prompt: str | None = _model("name of one of the model's prompts", default=None)
    normalize: bool = _model("vectors of length 1", default=False)
    max_length: int | None = setting(
        "tokens kept of a text; left out, as the model's own files say",
        default=None,
        group="training",
    )
    output: str = _run("the .npy file", metavar="FILE")
    overwrite: bool = _run("replace the file in --output", default=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions(Checked):
    """Of `jaxbert export`."""

    model: str = _model("directory or hub id", metavar="DIR_OR_ID")
    revision: str | None = _model("branch, tag or commit of a hub model", default=None)
    max_length: int | None = _model(
        "tokens of a row; left out, 128 or as many as the model has positions for", default=None
    )
    compute: Compute = part(Compute)
    output: str = _run("directory, new or empty", metavar="DIR")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabOptions(Checked):
    """Of every command of the lab: the model, the data, and what all runs share."""

    model: str | None = _model(
        "directory or hub id; without it the demo's model and data",
        default=None,
        metavar="DIR_OR_ID",
    )
    task: str | None = _model(
        "what the model shall do; left out, columns and labels decide", default=None, choices=TASKS
    )
    train: str | None = _data(
        "labelled examples that training sets are drawn from", default=None, metavar="FILE_OR_ID"
    )
    eval: str | None = _data(
        "development set: chooses base rates", default=None, metavar="FILE_OR_ID"
    )
    test: str | None = _data(
        "test set of the same kind as the training set", default=None, metavar="FILE_OR_ID"
    )
    out_of_domain: tuple[str, ...] = _data(
        "test set from elsewhere; repeatable", default=(), metavar="NAME=FILE"
    )
    neutral: str | None = _data(
        "texts to compare representations on; left out, 500 of the test set",
        default=None,
        metavar="FILE_OR_ID",
    )
    task_options: TaskOptions = part(TaskOptions)
    columns: Columns = part(Columns)
    compute: Compute = part(Compute)
    training: TrainConfig = part(TrainConfig)
    output: str = _run("directory; what it holds is not run again", metavar="DIR")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions(Checked):
    """Of `jaxbert plan`."""

    model: str = _model("published name, directory, or hub id", metavar="NAME_OR_DIR")
    attention_dropout: float | None = _model(
        "in place of the model's own rate; none = that", default=None
    )
    topology: str = _hardware("chip and slice: v5e:2x4, h100:8, ...", metavar="CHIP:SLICE")
    compute: Compute = part(Compute, dtype="bfloat16")
    training: TrainConfig = part(TrainConfig, parallel="mesh")
    search: bool = _run(
        "the fastest mesh where --mesh names none, the largest batch that fits, and the smallest "
        "slice that holds --batch-size",
        default=False,
    )
    json: str | None = _run("append each plan to it, as a line", default=None, metavar="FILE")


def resolve(cls: type[T], args: Mapping[str, Any], config: str | Path | None = None) -> T:
    """The options of a command that its flags, and the file they name, ask for.

    Args:
      cls: one of the classes above.
      args: `vars` of the parsed command line; what is no flag of `cls` is left aside.
      config: a TOML or JSON file of settings.

    Raises:
      InputError: unknown keys, missing or bad values: of the file, the flags, the strategy.
    """
    try:
        return _resolve(cls, args, config)
    except InputError as error:
        if config is None or str(config) in str(error):
            raise
        over = ", with the flags over it" if flags.given(cls, args) or args.get("set") else ""
        raise InputError(f"{config}{over}: {error}") from None


def _resolve(cls: type[T], args: Mapping[str, Any], config: str | Path | None) -> T:
    given = _from_command_line(cls, args)
    settings = _modern(cls, _read_file(Path(config))) if config else {}
    if "strategy" in given and isinstance(settings.get("training"), dict):
        # Another strategy takes no learning rates from the file: they were meant for the file's.
        settings["training"].pop("optimizer", None)
    settings = _merged(cls, settings, given)
    names = {name: field for name, (field, _) in fields_of(cls).items()}
    if "strategy" in names:
        settings = _with_strategy(settings)
    missing = [
        f"--{name}"
        for name, field in names.items()
        if field.default is field.default_factory is dataclasses.MISSING
        and settings.get(name) in (None, "")
    ]
    if missing:
        raise InputError(f"missing: {', '.join(missing)}")
    return build(cls, settings, "settings")


def strategies(path: str | None) -> Mapping[str, Any]:
    """The built-in strategies, and those of a file."""
    from jaxbert.optim import STRATEGIES, load_strategies

    return load_strategies(path) if path else STRATEGIES


def _with_strategy(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with the whole optimizer that the strategy and they make."""
    from jaxbert.optim import get_strategy

    training = _table(settings, "training", "training")
    optimizer = _table(training, "optimizer", "training.optimizer")
    name = settings.get("strategy", DEFAULT_STRATEGY)
    file = settings.get("strategy_file")
    for place, value in (("strategy", name), ("strategy_file", file or "")):
        if not isinstance(value, str):
            raise InputError(f"{place}={value!r} must be a text")
    strategy = get_strategy(name, strategies(file))
    return {**settings, "training": {**training, "optimizer": strategy.config(**optimizer)}}


def _table(settings: Mapping[str, Any], name: str, place: str) -> Mapping[str, Any]:
    value = settings.get(name, {})
    if not isinstance(value, Mapping):
        raise not_settings(place, value)
    return value


def _from_command_line(cls: type[Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, and the assignments of --set, as nested settings."""
    settings = flags.given(cls, args)
    for assignment in args.get("set") or ():
        place, equals, value = assignment.partition("=")
        if not (equals and place):
            raise InputError(f"--set {assignment}: want PLACE=VALUE")
        put: Any = _parse_value(value)
        for name in reversed(place.split(".")):
            put = {name: put}
        settings = _merged(cls, settings, _modern(cls, put))
    return settings


def _modern(cls: type[Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under today's names; the first files held those of some parts beside the parts."""
    moved = dict(settings)
    for name, kind in (("columns", Columns), ("compute", Compute)):
        old = {
            field.name: moved.pop(field.name)
            for field in dataclasses.fields(kind)
            if field.name in moved
        }
        if old:
            moved[name] = {**old, **_table(moved, name, name)}
    return modern(cls, moved)


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # also a number of thousands of digits
        return None if text in ("None", "none", "null") else text


def _read_file(path: Path) -> dict[str, Any]:
    """A TOML or JSON file of settings."""
    kind = "JSON" if path.suffix == ".json" else "TOML"
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no {kind} file: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: want settings by name, got {type(settings).__name__}")
    return settings


def _merged(
    cls: type[Any], below: Mapping[str, Any], above: Mapping[str, Any], place: str = ""
) -> dict[str, Any]:
    """Both; where both have a value, that of `above`.

    Raises:
      InputError: a single value for a part of the dataclass, which holds settings by name.
    """
    merged, fields = dict(below), fields_of(cls)
    for name, value in above.items():
        old, inner = merged.get(name), part_of(fields[name][1]) if name in fields else None
        if inner is not None:
            for one in (value, merged.get(name, {})):
                if not isinstance(one, Mapping):
                    raise not_settings(place + name, one)
            merged[name] = _merged(inner, merged.get(name, {}), value, f"{place}{name}.")
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[name] = {**old, **value}  # of rows, as --set gives them one by one
        else:
            merged[name] = value
    return merged
