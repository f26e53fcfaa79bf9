"""A command of jaxbert in a process of its own, which tells what it writes for as long as it lives.

Its imports are done once, by the server that processes are forked from.
"""

import os
import re
import signal
import sys
from pathlib import Path

import jax
import orbax.checkpoint  # noqa: F401  what a run imports late
import tqdm.contrib.logging  # noqa: F401

import jaxbert.training  # noqa: F401
from jaxbert.cli import main
from jaxbert.training import distributed
from jaxbert.training.record import Record

# Python's audit events of what changes a directory: which of their arguments is the path.
CHANGES = {"open": 0, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.rename": 1, "os.link": 1}
WRITING = os.O_WRONLY | os.O_RDWR
DRAFT = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")


def run(argv, output, events, log, cache):
    """The command; one device, its programs from the cache.

    Args:
      events: the file that `watch` writes. log: of what the command says.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["JAXBERT_CACHE"], os.environ["XLA_FLAGS"] = str(cache), ""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_disable_most_optimizations", True)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    watch(output, events)
    status = main(argv)
    if status == 0:
        distributed.wait_for_all("the end")
    sys.stdout.flush()
    os._exit(status)  # the interpreter's own end takes longer than the run


def watch(output, events):
    """From here on adds a line to `events` for every step, and for every change below `output`.

    A change is told before it is made: who is killed after the line dies in the midst of it.
    """
    descriptor = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    root, write = f"{output}{os.sep}", Record.write

    def tell(what, name):
        os.write(descriptor, f"{what} {name}\n".encode())

    def change(event, args):
        if event not in CHANGES or (event == "open" and not args[2] & WRITING):
            return
        path = args[CHANGES[event]]
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(root):
            tell(event.removeprefix("os."), name_of(os.fspath(path).removeprefix(root)))

    def written(record, event, step, values):
        write(record, event, step, values)
        tell(event, step)

    Record.write = written
    sys.addaudithook(change)


def name_of(path):
    """What a file is of: "checkpoint", "tensorboard"; of a draft what it is to become.

    Example:
      >>> name_of("checkpoints/4/state/_METADATA"), name_of(".run.json.0123abcd.tmp")
      ('checkpoint', 'run.json')
    """
    first = Path(path).parts[0]
    draft = DRAFT.fullmatch(first)
    return draft[1] if draft else "checkpoint" if first == "checkpoints" else first
