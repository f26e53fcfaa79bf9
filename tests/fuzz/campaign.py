"""A target's cases, one after the other, in a process that may die of one."""

import collections
import logging
import multiprocessing
import tempfile
import time
from pathlib import Path

from tests.fuzz.cases import Bench
from tests.fuzz.targets import TARGETS

SHOWN = 20  # findings of a target


def work(name, seed, first, cases, until, tell):
    """The cases from `first` on, in a process of its own; tells what becomes of each."""
    logging.disable()
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(name, TARGETS[name], Path(directory) / "files")
        began, number = time.monotonic(), first
        while number < cases and time.monotonic() - began < until:
            tell.send((number, None, 0, 0.0))
            found = bench.case(seed, number)
            tell.send((number, found, bench.biggest, bench.slowest))
            number += 1
    tell.close()


def fuzz(name, seed, cases, seconds, first=0):
    """{what became of a case: how often} and more of a target, for its row."""
    context = multiprocessing.get_context("spawn")
    counts, findings, biggest, slowest = collections.Counter(), [], 0, 0.0
    end, next_case, done = time.monotonic() + seconds, first, False
    began = time.monotonic()
    while not done and next_case < cases and time.monotonic() < end:
        listen, tell = context.Pipe(duplex=False)
        left = end - time.monotonic()
        process = context.Process(target=work, args=(name, seed, next_case, cases, left, tell))
        process.start()
        tell.close()
        running = None
        try:
            while True:
                number, found, *most = listen.recv()
                running, next_case = (number, next_case) if found is None else (None, number + 1)
                if found is None:
                    continue
                biggest, slowest = max(biggest, most[0]), max(slowest, most[1])
                counts[found if found in ("refused", "read") else "found"] += 1
                if found not in ("refused", "read"):
                    findings.append(f"case {number}: {found}")
        except EOFError:
            process.join()
        done = running is None
        if running is not None:
            findings.append(f"case {running}: the process died, {process.exitcode}")
            counts["found"] += 1
            next_case = running + 1
        elif process.exitcode:
            raise RuntimeError(f"{name}: its good files are not read, status {process.exitcode}")
    return {
        "target": name,
        "seed": seed,
        "cases": counts.total(),
        **{kind: counts[kind] for kind in ("refused", "read", "found")},
        "findings": findings[:SHOWN],
        "largest_bytes": biggest,
        "slowest_seconds": round(slowest, 3),
        "seconds": round(time.monotonic() - began, 1),
    }


def show(name, seed, number):
    """The changed file of a case, and the error that reading it ends with."""
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(name, TARGETS[name], Path(directory) / "files")
        path = bench.change(seed, number)
        print(path.name, path.read_bytes()[:3000])
        TARGETS[name].read(path)
    return 0
