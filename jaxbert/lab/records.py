"""One run as its journal tells it, and the one file that holds the runs of a study."""

from __future__ import annotations

import gzip
import json
import statistics
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxbert.atomic import replacing, write_text
from jaxbert.errors import InputError
from jaxbert.lab.by_example import unpack
from jaxbert.lab.metric import ACCURACY, Metric

MERGED = "journals.jsonl.gz"
_MOST = 2**28  # bytes that it may hold: a study of a thousand runs has two million
# A run whose in-domain predictions have a Matthews correlation below this guesses: it failed.
GUESSING = 0.1
TEST, DEVELOPMENT = "test", "development"
_CURVES = 1  # so many seeds of a cell keep their lines of training in the one file
_DIGITS = 4  # that numbers there keep which are no scores
_ALIKE = ("optimizer", "peak_rates", "strategy", "size")  # of all seeds of a cell


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
        """Diverged, or no better than guessing: by Matthews correlation, else by a score of 0."""
        if self.diverged:
            return True
        scores = self.end["scores"][TEST]
        if "matthews" in scores:
            return bool(scores["matthews"] < GUESSING)
        return self.metric.higher_is_better and bool(scores[self.metric.name] <= 0)

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

    def correct(self, data: str, count: int) -> np.ndarray | None:
        """[count] bool: which examples of a set it got right; None where that was not kept.

        Raises:
          InputError: what was kept is of another number of examples.
        """
        kept = self._kept(data)
        return None if kept is None else unpack(kept["correct"], count)

    def calibration(self, data: str) -> float | None:
        """The expected calibration error on a set; None where that was not kept."""
        kept = self._kept(data)
        return None if kept is None else kept["ece"]

    def _kept(self, data: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = (self.end.get("by_example") or {}).get(data)
        return found

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


def read_journal(path: Path, metric: Metric = ACCURACY) -> Run | None:
    """One run, to be compared by `metric`; None if it has not ended (its last line may be cut).

    Raises:
      InputError: no text, or not lines of JSON.
    """
    events: list[Any] = []
    lines = _lines(path)
    for number, line in enumerate(lines, start=1):
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise InputError(f"{path.name} line {number} is no JSON") from None
            continue
        if not _is_event(events[-1]):
            raise InputError(f"{path.name} line {number} is no event")
    return _run(events, metric) if events and events[-1]["event"] == "end" else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is no text ({error})") from None


def _is_event(value: Any) -> bool:
    return isinstance(value, dict) and "event" in value


def _run(events: list[dict[str, Any]], metric: Metric) -> Run:
    return Run(
        events[0],
        tuple(e for e in events if e["event"] == "train"),
        tuple(e for e in events if e["event"] == "eval"),
        events[-1],
        metric,
    )


def read_merged(path: Path, metric: Metric = ACCURACY) -> dict[str, Run]:
    """{place: run} of the one file of a study, or none where there is no such file.

    Lines of JSON, compressed by gzip.

    A place is what the journal would be called: runs/SIZE/STRATEGY/SEED, or grid/....

    Raises:
      InputError: a line is no run, the first of them is named; the file is damaged, or holds more
        than any study.
    """
    found: dict[str, Run] = {}
    if not path.is_file():
        return found
    for number, line in enumerate(_unpacked(path), start=1):
        try:
            content = json.loads(line)
            place, events = content["place"], content["events"]
            whole = all(map(_is_event, events)) and events[-1]["event"] == "end"
        except (ValueError, TypeError, KeyError, IndexError):
            whole = False
        if not whole:
            raise InputError(f"{path.name} line {number} is no run")
        found[place] = _run(events, metric)
    return found


def _unpacked(path: Path) -> list[str]:
    try:
        with gzip.open(path) as file:
            content = file.read(_MOST + 1)
        if len(content) > _MOST:
            raise InputError(f"{path.name} unpacks to more than {_MOST >> 20} MiB, no study does")
        return content.decode("utf-8").splitlines()
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is damaged ({error})") from None


def merge(directory: Path) -> Path:
    """Writes the finished runs of a study or sweep into its one file; the journals stay.

    Runs that the file has already and whose journals are gone stay in it. What a report does not
    read is left out: of all seeds but the first of a cell, the lines of training, and of the grid
    all but the scores. Scores and what is kept by example are kept as they are.

    Raises:
      InputError: files that are no journals, or no such file.
    """
    found = read_merged(directory / MERGED)
    for folder in ("runs", "grid"):
        for path in sorted((directory / folder).rglob("*.jsonl")):
            run = read_journal(path)
            if run is not None:
                found[path.relative_to(directory).with_suffix("").as_posix()] = run
    lines, seen = [], dict[str, int]()
    for place in sorted(found, key=_in_order):
        cell = place.rpartition("/")[0]
        seen[cell] = seen.get(cell, 0) + 1
        curves = place.startswith("runs/") and seen[cell] <= _CURVES
        lines.append(json.dumps({"place": place, "events": _essence(found[place], curves)}))
    text = "".join(f"{line}\n" for line in lines)
    with replacing(directory / MERGED) as path:
        path.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))  # the same bytes each time
    return directory / MERGED


def unmerge(directory: Path) -> None:
    """Writes the journals that the one file of a study has and `directory` has not, to go on."""
    for place, run in read_merged(directory / MERGED).items():
        path = directory / f"{place}.jsonl"
        if path.resolve().is_relative_to(directory.resolve()) and not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            events = [run.start, *run.train, *run.evaluations, run.end]
            write_text(path, "".join(f"{json.dumps(event)}\n" for event in events))


def _in_order(place: str) -> tuple[str, int, str]:
    """Seeds as numbers."""
    cell, _, last = place.rpartition("/")
    return cell, int(last) if last.isdecimal() else -1, last


def _essence(run: Run, curves: bool) -> list[Mapping[str, Any]]:
    start = {k: v for k, v in run.start.items() if curves or k not in _ALIKE}
    end = {k: v if k in ("scores", "by_example") else _short(v) for k, v in run.end.items()}
    if not curves:
        return [start, end]
    return [start, *map(_short, run.train), *map(_short, run.evaluations), end]


def _short(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items()}
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
