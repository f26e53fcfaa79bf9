"""`main`: which command, and how it ends."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jaxbert
from jaxbert.cli import export, finetune, infer, lab, plan, rates
from jaxbert.cli.flags import Parser, visible
from jaxbert.cpu import has_accelerator, restart_with_allocator
from jaxbert.errors import InputError, Interrupted, JaxbertError, LostProcessError, Preempted
from jaxbert.training.config import SETTINGS

Run = Callable[[argparse.Namespace], None]


def command() -> int:
    """`main` as a process of its own, which ends without taking itself apart.

    Python would free the objects of jax one by one, a second and a half after all is done; the
    system takes all memory back at once.
    """
    ended: list[int] = []
    atexit.register(_end, ended)  # before anything is imported that registers more: runs last
    ended.append(main())
    return ended[0]


def _end(ended: Sequence[int]) -> None:
    """Ends the process with that status; without one, or if output is lost, Python does."""
    if ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status, see `jaxbert.errors`."""
    args, rest = make_parser().parse_known_args(argv)
    if rest:
        args.parser.error(f"unknown: {' '.join(rest)}")
    if argv is None:
        restart_with_allocator("jaxbert", sys.argv[1:])
    _prepare()
    if not getattr(args, "distributed", False):
        return _guarded(args)
    try:
        status = _guarded(args)
    except Exception:
        traceback.print_exc()
        status = 1
    if status in (1, InputError.status, LostProcessError.status):
        # An ordinary end would wait for the other processes, and they wait for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def make_parser() -> Parser:
    """The parser of the whole command line; imports neither jax nor numpy."""
    parser = Parser(
        prog="jaxbert", description="Fine-tune BERT in JAX, with a learning rate for every layer."
    )
    version = f"jaxbert {jaxbert.__version__}"
    parser.add_argument("--version", action="version", version=version, help="show which it is")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add(commands, "finetune", finetune.run, finetune.add_flags,
         "fine-tune a pre-trained model on labelled texts")  # fmt: skip
    _add(commands, "evaluate", infer.evaluate, infer.add_evaluate_flags,
         "score a fine-tuned model")  # fmt: skip
    _add(commands, "predict", infer.predict, infer.add_predict_flags,
         "label texts: one JSON line for each")  # fmt: skip
    _add(commands, "embed", infer.embed, infer.add_embed_flags,
         "sentence embeddings, to a .npy file")  # fmt: skip
    _add(commands, "export", export.run, export.add_flags,
         "write the program of a model, which runs with JAX alone")  # fmt: skip
    _add(commands, "lr", rates.lr, rates.add_lr_flags,
         "print every group's learning rates")  # fmt: skip
    _add(commands, "lr-find", rates.lr_find, rates.add_find_flags,
         "range test: how high a rate can be")  # fmt: skip
    _add(commands, "plan", plan.run, plan.add_flags,
         "what training would take of rented hardware")  # fmt: skip
    _add(commands, "demo", finetune.demo, finetune.add_demo_flags,
         "fetch a small BERT and film reviews, fine-tune, and score")  # fmt: skip
    about = "compare learning-rate strategies with evidence"
    below = commands.add_parser("lab", help=about, description=about)
    studies = below.add_subparsers(required=True, metavar="command")
    _add(studies, "run", lab.run, lab.add_run_flags, "strategies x train sizes x seeds")
    _add(studies, "sweep", lab.sweep, lab.add_sweep_flags, "learning rates x layer decays")
    _add(studies, "report", lab.report, lab.add_report_flags,
         "one page of what a study or a sweep found")  # fmt: skip
    return parser


def _add(
    commands: argparse._SubParsersAction[Parser],
    name: str,
    run: Run,
    add_flags: Callable[[Parser], None],
    about: str,
) -> None:
    parser = commands.add_parser(name, help=about, description=about)
    add_flags(parser)
    parser.set_defaults(command=run, parser=parser)


def _guarded(args: argparse.Namespace) -> int:
    """The command, with every expected failure in one line and its status."""
    try:
        args.command(args)
    except BrokenPipeError:
        # The reader of our output has gone: nothing is wrong, but Python would complain on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as stop:
        status = getattr(stop, "status", Interrupted.status)
        word = "preempted" if status == Preempted.status else "stopped"
        return _complain(word + _hint(args), status)
    except (JaxbertError, OSError, ModuleNotFoundError) as error:
        if args.traceback:
            traceback.print_exc()
        status = error.status if isinstance(error, JaxbertError) else InputError.status
        return _complain(str(error), status)
    return 0


def _hint(args: argparse.Namespace) -> str:
    """How to go on with a run that has been stopped."""
    from jaxbert.training.run_directory import place_of

    output = getattr(args, "output", None)
    if output is None or not (place_of(Path(output)) / SETTINGS).is_file():
        return ""
    return f"; continue with: jaxbert finetune --resume --output {output}"


def _complain(message: str, status: int) -> int:
    print(f"jaxbert: {visible(message)}", file=sys.stderr)
    return status


def _make_visible(record: logging.LogRecord) -> bool:
    """Of a line of the log: names of files and columns are others' to choose."""
    record.msg, record.args = visible(record.getMessage()), ()
    return True


def _excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """As Python's, but for what nobody can catch.

    Where one of orbax's writes fails, the others go on in threads of their own, end after the loop
    that asked for them is closed, and each says so here.
    """
    if not (kind is RuntimeError and str(error) == "Event loop is closed"):
        sys.__excepthook__(kind, error, trace)


def _prepare() -> None:
    """Logging, and libraries that would talk."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_make_visible)
    logging.getLogger("jaxbert").setLevel(logging.INFO)
    # What orbax's threads have to say of a disk that is full is in the error that we tell.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    sys.excepthook = _excepthook
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not has_accelerator():
        # Where libtpu is installed and no TPU is there, to ask it is six lines of its own.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
