"""The plan of a study over several tasks and models: a TOML file, checked as a whole, before data.

It says what is run and what will be said of it: see benchmarks/lab/study.toml for one, and
benchmarks/lab/PLAN.md for why it is so.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from jaxbert.errors import InputError
from jaxbert.settings import is_count, is_number

FILE = "plan.toml"  # the copy beside the results
PARTS = ("task", "model", "size", "strategy", "seed")  # of what --only selects
FULL = "full"
PRETRAINING = "pretraining"
OWN = "pretraining-own"  # the same at the model's own rate, wherever that is known
_NAME = re.compile(r"\w[\w.+]*(-[\w.+]+)*")  # names directories; two are joined by "--"
_TAKEN = ("training", "compute")  # settings of all runs, as the command line has them


@dataclass(frozen=True, kw_only=True)
class Margins:
    """Differences that do not matter, as shares: .005 is half a point of accuracy."""

    in_domain: float = 0.005
    out_of_domain: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Of every cell: so many at first, and up to so many where comparisons need them."""

    first: int = 5
    most: int = 30


@dataclass(frozen=True, kw_only=True)
class Grid:
    """By which base rates are chosen on the development set.

    Attributes:
      rates: tried for each strategy whose rate is no claim.
      seeds: runs of each rate.
      extensions: how many rates further a strategy may go whose best lies on the edge.
    """

    rates: tuple[float, ...] = ()
    seeds: int = 3
    extensions: int = 2


@dataclass(frozen=True, kw_only=True)
class Exploratory:
    """Strategies beside the question: at these sizes only, with the first seeds only."""

    strategies: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study is made of.

    Attributes:
      control: the strategy that the others are compared with.
      strategies: those that the claims are about, the control among them, in the order to show.
      sizes: {train size, "full" or a number: epochs}.
      models: {name: settings}: "model", a directory or hub id or "demo"; "pretraining_rate", its
        own, where it is known; "tasks", if it is not run on all.
      tasks: {name: settings} of data, as the command line has them: "train", "eval", "test", ...;
        or {"demo": true}; and "margins" of its own. Placeholders in braces are directories given
        on the command line.
      settings: "training" and "compute" of all runs, as the command line has them.
    """

    control: str
    strategies: tuple[str, ...]
    sizes: Mapping[str, int]
    models: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[str, Mapping[str, Any]]
    exploratory: Exploratory = Exploratory()
    seeds: Seeds = Seeds()
    grid: Grid = Grid()
    margins: Margins = Margins()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [*_list_problems(self), *_size_problems(self), *_number_problems(self)]
        names = {"models": self.models, "tasks": self.tasks}
        for what, tables in names.items():
            if not tables:
                problems.append(f"{what}: none, want a table [{what}.NAME] for each")
            problems += [
                f"{what}.{name}: want a name of letters, digits and _ . + and single -"
                for name in tables
                if not _NAME.fullmatch(name)
            ]
        if problems:
            raise InputError("; ".join(problems))

    @property
    def studies(self) -> list[tuple[str, str]]:
        """(task, model) of each study in it, task by task."""
        return [
            (task, model)
            for task in self.tasks
            for model, about in self.models.items()
            if task in about.get("tasks", self.tasks)
        ]

    @property
    def all_strategies(self) -> tuple[str, ...]:
        """Of the claims, then the exploratory ones."""
        return (*self.strategies, *self.exploratory.strategies)

    def margins_of(self, task: str) -> Margins:
        """Those of the plan, and over them the task's own."""
        return replace(self.margins, **self.tasks[task].get("margins", {}))

    def has(self, size: str, strategy: str) -> bool:
        """Whether a strategy is run at a train size."""
        named = PRETRAINING if strategy == OWN else strategy
        return named in self.strategies or size in self.exploratory.sizes


def directory_of(task: str, model: str) -> str:
    """Where a study of the plan lies beside the others."""
    return f"{task}--{model}"


