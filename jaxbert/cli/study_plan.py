"""`jaxbert lab run --plan`: the tables of a plan as the settings of its laboratories."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxbert.cli import flags
from jaxbert.cli.options import LabOptions, strategies
from jaxbert.errors import InputError
from jaxbert.settings import build

if TYPE_CHECKING:
    from jaxbert.lab.data import Data
    from jaxbert.lab.plan_file import Plan
    from jaxbert.lab.run import Laboratory

DEMO = "demo"
# What a plan says of a model and a task that no laboratory reads.
_OWN = ("pretraining_rate", "tasks", "margins", DEMO)
_BESIDE = ("plan", "only", "directory", "strategy_file", "output", "traceback")  # flags
# settings -> (source of the model, data), and with them the laboratory
DataOf = Callable[[LabOptions], "tuple[str | Path, Data]"]
Make = Callable[[str | Path, "Data", LabOptions], "Laboratory"]


def add_flags(parser: flags.Parser) -> None:
    """Of `jaxbert lab run`, where a plan says what is run."""
    run = parser.section("run")
    run.add_argument("--plan", metavar="FILE", help="TOML file that says all of what is run")
    run.add_argument(
        "--only",
        metavar="CELLS",
        help="of the plan: TASK/MODEL/SIZE/STRATEGY/SEED or its first parts, * for any",
    )
    run.add_argument(
        "--directory",
        metavar="NAME=DIR",
        action="append",
        default=[],
        help="what {NAME} stands for in the plan; repeatable",
    )


def refuse_plan_flags(args: argparse.Namespace) -> None:
    """InputError where flags of a plan are given and no plan."""
    given = [f"--{name}" for name in ("only", "directory") if getattr(args, name)]
    if given:
        raise InputError(f"{' '.join(given)}: of a plan, which --plan FILE gives")


def run_plan(args: argparse.Namespace, data_of: DataOf, make: Make) -> None:
    """Runs what the plan says and `--only` selects.

    Args:
      data_of, make: how the command reads data and makes a laboratory.
    """
    _refuse_others(args)
    from jaxbert.lab import adaptation
    from jaxbert.lab.campaign import check_strategies, run_plan
    from jaxbert.lab.plan_file import Only, read_plan

    plan, only = read_plan(args.plan), Only.parse(args.only)
    known = {adaptation.NAME: adaptation.strategy(), **strategies(args.strategy_file)}
    check_strategies(plan, known)
    only.check(plan)
    chosen = [pair for pair in plan.studies if only.takes(task=pair[0], model=pair[1])]
    directories = dict(map(_named, args.directory))
    # All of them before anything is run.
    settings = {pair: _options(plan, *pair, directories, args.output) for pair in chosen}

    def laboratory(task: str, model: str) -> Laboratory:
        options = settings[task, model]
        if plan.tasks[task].get(DEMO):
            from jaxbert.lab.data import demo_data

            source, data = demo_data(options.task, options.task_options)
            given: str | Path = options.model or source
        else:
            given, data = data_of(options)
        return make(given, dataclasses.replace(data, domain=task), options)

    text = Path(args.plan).read_text(encoding="utf-8")
    run_plan(plan, text, Path(args.output), laboratory, known, only=only, show=sys.stderr.isatty())


def _refuse_others(args: argparse.Namespace) -> None:
    """InputError where flags say what the plan says."""
    names = {flag.place: flag.name for flag in flags.flags_of(LabOptions)}
    usual = vars(args.parser.parse_args([]))
    given = [
        names.get(name, f"--{name.replace('_', '-')}")
        for name, value in vars(args).items()
        if name not in _BESIDE and value != usual.get(name)
    ]
    if given:
        raise InputError(f"--plan says all of what is run: leave out {' '.join(given)}")
    if "output" not in args:
        raise InputError("missing: --output")


def _options(
    plan: Plan, task: str, model: str, directories: Mapping[str, str], output: str
) -> LabOptions:
    from jaxbert.lab.plan_file import filled

    tables = [filled(plan.models[model], directories), filled(plan.tasks[task], directories)]
    both = {key for key in tables[0] if key in tables[1]}
    if both:
        raise InputError(f"plan: models.{model} and tasks.{task} both say {sorted(both)}")
    said = {key: value for table in tables for key, value in table.items() if key not in _OWN}
    said = _merged(plan.settings, said)
    place = f"plan: models.{model}, tasks.{task}"
    demo = plan.tasks[task].get(DEMO, False)
    if said.get("model") == DEMO:
        said["model"] = None if demo else _demo_model()
    options = build(LabOptions, {**said, "output": output}, place)
    wanted = () if demo else ("model", "train", "eval", "test")
    missing = [name for name in wanted if getattr(options, name) is None]
    if missing:
        raise InputError(f"{place}: missing {', '.join(missing)} (or demo = true)")
    return options


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of all studies, and over them those of one, part by part."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        parts = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[name] = dict(old or {}) | value if parts else value
    return merged


def _demo_model() -> str:
    from jaxbert.data import load_demo

    return str(load_demo().model)


def _named(pair: str) -> tuple[str, str]:
    name, equals, path = pair.partition("=")
    if not (name and equals and path):
        raise InputError(f"--directory {pair}: want NAME=DIR")
    return name, path
