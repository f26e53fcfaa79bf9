"""`jaxbert evaluate`, `jaxbert predict` and `jaxbert embed`: what a model says of texts."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jaxbert.atomic import replacing, write_text
from jaxbert.cli import common, flags
from jaxbert.cli.options import EmbedOptions, InferOptions, PredictOptions, resolve
from jaxbert.errors import InputError

T = TypeVar("T", bound=InferOptions)

logger = logging.getLogger("jaxbert")

# What of the way a model trains and is computed matters where it only computes.
_FOREIGN = (
    "compute.gradient_checkpointing",
    "training.epochs",
    "training.eval_batch_size",
    "training.seed",
    "training.layout",
    "training.accumulation",
    "training.label_smoothing",
    "training.eval_every",
    "training.metric",
    "training.patience",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.log_every",
    "training.optimizer",
)
# Columns that say what the model is to say.
_OF_LABELS = (
    "columns.label_column",
    "columns.label_columns",
    "columns.answers_column",
    "columns.tags_column",
)
_FOREIGN_TO_EMBED = (
    *_FOREIGN,
    *_OF_LABELS,
    "columns.question_column",
    "columns.context_column",
    "columns.id_column",
    "columns.choices_column",
    "columns.tokens_column",
    "task",
    "task_options",
    "training.max_length",
)


def add_evaluate_flags(parser: flags.Parser) -> None:
    """Of `jaxbert evaluate`."""
    parser.usage = "%(prog)s data [data ...] --model DIR_OR_ID [flags]"
    parser.add_argument("data", nargs="+", help="labelled examples: files or hub data sets")
    flags.add_flags(parser, InferOptions, without=_FOREIGN)


def add_predict_flags(parser: flags.Parser) -> None:
    """Of `jaxbert predict`."""
    parser.usage = "%(prog)s [data] --model DIR_OR_ID [flags]"
    _add_texts(parser)
    flags.add_flags(parser, PredictOptions, without=(*_FOREIGN, *_OF_LABELS))


def add_embed_flags(parser: flags.Parser) -> None:
    """Of `jaxbert embed`."""
    parser.usage = "%(prog)s [data] --model DIR_OR_ID --output FILE [flags]"
    _add_texts(parser)
    flags.add_flags(parser, EmbedOptions, without=_FOREIGN_TO_EMBED)
    # As it was first spelled.
    parser.add_argument(
        "--normalise",
        dest="normalize",
        action="store_true",
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def _add_texts(parser: flags.Parser) -> None:
    parser.add_argument(
        "data",
        nargs="?",
        default="-",
        help="a file or a hub data set; left out or -, a text a line from standard input",
    )


def evaluate(args: argparse.Namespace) -> None:
    """`jaxbert evaluate`."""
    from jaxbert import tasks
    from jaxbert.tasks.text_classification import names_of

    options = _as_trained(InferOptions, args)
    predictor = common.make_predictor(options)
    config = predictor.config
    labels = names_of(config)
    scores = {}
    for source in args.data:
        examples = tasks.load_examples(
            source,
            task=predictor.task,
            split=options.split,
            label_names=labels,
            labelled=True,
            options=options.task_options,
            **options.columns.given(),
        )
        scores[source] = {"examples": len(examples), **predictor.evaluate(examples)}
        common.check_finite(scores[source], source)
    common.print_scores(scores)


def predict(args: argparse.Namespace) -> None:
    """`jaxbert predict`."""
    options = resolve(PredictOptions, vars(args))
    output = None
    if options.output is not None:
        output = common.free_file(options.output, overwrite=options.overwrite)
    options = _as_trained(PredictOptions, args)
    predictor = common.make_predictor(options)
    texts, rows = common.read_unlabelled(options, args.data, predictor.task)
    found = [_beside(row, said) for row, said in zip(rows, predictor.predict(texts), strict=True)]
    lines = _json_lines(found, texts.source)
    if output is None:
        sys.stdout.writelines(lines)
        sys.stdout.flush()
    else:
        write_text(output, "".join(lines))
    logger.info("%d lines written%s", len(lines), f" to {output}" if output else "")


def _as_trained(cls: type[T], args: argparse.Namespace) -> T:
    """The options of a command: where no flag says otherwise, as the model was trained.

    Raises:
      InputError: also where what its config.json says cannot be.
    """
    given = vars(args)
    options = resolve(cls, given)
    usual = {flag.place: flag.default for flag in flags.flags_of(cls)}
    more = {
        place: value
        for place, value in common.settings_of(options).items()
        if place not in given and value != usual[place]
    }
    if not more:
        return options
    told = ", ".join(f"{place.rpartition('.')[2]}={value}" for place, value in more.items())
    try:
        options = resolve(cls, more | given)
    except InputError as error:
        raise InputError(f"{options.model} was trained with {told}: {error}") from None
    logger.info("as in the training of %s: %s", options.model, told)
    return options


def _beside(row: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the data and what the model says of it.

    A column of the same name is `given_...`, but for the id, which is what the row calls itself.
    """
    other = {name for name in row if name in said and (name != "id" or said[name] != row[name])}
    return {f"given_{name}" if name in other else name: row[name] for name in row} | {**said}


def _json_lines(rows: Sequence[Mapping[str, Any]], source: str) -> list[str]:
    """A line for each row.

    Raises:
      InputError: a number that is not finite, for which JSON has no word.
    """
    lines = []
    for index, row in enumerate(rows, 1):
        try:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        except ValueError:
            raise _not_finite(source, index) from None
        lines.append(line.translate(_LINE_ENDS) + "\n")
    return lines


# In JSON they may stand as they are, but others take them for the end of a line.
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}


def _not_finite(source: str, row: int) -> InputError:
    return InputError(
        f"{source}: what the model computes for text {row} (counted from 1) is no finite number; "
        "try --dtype float32, or another model"
    )


def embed(args: argparse.Namespace) -> None:
    """`jaxbert embed`."""
    import numpy as np

    options = resolve(EmbedOptions, vars(args))
    output = common.free_file(options.output, overwrite=options.overwrite)
    if output.suffix != ".npy":
        raise InputError(f"--output {output}: want a name that ends in .npy")
    texts = common.read_texts(options, args.data)
    vectors = common.embed(options, texts)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise _not_finite(texts.source, int(finite.argmin()) + 1)
    with replacing(output) as temporary, temporary.open("wb") as file:
        np.save(file, vectors)
    print(f"{output}: {vectors.shape[0]} vectors of width {vectors.shape[1]}")
