"""`jaxbert lr` and `jaxbert lr-find`: which learning rates a strategy gives, and how high to go."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from jaxbert.cli import common, flags
from jaxbert.cli.finetune import add_set_flag
from jaxbert.cli.options import FindOptions, RateOptions, resolve
from jaxbert.errors import InputError

# A rise of the rate has a length of its own, evaluates nothing and writes nothing.
_WITHOUT = (
    "splits.eval_split",
    "splits.test_split",
    "training.epochs",
    "training.eval_batch_size",
    "training.eval_every",
    "training.metric",
    "training.patience",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.log_every",
)


def add_lr_flags(parser: flags.Parser) -> None:
    """Of `jaxbert lr`: those of `finetune` that concern learning rates, and the length of a run."""
    parser.usage = "%(prog)s --model DIR_OR_ID [flags]"
    only = ("model", "strategy", "strategy_file", "training.optimizer", "training.epochs")
    flags.add_flags(parser, RateOptions, only=only)
    parser.section("training").add_argument(
        "--steps-per-epoch", type=int, default=1000, metavar="N", help="(default: %(default)s)"
    )
    add_set_flag(parser)


def add_find_flags(parser: flags.Parser) -> None:
    """Of `jaxbert lr-find`: the model, the data and the strategy of `finetune`, and the rise."""
    parser.usage = "%(prog)s [--model DIR_OR_ID --train FILE_OR_ID] [flags]"
    flags.add_flags(parser, FindOptions, without=_WITHOUT)
    add_set_flag(parser)
    run = parser.section("run")
    for name, kind, default, about in (
        ("--lowest", float, 1e-5, "base rate of the first step"),
        ("--highest", float, 1e-2, "base rate of the last step"),
        ("--steps", int, 100, "of a rise"),
        ("--repeats", int, 3, "rises, with --seed and those after it"),
    ):
        text = f"{about} (default: %(default)s)"
        run.add_argument(name, type=kind, default=default, metavar="N", help=text)


def lr(args: argparse.Namespace) -> None:
    """`jaxbert lr`."""
    from jaxbert.optim import RatePlan, format_group_table, group_table

    options = resolve(RateOptions, vars(args))
    if args.steps_per_epoch < 1:
        raise InputError(f"--steps-per-epoch {args.steps_per_epoch}: want 1 at least")
    params = common.shapes_of_parameters(common.read_config(options.model))
    optimizer, per_epoch = options.training.optimizer, args.steps_per_epoch
    total = options.training.epochs * per_epoch
    methods = "".join(f", {name} {value:g}" for name, value in optimizer.methods.items())
    print(
        f"strategy {options.strategy}, {optimizer.optimizer}, {optimizer.schedule}, {total} steps"
        f"{methods}"
    )
    print(
        format_group_table(group_table(RatePlan.make(optimizer, params, total, per_epoch), params))
    )


def lr_find(args: argparse.Namespace) -> None:
    """`jaxbert lr-find`."""
    from jaxbert.lab.range_test import check_range, describe, range_test

    check_range(args.lowest, args.highest, args.steps, args.repeats)
    common.keep_compiled_programs()
    options = resolve(FindOptions, _with_demo(vars(args)))
    train = common.read_training_examples(options)
    directory = common.find_model(options)
    logging.getLogger("jaxbert").setLevel(logging.ERROR)  # every rise loads the model anew

    def losses(rates: Any, repeat: int) -> Sequence[float]:
        seed = options.training.seed + repeat
        seeded = dataclasses.replace(options.training, seed=seed)
        model = common.load_model(options, directory, train, seed)
        trainer = common.make_trainer(options, model, directory, train=train, config=seeded)
        return trainer.rate_losses(rates)

    print(f"task {train.task}: {train.reason}")
    print(f"strategy {options.strategy}, {len(train)} examples, {args.steps} steps a rise")
    found = range_test(
        losses,
        lowest=args.lowest,
        highest=args.highest,
        steps=args.steps,
        repeats=args.repeats,
    )
    print(describe(found))


def _with_demo(args: dict[str, Any]) -> dict[str, Any]:
    """The flags, with the demo's model and training examples where neither is given."""
    if "model" in args or "train" in args:
        return args
    from jaxbert.data import load_demo

    demo = load_demo()
    return args | {"model": str(demo.model), "train": str(demo.train)}
