"""Runs cells of the study again that are drawn at random, and compares what comes out.

    taskset --cpu-list 0 python -m benchmarks.again --directory small=DIR --directory sst2=DIR ...
    python -m benchmarks.again --study benchmarks/results/lab/study --network 1bf4e0943df857d9

On the same kind of processor, and one core as the study had it, the numbers are the same to the
last digit that a journal keeps; elsewhere, or with other code than the study had, they differ as
rounding makes trainings differ. Drawn are only cells whose journals name the network that they
began with: `jaxbert lab run` refuses to go on with another. `--network` is that of the first study,
whose journals name none.

Writes a line a cell to benchmarks/results/again.jsonl.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.results import RESULTS, append_result, environment
from jaxbert.lab.journals import Collection, Study, Sweep, read, read_study
from jaxbert.lab.page import command
from jaxbert.lab.plan_file import FILE, directory_of
from jaxbert.lab.records import MERGED, TEST, Run, unmerge

NAME = "again"


class Cell(NamedTuple):
    """One run of the study; task and model are "" in a study that is no plan's."""

    task: str
    model: str
    size: str
    strategy: str
    seed: int

    @property
    def place(self) -> str:
        """Of its journal, in its study."""
        return f"runs/{self.size}/{self.strategy}/{self.seed}"

    @property
    def study(self) -> str:
        """The folder of its study."""
        return directory_of(self.task, self.model) if self.task else "."


def main() -> None:
    """Draws, runs and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, default=RESULTS / "lab" / "plan")
    parser.add_argument("--cells", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--directory", action="append", default=[], help="as of jaxbert lab run")
    parser.add_argument("--network", help="of journals that name none")
    args = parser.parse_args()
    found = read(args.study)
    if isinstance(found, Sweep):
        raise SystemExit(f"{args.study} is a sweep")
    studies = found.studies if isinstance(found, Collection) else {("", ""): found}
    there = [*cells(studies, args.network)]
    drawn = np.random.default_rng(args.seed).permutation(len(there))[: args.cells]
    for number in np.sort(drawn):
        cell = there[number]
        study = studies[cell.task, cell.model]
        before = study.cell(cell.size, cell.strategy)
        words = _words(study, cell, args.study, args.directory)
        told = compare(before[cell.seed], again(args.study, cell, words, args.network))
        scores = [run.score(TEST) for run in before.values()]
        told["deviation"] = float(np.std([s for s in scores if s is not None], ddof=1))
        row = {"of": args.study.name, **cell._asdict(), **told}
        append_result(NAME, {**row, **environment()})
        print(row, flush=True)


def cells(studies: Mapping[tuple[str, str], Study], network: str | None = None) -> Iterator[Cell]:
    """Every run whose network is named, or given, of cells that say how much seeds differ."""
    for (task, model), study in studies.items():
        for size, strategy, seed, run in study.everything():
            if (network or "network" in run.start) and len(study.cell(size, strategy)) > 1:
                yield Cell(task, model, size, strategy, seed)


def _words(study: Study, cell: Cell, directory: Path, directories: list[str]) -> list[str]:
    """The command that makes what is missing of a study, up to its output."""
    if not cell.task:
        return shlex.split(command(study).removesuffix("DIRECTORY"))[1:]
    words = ["lab", "run", "--plan", str(directory / FILE), "--only", "/".join(map(str, cell))]
    return [*words, *(w for given in directories for w in ("--directory", given)), "--output"]


def again(directory: Path, cell: Cell, words: list[str], network: str | None) -> Run:
    """The run, made anew with the base rate that had been chosen."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = folder / cell.study
        shutil.copytree(directory / cell.study, study, dirs_exist_ok=True)
        if cell.task:
            shutil.copy(directory / FILE, folder / FILE)
        leave_out(study / MERGED, cell.place)
        if network:
            name_network(study, network)
        subprocess.run(
            [sys.executable, "-m", "jaxbert", *words, folder],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return read_study(study).cell(cell.size, cell.strategy)[cell.seed]


def name_network(study: Path, network: str) -> None:
    """Has journals say what they began with, as those do that are made today."""
    for path in study.rglob("*.jsonl"):
        start, *rest = path.read_text(encoding="utf-8").splitlines()
        named = json.dumps(json.loads(start) | {"network": network})
        path.write_text("".join(f"{line}\n" for line in (named, *rest)), encoding="utf-8")


def leave_out(merged: Path, place: str) -> None:
    """Has the runs of a study's one file as journals, but for one, and the file no more."""
    unmerge(merged.parent)
    merged.unlink(missing_ok=True)
    journal = merged.parent / f"{place}.jsonl"
    if not journal.is_file():
        raise ValueError(f"{merged} does not have {place} once")
    journal.unlink()


def compare(before: Run, after: Run) -> dict[str, Any]:
    """Whether two runs say the same of every example, and how far their test scores are apart."""
    told = ("status", "scores", "by_example")
    same = all(before.end.get(name) == after.end.get(name) for name in told)
    scores = [run.score(TEST) for run in (before, after)]
    known = [score for score in scores if score is not None]
    return {"same": same, "difference": abs(known[0] - known[1]) if len(known) == 2 else None}


if __name__ == "__main__":
    main()