def read_plan(path: str | Path) -> Plan:
    """The plan in a TOML file.

    Raises:
      InputError: no TOML; unknown keys, bad values: all of them named.
      OSError: no file.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no TOML file: {error}") from None
    try:
        return plan_of(tables)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


_PARTS: dict[str, type[Any]] = {
    "exploratory": Exploratory,
    "seeds": Seeds,
    "grid": Grid,
    "margins": Margins,
}


def plan_of(tables: Mapping[str, Any]) -> Plan:
    """The plan that the tables of a file make; errors as of `read_plan`.

    Example:
      >>> plan_of({"control": "a", "strategies": ["a"], "sizes": {"full": 1},
      ...          "models": {"m": {"model": "demo"}}, "tasks": {"t": {"demo": True}}}).studies
      [('t', 'm')]
    """
    own = [f.name for f in fields(Plan) if f.name != "settings"]
    known = [*own, *_TAKEN]
    problems = [
        f"unknown {name}; known are {', '.join(known)}" for name in tables if name not in known
    ]
    problems += [f"{name} is missing" for name in own if name not in tables and name not in _PARTS]
    values: dict[str, Any] = {"settings": {n: tables[n] for n in _TAKEN if n in tables}}
    for name in [name for name in own if name in tables]:
        value = tables[name]
        if name in ("sizes", "models", "tasks", *_PARTS) and not isinstance(value, Mapping):
            problems.append(f"{name} must be a table, [{name}], not {value!r}")
        elif name in _PARTS:
            cls = _PARTS[name]
            here = [f.name for f in fields(cls)]
            problems += [
                f"{name}: unknown {key}; known are {', '.join(here)}"
                for key in value
                if key not in here
            ]
            values[name] = cls(**{k: _frozen(v) for k, v in value.items() if k in here})
        else:
            values[name] = _frozen(value)
    for name in ("models", "tasks"):
        tables_of = values.get(name, {})
        problems += [
            f"{name}.{key} must be a table, not {value!r}"
            for key, value in tables_of.items()
            if not isinstance(value, Mapping)
        ]
    tables_in = {f"tasks.{k}.margins": v["margins"] for k, v in values.get("tasks", {}).items()
                 if isinstance(v, Mapping) and "margins" in v}  # fmt: skip
    problems += [
        f"{name} must be a table, not {value!r}"
        for name, value in tables_in.items()
        if not isinstance(value, Mapping)
    ]
    if problems:
        raise InputError("; ".join(problems))
    return Plan(**values)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _list_problems(plan: Plan) -> list[str]:
    problems = []
    lists = {
        "strategies": plan.strategies,
        "exploratory.strategies": plan.exploratory.strategies,
        "exploratory.sizes": plan.exploratory.sizes,
    }
    for name, value in lists.items():
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            problems.append(f"{name}={value!r} must be a list of names")
    if problems:
        return problems
    if plan.control not in plan.strategies:
        problems.append(f"control={plan.control!r} is not among the strategies")
    twice = {name for name in plan.all_strategies if plan.all_strategies.count(name) > 1}
    if twice:
        problems.append(f"strategies named twice: {', '.join(sorted(twice))}")
    strange = [size for size in plan.exploratory.sizes if size not in plan.sizes]
    if strange:
        problems.append(f"exploratory.sizes {', '.join(strange)}: not among the sizes")
    for name, about in plan.models.items():
        found = about.get("tasks", ())
        if not isinstance(found, list) and "tasks" in about:
            problems.append(f"models.{name}.tasks={found!r} must be a list of names")
        elif unknown := [task for task in found if task not in plan.tasks]:
            problems.append(f"models.{name}.tasks {', '.join(unknown)}: not among the tasks")
    return problems


def _size_problems(plan: Plan) -> list[str]:
    problems = []
    if not plan.sizes:
        problems.append("sizes: none, want SIZE = EPOCHS for each, as in 200 = 10, full = 1")
    for name, epochs in plan.sizes.items():
        if name != FULL and not (name.isdecimal() and int(name)):
            problems.append(f"sizes: {name}: want {FULL}, or a number of examples")
        if not is_count(epochs):
            problems.append(f"sizes: {name} = {epochs!r}: want a number of epochs, 1 at least")
    return problems


def _number_problems(plan: Plan) -> list[str]:
    problems = []
    counts = {
        "seeds.first": (plan.seeds.first, 2),
        "seeds.most": (plan.seeds.most, 2),
        "grid.seeds": (plan.grid.seeds, 1),
        "grid.extensions": (plan.grid.extensions, 0),
    }
    problems += [
        f"{name}={value!r} must be a whole number, {least} at least"
        for name, (value, least) in counts.items()
        if not is_count(value, least)
    ]
    if not problems and plan.seeds.most < plan.seeds.first:
        problems.append(f"seeds.most={plan.seeds.most} is less than first={plan.seeds.first}")
    rates = plan.grid.rates
    if not isinstance(rates, tuple) or not all(is_number(r) and r > 0 for r in rates):
        problems.append(f"grid.rates={rates!r} must be a list of positive numbers")
    known = [f.name for f in fields(Margins)]
    positive = {f"margins.{name}": getattr(plan.margins, name) for name in known}
    for task, table in plan.tasks.items():
        for name, value in table.get("margins", {}).items():
            positive[f"tasks.{task}.margins.{name}"] = value
            if name not in known:
                problems.append(f"tasks.{task}.margins: unknown {name}; known are {known}")
    positive |= {
        f"models.{name}.pretraining_rate": table["pretraining_rate"]
        for name, table in plan.models.items()
        if "pretraining_rate" in table
    }
    problems += [
        f"{name}={value!r} must be a positive number"
        for name, value in positive.items()
        if not (is_number(value) and value > 0)
    ]
    return problems


@dataclass(frozen=True)
class Only:
    """Which cells of a plan are run: patterns for task, model, size, strategy and seed.

    Example:
      >>> only = Only.parse("films/*/200/uniform")
      >>> only.takes(task="films", size="200"), only.takes(strategy="high"), only.names_seeds
      (True, False, False)
    """

    patterns: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> Only:
        """TASK/MODEL/SIZE/STRATEGY/SEED, with * for any; what is left out at the end is any.

        Raises:
          InputError: more parts than that, or an empty one.
        """
        parts = tuple(text.split("/")) if text else ()
        if len(parts) > len(PARTS) or not all(parts):
            wanted = "/".join(PARTS).upper()
            raise InputError(f"--only {text}: want {wanted}, or its first parts, * for any")
        return cls(parts)

    def takes(self, **place: str) -> bool:
        """Whether a cell, or several, of which these parts are known, are to be run."""
        given = dict(zip(PARTS, self.patterns, strict=False))
        return all(fnmatch.fnmatchcase(place[n], p) for n, p in given.items() if n in place)

    @property
    def names_seeds(self) -> bool:
        """Whether it says which seeds, so that no rule adds any."""
        return len(self.patterns) == len(PARTS)

    def check(self, plan: Plan) -> None:
        """Raises InputError where it selects nothing that the plan has."""
        has = {
            "task": list(plan.tasks),
            "model": list(plan.models),
            "size": list(plan.sizes),
            "strategy": [*plan.all_strategies, OWN],
        }
        problems = [
            f"{name} {pattern!r} is not among {', '.join(has[name])}"
            for name, pattern in zip(PARTS, self.patterns, strict=False)
            if name in has and not fnmatch.filter(has[name], pattern)
        ]
        if problems:
            raise InputError("--only: " + "; ".join(problems))


def filled(table: Mapping[str, Any], directories: Mapping[str, str]) -> dict[str, Any]:
    """The settings of a table with its placeholders, {name} in a text, replaced by directories.

    Raises:
      InputError: a placeholder that no directory is given for; all of them named.

    Example:
      >>> filled({"train": "{films}/train.csv"}, {"films": "/data"})
      {'train': '/data/train.csv'}
    """
    missing: set[str] = set()

    def fill(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: fill(item) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [fill(item) for item in value]
        if not isinstance(value, str):
            return value
        missing.update(name for name in _HOLE.findall(value) if name not in directories)
        return _HOLE.sub(lambda m: directories.get(m[1], m[0]), value)

    found = fill(table)
    if missing:
        flags = " ".join(f"--directory {name}=DIR" for name in sorted(missing))
        raise InputError(f"the plan has places for directories that are not given: {flags}")
    assert isinstance(found, dict)
    return found


_HOLE = re.compile(r"\{(\w+)\}")
