"""The commands of the lab: what `jaxbert lab ...` and `jaxbert lr-find` do and print."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def _laboratory(args: argparse.Namespace) -> Any:
    from jaxbert.lab.data import demo_data, load_data
    from jaxbert.lab.run import Laboratory
    from jaxbert.training import TrainConfig

    given = {name: getattr(args, name) for name in ("model", "train", "eval", "test")}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(f"missing: {', '.join(missing)} (or leave out all four for the demo's)")
    # Every run loads the model anew, and would say so.
    logging.getLogger("jaxbert").setLevel(logging.ERROR)
    if missing:
        source, data = demo_data()
    else:
        source, data = (
            args.model,
            load_data(
                args.train,
                args.eval,
                args.test,
                dict(_named(pair) for pair in args.out_of_domain),
                args.neutral,
                text_column=args.text_column,
                text_pair_column=args.text_pair_column,
                label_column=args.label_column,
            ),
        )
    config = TrainConfig(batch_size=args.batch_size, max_length=args.max_length)
    return Laboratory(source, data, config, args.dtype)


def _named(pair: str) -> tuple[str, str]:
    name, equals, path = pair.partition("=")
    if not (name and equals and path):
        raise ValueError(f"--out-of-domain {pair}: want NAME=FILE")
    return name, path


def run(args: argparse.Namespace) -> None:
    """`jaxbert lab run`."""
    from jaxbert.lab.study import Study, parse_sizes, run_study
    from jaxbert.optim import STRATEGIES, get_strategy, load_strategies

    known = load_strategies(args.strategy_file) if args.strategy_file else STRATEGIES
    study = Study(
        strategies={name: get_strategy(name, known) for name in args.strategies},
        control=args.control,
        sizes=parse_sizes(args.train_sizes, args.epochs),
        seeds=tuple(range(args.seeds)),
        rates=args.grid,
    )
    run_study(_laboratory(args), study, Path(args.output), show=sys.stderr.isatty())
    _print_report(args.output)


def sweep(args: argparse.Namespace) -> None:
    """`jaxbert lab sweep`."""
    from jaxbert.lab.study import Sweep, parse_sizes, run_sweep
    from jaxbert.optim import get_strategy

    grid = Sweep(
        strategy=get_strategy(args.strategy),
        rates=args.rates,
        decays=args.decays,
        size=parse_sizes([args.train_size], [args.epochs])[0],
        seeds=tuple(range(args.seeds)),
    )
    run_sweep(_laboratory(args), grid, Path(args.output), show=sys.stderr.isatty())
    _print_report(args.output)


def report(args: argparse.Namespace) -> None:
    """`jaxbert lab report`."""
    from jaxbert.lab.report import write_report

    print(write_report(Path(args.study), Path(args.output or Path(args.study) / "report")))


def _print_report(directory: str) -> None:
    from jaxbert.lab.report import format_table

    print(format_table(Path(directory)))
    print(f"the whole report: jaxbert lab report {directory}")


def lr_find(args: argparse.Namespace) -> None:
    """`jaxbert lr-find`."""
    from jaxbert.data import load_examples, load_tokenizer
    from jaxbert.lab.range_test import describe, range_test
    from jaxbert.models import BertForSequenceClassification
    from jaxbert.options import resolve
    from jaxbert.training import TrainConfig, Trainer
    from jaxbert.weights.pretrained import load_pretrained, model_directory

    options = resolve(_with_demo(vars(args)) | {"output": "-"})
    train = load_examples(
        options.train,
        text_column=options.text_column,
        text_pair_column=options.text_pair_column,
        label_column=options.label_column,
    )
    directory = model_directory(options.model, options.revision)
    tokenizer, config = load_tokenizer(directory), TrainConfig.from_dict(options.training)
    target = {"num_labels": 1} if train.label_names is None else {"labels": train.label_names}
    logging.getLogger("jaxbert").setLevel(logging.ERROR)  # every rise loads the model anew

    def losses(rates: Any, seed: int) -> Sequence[float]:
        model, _ = load_pretrained(
            BertForSequenceClassification, directory, **target, dtype=options.dtype, seed=seed
        )
        seeded = dataclasses.replace(config, seed=seed)
        return Trainer(model, tokenizer, train=train, config=seeded).rate_losses(rates)

    print(f"strategy {options.strategy}, {len(train)} examples, {args.steps} steps a rise")
    found = range_test(
        losses,
        lowest=args.lowest,
        highest=args.highest,
        steps=args.steps,
        repeats=args.repeats,
    )
    print(describe(found))


def _with_demo(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags, with the demo's model and training examples where neither is given."""
    if flags["model"] or flags["train"]:
        return flags
    from jaxbert.data import load_demo

    demo = load_demo()
    return flags | {"model": str(demo.model), "train": str(demo.train)}
