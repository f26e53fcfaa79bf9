"""`jaxbert finetune` and `jaxbert demo`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxbert.atomic import write_text
from jaxbert.cli import common, flags
from jaxbert.cli.options import FinetuneOptions, resolve
from jaxbert.errors import InputError
from jaxbert.tasks.options import TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION
from jaxbert.training.config import SETTINGS

if TYPE_CHECKING:
    from jaxbert.data import Examples
    from jaxbert.training import Trainer
    from jaxbert.training.outline import Outline

Place = tuple[str, str | None]  # (path or hub id, split)


def add_flags(parser: flags.Parser) -> None:
    """Of `jaxbert finetune`."""
    parser.usage = "%(prog)s --model DIR_OR_ID --train FILE_OR_ID --output DIR [flags]"
    flags.add_flags(parser, FinetuneOptions)
    run_flags = parser.section("run")
    run_flags.add_argument(
        "--config", metavar="FILE", help="TOML or JSON file of these settings; flags win over it"
    )
    add_set_flag(parser)
    run_flags.add_argument("--overwrite", action="store_true", help="replace the run in --output")
    run_flags.add_argument(
        "--dry-run",
        action="store_true",
        help="read, check and tokenize all, print what the training would be, and train nothing",
    )
    run_flags.add_argument("--resume", action="store_true", help="continue the run in --output")
    hardware = parser.section("hardware")
    hardware.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, which the cluster names (SLURM, GKE, TPU pods) or these:",
    )
    hardware.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    hardware.add_argument("--processes", type=int, metavar="N", help="how many there are")
    hardware.add_argument(
        "--process-index", type=int, metavar="N", help="which one this is, from 0"
    )


def add_set_flag(parser: flags.Parser) -> None:
    """--set, which reaches what has no flag."""
    parser.section("run").add_argument(
        "--set",
        action="append",
        metavar="PLACE=VALUE",
        help="any setting by its place in a file, as training.optimizer.schedule_options.end=0.1; "
        "repeatable",
    )


# What of the settings is not the default. The tweets are few, and most of their words are
# of no name: it takes more epochs and faster ones until the first is told.
_DEMOS: dict[str, dict[str, Any]] = {
    TEXT_CLASSIFICATION: {},
    TOKEN_CLASSIFICATION: {"training.epochs": 6, "training.optimizer.learning_rate": 3e-4},
}


def add_demo_flags(parser: flags.Parser) -> None:
    """Of `jaxbert demo`."""
    flags.add_flags(parser, FinetuneOptions, only=("compute.dtype", "training.seed"))
    parser.section("model").add_argument(
        "--task",
        choices=[*_DEMOS],
        default=TEXT_CLASSIFICATION,
        help="which data: film reviews, or tweets with names in them (default: %(default)s)",
    )
    run_flags = parser.section("run")
    run_flags.add_argument(
        "--output",
        metavar="DIR",
        help="directory for the run (default: runs/demo, or runs/demo-TASK for another task)",
    )
    run_flags.add_argument("--overwrite", action="store_true", help="train again")


def run(args: argparse.Namespace) -> None:
    """`jaxbert finetune`."""
    config = args.config
    if args.resume and args.overwrite:
        raise InputError("--overwrite and --resume exclude each other: give one of them")
    if args.resume and not config and getattr(args, "output", None):
        from jaxbert.training.run_directory import place_of

        config = place_of(Path(args.output)) / SETTINGS
        if not config.is_file():
            raise FileNotFoundError(f"{args.output} holds no run to resume ({SETTINGS} is missing)")
    options = resolve(FinetuneOptions, vars(args), config)
    if args.distributed:
        from jaxbert.training.distributed import is_first, start

        start(args.coordinator, args.processes, args.process_index)
        if not is_first():
            logging.getLogger("jaxbert").setLevel(logging.WARNING)
    if args.dry_run:
        dry_run(options, overwrite=args.overwrite or args.resume)
        return
    finetune(options, overwrite=args.overwrite, resume=args.resume)


def demo(args: argparse.Namespace) -> None:
    """`jaxbert demo`."""
    from jaxbert.data import load_demo, load_tags_demo
    from jaxbert.training.run_directory import RUN, place_of, read_run

    tags = args.task == TOKEN_CLASSIFICATION
    output = Path(args.output or (f"runs/demo-{args.task}" if tags else "runs/demo"))
    place = place_of(output)
    stopped = (place / RUN).is_file() and not args.overwrite
    if stopped:
        finished = read_run(place)
        if "scores" in finished:
            print("this run is finished already; --overwrite trains again", file=sys.stderr)
            _print_results(finished, output)
            return
    files = load_tags_demo() if tags else load_demo()
    settings = {
        **vars(args),
        **_DEMOS[args.task],
        "task": args.task if tags else None,
        "output": str(output),
        "model": str(files.model),
        "train": str(files.train),
        "eval": str(files.dev),
        "test": (str(files.test), *map(str, files.out_of_domain.values())),
    }
    finetune(resolve(FinetuneOptions, settings), overwrite=args.overwrite, resume=stopped)


def finetune(options: FinetuneOptions, *, overwrite: bool, resume: bool) -> None:
    """Fine-tunes, scores the examples of --eval and --test, and prints the table."""
    from jaxbert.training.distributed import is_first
    from jaxbert.training.lock import held

    common.keep_compiled_programs()
    # Until all is written, and from before anything is read: nobody waits to be refused.
    with held(Path(options.output)) if is_first() else contextlib.nullcontext():
        _finetune(options, overwrite=overwrite, resume=resume)


def dry_run(options: FinetuneOptions, *, overwrite: bool) -> None:
    """Does all that comes before the first step, writes nothing, and prints what would be done."""
    from jaxbert.optim.table import format_group_table
    from jaxbert.training.outline import outline
    from jaxbert.training.run_directory import check

    common.keep_compiled_programs()
    check(Path(options.output), overwrite=overwrite)
    train = common.read_training_examples(options)
    examples = _read_others(options, train)
    trainer = _make_trainer(options, train, examples, output=None)
    for found in examples.values():
        trainer.predictor.scorer(found)  # labels that the model has, tokens that it has rows for
    plan = outline(trainer)
    for name, value in _lines(options, trainer, plan, len(train), examples):
        print(f"{name:<12}{value}")
    print(format_group_table(list(plan.groups)))
    print("nothing has been trained or written: leave --dry-run out to do it")


def _lines(
    options: FinetuneOptions,
    trainer: Trainer,
    plan: Outline,
    train: int,
    examples: Mapping[Place, Examples],
) -> Iterator[tuple[str, str]]:
    training, taken, stats = options.training, trainer.batches.examples, plan.stats
    yield "task", trainer.task.name
    others = [f", {name} {len(examples[place])}" for place, name in _names([*examples]).items()]
    how = f" ({stats.truncated_examples} cut to {training.max_length} tokens)"
    how = how if stats.truncated_examples else f" (in {taken} windows)" if taken > train else ""
    yield "examples", f"train {train}{how}{''.join(others)}"
    epochs = f"{training.epochs} epochs of {plan.steps_per_epoch}"
    what = "windows" if taken > train else "examples"
    yield "steps", f"{plan.total_steps}: {epochs}, {training.batch_size} {what} each"
    shapes = ", ".join(f"{shape.rows} x {shape.length}" for shape in plan.shapes)
    yield "shapes", f"{shapes}; {stats.packing_efficiency:.0%} of the tokens are text"
    state, gradient = (size / 2**20 for size in (plan.state_bytes, plan.gradient_bytes))
    memory = f"{state + gradient:,.1f} MiB: {state:,.1f} parameters and optimizer, {gradient:,.1f}"
    yield "memory", f"{memory} gradient; what layers keep for it comes on top"
    yield "rates", f"strategy {options.strategy}, {training.optimizer.schedule}"


def _make_trainer(
    options: FinetuneOptions, train: Examples, examples: Mapping[Place, Examples], **more: Any
) -> Trainer:
    directory = common.find_model(options)
    return common.make_trainer(
        options,
        common.load_model(options, directory, train, options.training.seed),
        directory,
        train=train,
        evaluation=examples.get((options.eval, options.splits.eval_split))
        if options.eval
        else None,
        cache_dir=common.cache_folder("tokens"),
        **more,
    )


def _finetune(options: FinetuneOptions, *, overwrite: bool, resume: bool) -> None:
    from jaxbert.training import hub
    from jaxbert.training.card import model_card
    from jaxbert.training.distributed import is_first
    from jaxbert.training.run_directory import CARD, check, place_of, read_run, write_run

    output = Path(options.output)
    if not resume:
        check(output, overwrite=overwrite)
    if options.push_to_hub and is_first():
        hub.check_repository(options.push_to_hub)
    train = common.read_training_examples(options)
    examples = _read_others(options, train)
    trainer = _make_trainer(
        options,
        train,
        examples,
        output=options.output,
        overwrite=overwrite,
        resume=resume,
        about={"model": options.model, "strategy": options.strategy},
    )
    if is_first():
        write_text(place_of(output) / SETTINGS, options.to_json())
    # Before the training: labels that do not fit are told now, and programs compile meanwhile.
    scorers = {place: trainer.predictor.scorer(found) for place, found in examples.items()}
    trainer.fit()
    names = _names(list(examples))
    scores = {
        names[place]: {"examples": len(examples[place]), **score(trainer.predictor.params)}
        for place, score in scorers.items()
    }
    for name, found in scores.items():
        common.check_finite(found, name)
    if not is_first():
        return
    finished = read_run(output) | {"scores": scores, "peak_memory_bytes": _peak_memory()}
    write_run(output, finished)
    write_text(output / CARD, model_card(finished))
    _print_results(finished, output)
    if options.push_to_hub:
        print(f"copied to {hub.push(output, options.push_to_hub)}")


def _read_others(options: FinetuneOptions, train: Examples) -> dict[Place, Examples]:
    """The examples of --eval and of every --test, with labels that mean what those of --train do.

    No place twice, even if it is named twice.
    """
    from jaxbert import tasks

    splits = options.splits
    places = [(options.eval, splits.eval_split)] if options.eval else []
    places += [(path, splits.test_split) for path in options.test]
    known: dict[str, Any] = {"label_names": train.label_names, "task": train.task}
    known |= {"options": options.task_options, "labelled": True, **options.columns.given()}
    return {
        (path, split): tasks.load_examples(path, split=split, **known)
        for path, split in dict.fromkeys(places)
    }


def _names(places: list[Place]) -> dict[Place, str]:
    """What each is called in the results: its stem, or its path where two share a stem."""
    stems = [Path(path).stem for path, _ in places]
    paths = [path for path, _ in places]
    names = {}
    for place, stem in zip(places, stems, strict=True):
        path, split = place
        name = stem if stems.count(stem) == 1 else path
        names[place] = name if paths.count(path) == 1 else f"{name}[{split}]"
    return names


def _peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _print_results(run: dict[str, Any], output: Path) -> None:
    scores = run["scores"]
    if scores:
        common.print_scores(scores)
    compilation, data = run["compilation"], run["data"]
    print(
        f"{run['step']} steps in {run['seconds']:.0f} s, of which {compilation['seconds']:.0f} s "
        f"compiling {len(compilation['train_shapes'])} of at most "
        f"{compilation['possible_shapes']} batch shapes; "
        f"{run['seconds_waiting_for_data']:.1f} s waiting for data; "
        f"peak memory {run['peak_memory_bytes'] / 2**30:.2f} GiB"
    )
    print(
        f"{data['packing_efficiency']:.0%} of the computed tokens are text, "
        f"{data['truncated_examples']} examples were cut to "
        f"{run['config']['max_length']} tokens"
    )
    print(f"model, metrics and configuration: {output}")
