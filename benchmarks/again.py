"""Runs cells of the study again that are drawn at random, and compares what comes out.

    taskset --cpu-list 0 python -m benchmarks.again --directory small=DIR --directory sst2=DIR ...

On the same kind of processor, and one core as the study had it, the numbers are the same to the
last digit that a journal keeps; elsewhere they differ as rounding makes trainings differ. Drawn are
only cells whose journals name the network that they began with: `jaxbert lab run` refuses to go on
with another.

Writes a line a cell to benchmarks/results/again.jsonl.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.results import RESULTS, append_result, environment
from jaxbert.lab.journals import Collection, read, read_study
from jaxbert.lab.plan_file import FILE, directory_of
from jaxbert.lab.records import MERGED, TEST, Run, unmerge

NAME = "again"


class Cell(NamedTuple):
    """One run of the study."""

    task: str
    model: str
    size: str
    strategy: str
    seed: int

    @property
    def place(self) -> str:
        """Of its journal, in its study."""
        return f"runs/{self.size}/{self.strategy}/{self.seed}"


def main() -> None:
    """Draws, runs and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, default=RESULTS / "lab" / "plan")
    parser.add_argument("--cells", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--directory", action="append", default=[], help="as of jaxbert lab run")
    args = parser.parse_args()
    found = read(args.study)
    if not isinstance(found, Collection):
        raise SystemExit(f"{args.study} is no plan's")
    there = [*cells(found)]
    drawn = np.random.default_rng(args.seed).permutation(len(there))[: args.cells]
    for number in np.sort(drawn):
        cell = there[number]
        study = found.studies[cell.task, cell.model]
        before = study.cell(cell.size, cell.strategy)
        told = compare(before[cell.seed], again(args.study, cell, args.directory))
        scores = [run.score(TEST) for run in before.values()]
        told["deviation"] = float(np.std([s for s in scores if s is not None], ddof=1))
        append_result(NAME, {**cell._asdict(), **told, **environment()})
        print("/".join(map(str, cell)), told, flush=True)


def cells(found: Collection) -> Iterator[Cell]:
    """Every run whose network is named, of cells that say how much seeds differ."""
    for (task, model), study in found.studies.items():
        for size, strategy, seed, run in study.everything():
            if "network" in run.start and len(study.cell(size, strategy)) > 1:
                yield Cell(task, model, size, strategy, seed)


def again(directory: Path, cell: Cell, directories: list[str]) -> Run:
    """The run, made anew with the base rate that had been chosen."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        part = directory_of(cell.task, cell.model)
        shutil.copytree(directory / part, folder / part)
        shutil.copy(directory / FILE, folder / FILE)
        leave_out(folder / part / MERGED, cell.place)
        words = [word for given in directories for word in ("--directory", given)]
        subprocess.run(
            [sys.executable, "-m", "jaxbert", "lab", "run", "--plan", directory / FILE, "--output",
             folder, "--only", "/".join(map(str, cell)), *words],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return read_study(folder / part).cell(cell.size, cell.strategy)[cell.seed]


def leave_out(merged: Path, place: str) -> None:
    """Has the runs of a study's one file as journals, but for one, and the file no more."""
    unmerge(merged.parent)
    merged.unlink(missing_ok=True)
    journal = merged.parent / f"{place}.jsonl"
    if not journal.is_file():
        raise ValueError(f"{merged} does not have {place} once")
    journal.unlink()


def compare(before: Run, after: Run) -> dict[str, Any]:
    """Whether two runs say the same of every example, and how far their scores are apart."""
    told = ("status", "scores", "by_example")
    same = all(before.end.get(name) == after.end.get(name) for name in told)
    difference = None
    if before.end["scores"] and after.end["scores"]:
        pairs = [(before.score(name), after.score(name)) for name in before.end["scores"]]
        difference = max(abs((a or 0.0) - (b or 0.0)) for a, b in pairs)
    return {"same": same, "difference": difference}


if __name__ == "__main__":
    main()
