"""Reads what a study or a sweep left on disk, and says what of it is missing."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxbert.errors import InputError
from jaxbert.lab.metric import ACCURACY, FIRST, Metric, metric_of
from jaxbert.weights.json_files import read_json

STUDY, SWEEP = "study.json", "sweep.json"
VERSION = 1
# A run whose in-domain predictions have a Matthews correlation below this guesses: it failed.
GUESSING = 0.1
TEST, DEVELOPMENT = "test", "development"


@dataclass(frozen=True)
class Run:
    """One finished run.

    start, end: the first and last line of its journal. train, evaluations: those between. metric:
    by which it is compared with others.
    """

    start: Mapping[str, Any]
    train: tuple[Mapping[str, Any], ...]
    evaluations: tuple[Mapping[str, Any], ...]
    end: Mapping[str, Any]
    metric: Metric = ACCURACY

    @property
    def diverged(self) -> bool:
        """Whether its numbers stopped being finite."""
        return self.end["status"] == "diverged"

    @property
    def failed(self) -> bool:
        """Diverged or, where the scores tell, no better than guessing."""
        return self.diverged or self.end["scores"][TEST].get("matthews", GUESSING) < GUESSING

    def score(self, data: str, metric: str | None = None) -> float | None:
        """A score, by default that of the study's metric; None if it diverged."""
        if self.diverged:
            return None
        return self.metric.share(self.end["scores"][data][metric or self.metric.name])

    @property
    def out_of_domain(self) -> float | None:
        """The mean score over all out-of-domain sets; None without any, or if it diverged."""
        if self.diverged:
            return None
        names = [name for name in self.end["scores"] if name not in (TEST, DEVELOPMENT)]
        scores = [score for name in names if (score := self.score(name)) is not None]
        return statistics.mean(scores) if scores else None

    @property
    def mean_drift(self) -> float | None:
        """||w - w0|| / ||w0||, the mean over the layers of the encoder."""
        return _layers_mean(self.end["drift"])

    def mean_similarity(self, kind: str = "cka", part: str = "all") -> float | None:
        """To the pre-trained model; over all layers, or their lower half ("early")."""
        values = self.end["similarity"]
        if values is None:
            return None
        layers = [v for name, v in values[kind].items() if name.startswith("layer_")]
        return statistics.mean(layers[: (len(layers) + 1) // 2] if part == "early" else layers)


def _layers_mean(values: Mapping[str, float] | None) -> float | None:
    if values is None:
        return None
    return statistics.mean(v for name, v in values.items() if name.startswith("layer_"))


@dataclass(frozen=True)
class Study:
    """A study on disk.

    about: study.json. runs: {size: {strategy: {seed: run}}}, in the order of study.json; of a cell
    what is there. missing: how many runs are not.
    """

    about: Mapping[str, Any]
    runs: Mapping[str, Mapping[str, Mapping[int, Run]]]
    missing: int
    directory: Path = field(compare=False)

    @property
    def strategies(self) -> list[str]:
        """In the order to show."""
        return list(self.about["strategies"])

    @property
    def sizes(self) -> list[str]:
        """From the smallest to the largest, those with any run."""
        return [size for size in self.about["sizes"] if any(self.runs[size].values())]

    @property
    def metric(self) -> Metric:
        """By which runs are compared."""
        return metric_of(self.about)

    @property
    def control(self) -> str:
        """The strategy that the others are compared with."""
        return self.about["control"]

    @property
    def out_of_domain(self) -> list[str]:
        """Names of the data sets."""
        return list(self.about["out_of_domain"])

    def cell(self, size: str, strategy: str) -> Mapping[int, Run]:
        """{seed: run}, empty where nothing is."""
        return self.runs.get(size, {}).get(strategy, {})

    def everything(self) -> Iterator[tuple[str, str, int, Run]]:
        """(size, strategy, seed, run) of every run."""
        for size, strategies in self.runs.items():
            for strategy, seeds in strategies.items():
                for seed, run in seeds.items():
                    yield size, strategy, seed, run


@dataclass(frozen=True)
class Sweep:
    """A sweep on disk: sweep.json, and {(rate, decay): {seed: run}}."""

    about: Mapping[str, Any]
    runs: Mapping[tuple[float, float], Mapping[int, Run]]
    missing: int
    directory: Path = field(compare=False)

    @property
    def metric(self) -> Metric:
        """By which runs are compared."""
        return metric_of(self.about)


def read(directory: str | Path) -> Study | Sweep:
    """Whichever of the two is in the directory.

    Raises:
      FileNotFoundError: neither is; InputError: files that are no journals, all of them named.
    """
    path = Path(directory)
    for name, read_it in ((STUDY, _read_study), (SWEEP, _read_sweep)):
        if (path / name).is_file():
            try:
                return read_it(path)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(
                    f"{path / name} is not as lab run or lab sweep has written it ({error!r}): "
                    "put it back"
                ) from error
    raise FileNotFoundError(
        f"{directory} holds neither a study nor a sweep ({STUDY} and {SWEEP} are missing): "
        "make one with jaxbert lab run or jaxbert lab sweep"
    )


def _read_study(path: Path) -> Study:
    about = _description(path / STUDY)
    problems: list[str] = []
    runs: dict[str, dict[str, dict[int, Run]]] = {}
    missing = 0
    for size in about["sizes"]:
        runs[size] = {}
        for strategy in about["strategies"]:
            cell = _cell(path / "runs" / size / strategy, about, problems)
            runs[size][strategy] = cell
            missing += len(about["seeds"]) - len(cell)
    _complain(path, problems)
    return Study(about, runs, missing, path)


def _read_sweep(path: Path) -> Sweep:
    about = _description(path / SWEEP)
    problems: list[str] = []
    runs, missing = {}, 0
    for rate in about["rates"]:
        for decay in about["decays"]:
            cell = _cell(path / "runs" / f"{rate:g}" / f"{decay:g}", about, problems)
            runs[rate, decay] = cell
            missing += len(about["seeds"]) - len(cell)
    _complain(path, problems)
    return Sweep(about, runs, missing, path)


def _description(path: Path) -> dict[str, Any]:
    about = read_json(path, "put it back, or run the lab anew")
    if about.get("version") != VERSION:
        raise InputError(f"{path}: want version {VERSION} of the format, made by jaxbert lab")
    return {**FIRST, **about}


def _cell(directory: Path, about: Mapping[str, Any], problems: list[str]) -> dict[int, Run]:
    cell, metric = {}, metric_of(about)
    for seed in about["seeds"]:
        path = directory / f"{seed}.jsonl"
        if path.is_file():
            try:
                run = read_journal(path, metric)
            except InputError as error:
                problems.append(str(error))
                continue
            if run is not None:
                cell[seed] = run
    return cell


def _complain(path: Path, problems: list[str]) -> None:
    if problems:
        raise InputError(f"{path}: {'; '.join(problems)}; delete them and run the lab again")


def read_journal(path: Path, metric: Metric = ACCURACY) -> Run | None:
    """One run, to be compared by `metric`; None if it has not ended (its last line may be cut).

    Raises:
      InputError: no text, or not lines of JSON.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is no text ({error})") from None
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            if number < len(lines):
                raise InputError(f"{path.name} line {number} is no JSON") from None
            continue
        if not isinstance(event, dict) or "event" not in event:
            raise InputError(f"{path.name} line {number} is no event")
        events.append(event)
    if not events or events[-1].get("event") != "end":
        return None
    return Run(
        events[0],
        tuple(e for e in events if e["event"] == "train"),
        tuple(e for e in events if e["event"] == "eval"),
        events[-1],
        metric,
    )
