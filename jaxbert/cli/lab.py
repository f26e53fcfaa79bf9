"""`jaxbert lab run`, `jaxbert lab sweep` and `jaxbert lab report`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxbert.cli import common, flags, study_plan
from jaxbert.cli.options import LabOptions, resolve, strategies
from jaxbert.errors import InputError

if TYPE_CHECKING:
    from jaxbert.lab.data import Data
    from jaxbert.lab.run import Laboratory

# What all runs of a study share; the rest is a run's own, or not its laboratory's to choose.
_SHARED = (
    "model",
    "task",
    "task_options",
    "train",
    "eval",
    "test",
    "out_of_domain",
    "neutral",
    "columns",
    "compute.dtype",
    "training.batch_size",
    "training.max_length",
    "training.metric",
    "output",
)
_STRATEGIES = "high,pretraining,constant,annealing,cyclical,discriminative,uniform"


def add_run_flags(parser: flags.Parser) -> None:
    """Of `jaxbert lab run`."""
    flags.add_flags(parser, LabOptions, only=_SHARED)
    rates, run = parser.section("learning rates"), parser.section("run")
    for name, kind, default, metavar, about in (
        ("--strategies", str, _STRATEGIES, "NAMES",
         "what is compared, with commas; task-adaptive is masked LM on the training texts before "
         "the default strategy"),
        ("--grid", float, (), "RATES",
         "base rates; each strategy takes its best on --eval (default: its own rate)"),
    ):  # fmt: skip
        _add(rates, name, listed(kind), default, metavar, about)
    rates.add_argument(
        "--strategy-file", metavar="FILE", help="TOML file with strategies of your own"
    )
    _add(rates, "--control", str, "uniform", "NAME", "the strategy to compare with")
    _add(rates, "--adaptation-rate", float, 1e-4, "RATE", "peak of task-adaptive's masked LM")
    _add(rates, "--adaptation-epochs", int, 10, "N", "of task-adaptive's masked LM")
    _add(run, "--seeds", int, 5, "N", "runs of each")
    _add(run, "--train-sizes", listed(str), "full", "SIZES", "as in 200,1000,full")
    _add(run, "--epochs", listed(int), "3", "N,...", "one for all sizes, or one for each")
    study_plan.add_flags(parser)


def add_sweep_flags(parser: flags.Parser) -> None:
    """Of `jaxbert lab sweep`."""
    flags.add_flags(parser, LabOptions, only=_SHARED)
    rates, run = parser.section("learning rates"), parser.section("run")
    _add(rates, "--strategy", str, "discriminative", "NAME", "what is not swept")
    _add(rates, "--rates", listed(float), "2e-5,5e-5,1e-4,4e-4", "RATES", "with commas")
    _add(rates, "--decays", listed(float), "1.0,0.95,0.9,0.8", "DECAYS", "with commas")
    _add(run, "--seeds", int, 1, "N", "runs of each")
    _add(run, "--train-size", str, "full", "SIZE", "a number, or full")
    _add(run, "--epochs", int, 3, "N", "passes over the training examples")


def add_report_flags(parser: flags.Parser) -> None:
    """Of `jaxbert lab report`."""
    parser.add_argument("study", help="what `lab run` or `lab sweep` wrote")
    text = "directory (default: report/ in the study)"
    parser.section("run").add_argument("--output", metavar="DIR", help=text)


def _add(
    section: argparse._ArgumentGroup,
    name: str,
    kind: Callable[[str], Any],
    default: Any,
    metavar: str,
    about: str,
) -> None:
    text = about if default == () else f"{about} (default: %(default)s)"
    section.add_argument(name, type=kind, default=default, metavar=metavar, help=text)


def listed(kind: type[Any]) -> Callable[[str], tuple[Any, ...]]:
    """A parser of values with commas between them."""

    def parse(text: str) -> tuple[Any, ...]:
        return tuple(kind(part.strip()) for part in text.split(","))

    parse.__name__ = f"list of {kind.__name__}"  # in argparse's message
    return parse


def run(args: argparse.Namespace) -> None:
    """`jaxbert lab run`."""
    if args.plan:
        study_plan.run_plan(args, _source_and_data, _make)
        _print_report(args.output)
        return
    study_plan.refuse_plan_flags(args)
    from jaxbert.lab import adaptation
    from jaxbert.lab.making import parse_sizes
    from jaxbert.lab.study import Study, run_study
    from jaxbert.optim import get_strategy

    options = resolve(LabOptions, vars(args))
    adaptive = adaptation.NAME
    known = {adaptive: adaptation.strategy(), **strategies(args.strategy_file)}
    how = adaptation.Adaptation(epochs=args.adaptation_epochs, learning_rate=args.adaptation_rate)
    study = Study(
        strategies={name: get_strategy(name, known) for name in args.strategies},
        control=args.control,
        sizes=parse_sizes(args.train_sizes, args.epochs),
        seeds=tuple(range(args.seeds)),
        rates=args.grid,
        adaptations={adaptive: how} if adaptive in args.strategies else {},
    )
    run_study(_laboratory(options), study, Path(options.output), show=sys.stderr.isatty())
    _print_report(options.output)


def sweep(args: argparse.Namespace) -> None:
    """`jaxbert lab sweep`."""
    from jaxbert.lab.making import parse_sizes
    from jaxbert.lab.study import Sweep, run_sweep
    from jaxbert.optim import get_strategy

    options = resolve(LabOptions, vars(args))
    grid = Sweep(
        strategy=get_strategy(args.strategy),
        rates=args.rates,
        decays=args.decays,
        size=parse_sizes([args.train_size], [args.epochs])[0],
        seeds=tuple(range(args.seeds)),
    )
    run_sweep(_laboratory(options), grid, Path(options.output), show=sys.stderr.isatty())
    _print_report(options.output)


def report(args: argparse.Namespace) -> None:
    """`jaxbert lab report`."""
    from jaxbert.lab.report import write_report

    print(write_report(Path(args.study), Path(args.output or Path(args.study) / "report")))


def _laboratory(options: LabOptions) -> Laboratory:
    return _make(*_source_and_data(options), options)


def _make(source: str | Path, data: Data, options: LabOptions) -> Laboratory:
    from jaxbert.lab.run import Laboratory

    common.keep_compiled_programs()
    # Every run loads the model anew, and would say so.
    logging.getLogger("jaxbert").setLevel(logging.ERROR)
    return Laboratory(source, data, options.training, options.compute.dtype, options.task_options)


def _source_and_data(options: LabOptions) -> tuple[str | Path, Data]:
    from jaxbert.lab.data import demo_data, load_data

    sources = ("model", "train", "eval", "test")
    given = {name: value for name in sources if (value := getattr(options, name)) is not None}
    if 0 < len(given) < len(sources):
        missing = ", ".join(f"--{name}" for name in sources if name not in given)
        raise InputError(f"missing: {missing} (or leave out all four for the demo's)")
    task: dict[str, Any] = {"task": options.task, "options": options.task_options}
    if not given:
        return demo_data(**task)
    data = load_data(
        given["train"],
        given["eval"],
        given["test"],
        dict(map(_named, options.out_of_domain)),
        options.neutral,
        **task,
        **options.columns.given(),
    )
    return given["model"], data


def _named(pair: str) -> tuple[str, str]:
    name, equals, path = pair.partition("=")
    if not (name and equals and path):
        raise InputError(f"--out-of-domain {pair}: want NAME=FILE")
    return name, path


def _print_report(directory: str) -> None:
    from jaxbert.lab.report import format_table

    print(format_table(Path(directory)))
    print(f"the whole report: jaxbert lab report {directory}")
