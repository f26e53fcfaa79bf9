"""Reads what a study, a sweep or a whole plan left on disk, and says what of it is missing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxbert.errors import InputError
from jaxbert.lab.metric import ACCURACY, FIRST, Metric, metric_of
from jaxbert.lab.plan_file import FILE, Margins, Plan, directory_of, read_plan
from jaxbert.lab.records import MERGED, Run, read_journal, read_merged
from jaxbert.weights.json_files import read_json

STUDY, SWEEP = "study.json", "sweep.json"
VERSION = 1
UNNAMED = "not named"  # the network of journals that were made before they named theirs
Cell = Mapping[int, Run]  # {seed: run}


@dataclass(frozen=True, eq=False)
class Study:
    """A study on disk.

    about: study.json. runs: {size: {strategy: {seed: run}}}, in the order of study.json; of a cell
    what is there. grid: {size: {strategy: {rate: {seed: run}}}} of the runs that chose base rates.
    missing: how many runs are not there. margins: differences that do not matter.
    """

    about: Mapping[str, Any]
    runs: Mapping[str, Mapping[str, Cell]]
    grid: Mapping[str, Mapping[str, Mapping[float, Cell]]]
    missing: int
    directory: Path
    margins: Margins = field(default_factory=Margins)

    @property
    def strategies(self) -> list[str]:
        """In the order to show."""
        return list(self.about["strategies"])

    @property
    def sizes(self) -> list[str]:
        """From the smallest to the largest, those with any run."""
        return [size for size in self.about["sizes"] if any(self.runs[size].values())]

    @property
    def control(self) -> str:
        """The strategy that the others are compared with."""
        return self.about["control"]

    @property
    def out_of_domain(self) -> list[str]:
        """Names of the data sets."""
        return list(self.about["out_of_domain"])

    @property
    def metric(self) -> Metric:
        """By which runs are compared."""
        return metric_of(self.about)

    @property
    def guess(self) -> float | None:
        """The score that a run has which diverged: of accuracy a coin's, else 0; None = none."""
        labels = self.about["labels"]
        if self.metric == ACCURACY and labels:
            return 1 / len(labels)
        return 0.0 if self.metric.higher_is_better else None

    def count(self, data: str) -> int:
        """Examples of a data set."""
        return self.about["data"][data]["count"]

    def cell(self, size: str, strategy: str) -> Cell:
        """{seed: run}, empty where nothing is."""
        return self.runs.get(size, {}).get(strategy, {})

    def networks(self, size: str) -> list[str]:
        """The pre-trained networks that the runs at a size began with: one, or it is a mistake."""
        return _networks(self.runs[size].values())

    def guesses(self, size: str) -> bool:
        """Whether the control failed in more than half of its runs: nothing can be advised then."""
        runs = self.cell(size, self.control).values()
        return 2 * sum(run.failed for run in runs) > len(runs)

    def everything(self) -> Iterator[tuple[str, str, int, Run]]:
        """(size, strategy, seed, run) of every run."""
        for size, strategies in self.runs.items():
            for strategy, seeds in strategies.items():
                for seed, run in seeds.items():
                    yield size, strategy, seed, run


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep on disk: sweep.json, and {(rate, decay): {seed: run}}."""

    about: Mapping[str, Any]
    runs: Mapping[tuple[float, float], Cell]
    missing: int
    directory: Path

    @property
    def networks(self) -> list[str]:
        """The pre-trained networks that its runs began with: one, or it is a mistake."""
        return _networks(self.runs.values())

    @property
    def metric(self) -> Metric:
        """By which runs are compared."""
        return metric_of(self.about)


@dataclass(frozen=True, eq=False)
class Collection:
    """The studies of a plan on disk.

    studies: {(task, model): study}, those that have a run. absent: of those that have none.
    """

    plan: Plan
    studies: Mapping[tuple[str, str], Study]
    directory: Path
    absent: tuple[tuple[str, str], ...] = field(default=())

    @property
    def missing(self) -> int:
        """How many runs the studies that there are still lack."""
        return sum(study.missing for study in self.studies.values())


def read(directory: str | Path) -> Study | Sweep | Collection:
    """Whichever of them is in the directory.

    Raises:
      FileNotFoundError: none is; InputError: files that are no journals, all of them named.
    """
    path = Path(directory)
    if (path / FILE).is_file() and not (path / STUDY).is_file():
        return read_collection(path)
    for name, read_it in ((STUDY, read_study), (SWEEP, read_sweep)):
        if (path / name).is_file():
            return _as_written(path / name, functools.partial(read_it, path))
    raise FileNotFoundError(
        f"{directory} holds neither a study nor a sweep ({STUDY} and {SWEEP} are missing): "
        "make one with jaxbert lab run or jaxbert lab sweep"
    )


def _as_written(path: Path, read_it: Callable[[], Any]) -> Any:
    try:
        return read_it()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is not as lab run or lab sweep has written it ({error!r}): put it back"
        ) from error


def read_collection(path: Path) -> Collection:
    """The studies of a plan; errors as of `read`."""
    plan = read_plan(path / FILE)
    studies = {}
    for task, model in plan.studies:
        place = path / directory_of(task, model)
        if (place / STUDY).is_file():
            reading = functools.partial(read_study, place, plan, plan.margins_of(task))
            study = _as_written(place / STUDY, reading)
            if study.sizes:  # else its first runs choose rates, and none has counted yet
                studies[task, model] = study
    if not studies:
        raise FileNotFoundError(
            f"{path} holds the plan and no finished run of its studies: run jaxbert lab run --plan"
        )
    absent = [pair for pair in plan.studies if pair not in studies]
    return Collection(plan, studies, path, tuple(absent))


def read_study(path: Path, plan: Plan | None = None, margins: Margins | None = None) -> Study:
    """One study; of a plan, what is missing is what the plan runs at first."""
    about = _description(path / STUDY)
    journals = _Journals(path, about)
    runs: dict[str, dict[str, Cell]] = {}
    grid: dict[str, dict[str, dict[float, Cell]]] = {}
    missing = 0
    for size in about["sizes"]:
        runs[size], grid[size] = {}, {}
        for strategy in about["strategies"]:
            cell = journals.cell(f"runs/{size}/{strategy}", about["seeds"])
            runs[size][strategy] = cell
            grid[size][strategy] = journals.grid(f"grid/{size}/{strategy}")
            seeds = about["seeds"] if plan is None else about["seeds"][: plan.seeds.first]
            if plan is None or plan.has(size, strategy):
                missing += len([seed for seed in seeds if seed not in cell])
        journals.compare(f"runs/{size}", runs[size].values())
    journals.complain()
    return Study(about, runs, grid, missing, path, margins or Margins())


def read_sweep(path: Path) -> Sweep:
    """One sweep."""
    about = _description(path / SWEEP)
    journals = _Journals(path, about)
    runs, missing = {}, 0
    for rate in about["rates"]:
        for decay in about["decays"]:
            cell = journals.cell(f"runs/{rate:g}/{decay:g}", about["seeds"])
            runs[rate, decay] = cell
            missing += len(about["seeds"]) - len(cell)
    journals.compare("runs", runs.values())
    journals.complain()
    return Sweep(about, runs, missing, path)


def _description(path: Path) -> dict[str, Any]:
    about = read_json(path, "put it back, or run the lab anew")
    if about.get("version") != VERSION:
        raise InputError(f"{path}: want version {VERSION} of the format, made by jaxbert lab")
    return {**FIRST, **about}


def _networks(cells: Iterable[Cell]) -> list[str]:
    return sorted({run.start.get("network", UNNAMED) for cell in cells for run in cell.values()})


class _Journals:
    """The finished runs of a directory: of its journals, and of the one file they are merged in."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path, self._metric = path, metric_of(about)
        self._problems, self._merged = list[str](), dict[str, Run]()
        try:
            self._merged = read_merged(path / MERGED, self._metric)
        except InputError as error:
            self._problems.append(str(error))

    def cell(self, place: str, seeds: list[int]) -> dict[int, Run]:
        """{seed: run} of those seeds that there are."""
        found = {seed: self._run(f"{place}/{seed}") for seed in seeds}
        return {seed: run for seed, run in found.items() if run is not None}

    def grid(self, place: str) -> dict[float, Cell]:
        """{rate: {seed: run}}, from the lowest rate to the highest."""
        start = f"{place}/"
        names = {name.removeprefix(start) for name in self._merged if name.startswith(start)}
        names |= {path.stem for path in (self._path / place).glob("*.jsonl")}
        found: dict[float, dict[int, Run]] = {}
        for name in sorted(names):
            rate, _, seed = name.rpartition("-")
            run = self._run(f"{place}/{name}")
            if run is not None and "/" not in name:
                found.setdefault(float(rate), {})[int(seed)] = run
        return {rate: found[rate] for rate in sorted(found)}

    def _run(self, place: str) -> Run | None:
        path = self._path / f"{place}.jsonl"
        try:
            run = read_journal(path, self._metric) if path.is_file() else None
        except InputError as error:
            self._problems.append(str(error))
            return None
        return run or self._merged.get(place)

    def compare(self, place: str, cells: Iterable[Cell]) -> None:
        """Notes runs that began with different pre-trained networks: no comparison joins two."""
        found = _networks(cells)
        if len(found) > 1:
            self._problems.append(f"{place} has runs of different networks ({', '.join(found)})")

    def complain(self) -> None:
        """Raises InputError naming every file that is no journal, and every place of such runs."""
        if self._problems:
            told = "; ".join(self._problems)
            raise InputError(f"{self._path}: {told}; delete them and run the lab again")
