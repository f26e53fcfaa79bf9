"""Many runs: strategies by train sizes by seeds, or learning rates by decays; resumable.

Every run is a journal of its own, see `run.Journal`; one that has its last line is never run again.
The same seed means the same examples, order, dropout and head for every strategy, so that
strategies are compared in pairs.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxbert.atomic import write_text
from jaxbert.errors import InputError
from jaxbert.lab.adaptation import Adaptation
from jaxbert.lab.journal import finished
from jaxbert.lab.journals import STUDY, SWEEP, VERSION, read_study, read_sweep
from jaxbert.lab.making import Progress, Run, Size
from jaxbert.lab.metric import FIRST, Metric
from jaxbert.lab.run import Adapted, Laboratory
from jaxbert.optim import Strategy
from jaxbert.tasks.options import MASKED_LM
from jaxbert.training.lock import held
from jaxbert.training.record import environment
from jaxbert.weights.json_files import read_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Which strategies are compared, at which train sizes, on how many seeds.

    Attributes:
      strategies: by name, in the order to show.
      control: the strategy that the others are compared with.
      sizes: of the training set.
      seeds: of the runs that count.
      rates: the grid of base rates; of each strategy and size the one with the best mean score
        on the development set is taken. Empty = every strategy keeps its own rate, as those with
        `tuned` false do in any case.
      grid_seeds: of the runs that choose; apart from `seeds`.
      extensions: how many rates further than the grid a strategy may go whose best is on its edge.
      place: TASK/MODEL of the plan that it is part of, if it is.
      adaptations: {strategy: how the model is pre-trained further before}, of those that do.
    """

    strategies: Mapping[str, Strategy]
    control: str
    sizes: tuple[Size, ...]
    seeds: tuple[int, ...]
    rates: tuple[float, ...] = ()
    grid_seeds: tuple[int, ...] = (100,)
    extensions: int = 0
    place: str | None = None
    adaptations: Mapping[str, Adaptation] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = []
        if strange := set(self.adaptations) - set(self.strategies):
            problems.append(f"adaptations of {sorted(strange)}, which are not among the strategies")
        if self.control not in self.strategies:
            problems.append(
                f"control={self.control!r} is not among the strategies {', '.join(self.strategies)}"
            )
        odd = [name for name in self.strategies if not re.fullmatch(r"\w[\w.+-]*", name)]
        if odd:  # they name directories
            problems.append(f"strategies {odd}: want names of letters, digits and _ . + -")
        names = [size.name for size in self.sizes]
        if len(set(names)) < len(names) or not names:
            problems.append(f"sizes={names} must be different, and one at least")
        if not self.seeds or set(self.seeds) & set(self.grid_seeds):
            problems.append(
                f"seeds={self.seeds} must be one at least, and not those of the grid "
                f"({self.grid_seeds})"
            )
        if not all(0 < rate < math.inf for rate in self.rates):
            problems.append(f"grid rates={self.rates} must be positive numbers")
        if problems:
            raise InputError("study: " + "; ".join(problems))

    def tuned(self, name: str) -> bool:
        """Whether the grid chooses the strategy's base rate."""
        return bool(self.rates) and self.strategies[name].tuned

    def adapted(self, name: str, size: Size, seed: int, directory: Path) -> Adapted | None:
        """What a strategy's run begins with in place of the pre-trained model."""
        if name not in self.adaptations:
            return None
        return Adapted(self.adaptations[name], directory / "adapted" / size.name / name / str(seed))


# (train size, strategy, seed; None = those of the grid) -> whether to make these runs.
Wanted = Callable[[str, str, int | None], bool]


def run_study(
    laboratory: Laboratory,
    study: Study,
    directory: Path,
    *,
    show: bool,
    wanted: Wanted = lambda *cell: True,
) -> None:
    """Makes every run that `directory` does not hold yet, size by size, the grid first.

    Args:
      wanted: which of them; all others are left for another time.

    Raises:
      InputError: `directory` holds another study, what differs is named; or another process has it.
      KeyboardInterrupt: on Ctrl-C; call again to go on.
    """
    with held(directory):
        _run_study(laboratory, study, directory, show, wanted)


def _run_study(
    laboratory: Laboratory, study: Study, directory: Path, show: bool, wanted: Wanted
) -> None:
    if study.adaptations and laboratory.task.name == MASKED_LM:
        names = ", ".join(study.adaptations)
        raise InputError(f"task {MASKED_LM} is what {names} would begin with: leave {names} out")
    description = _describe_study(laboratory, study)
    _claim(directory / STUDY, description)
    chosen: dict[str, dict[str, float]] = {}
    there = read_study(directory)
    before: dict[str, dict[str, float]] = (there.about.get("grid") or {}).get("chosen", {})
    with Progress(laboratory, _study_sizes(study, wanted), show) as progress:
        for size in study.sizes:
            to_come = _final_runs(study, size, {}, directory, wanted)
            _check_network(to_come, there.networks(size.name), laboratory.network)
            tried: dict[str, Sequence[float]] = {
                name: study.rates
                for name in study.strategies
                if study.tuned(name) and wanted(size.name, name, None)
            }
            grid = list(_grid_runs(study, size, directory, tried))
            ends = [progress.run(run) for run in grid]
            for _ in range(study.extensions):
                tried = _beyond_the_edge(grid, _chosen(grid, ends, laboratory.metric))
                further = list(_grid_runs(study, size, directory, tried))
                grid += further
                ends += [progress.run(run) for run in further]
            chosen[size.name] = before.get(size.name, {}) | _chosen(grid, ends, laboratory.metric)
            if grid:
                whole = {**description["grid"], "chosen": before | chosen}
                _write(directory / STUDY, {**description, "grid": whole})
            for run in _final_runs(study, size, chosen[size.name], directory, wanted):
                progress.run(run)


def _check_network(runs: Iterable[Run], there: Sequence[str], network: str) -> None:
    """Raises InputError if one is to be made yet, and those there began with another network."""
    others = [name for name in there if name != network]
    missing = next((run for run in runs if finished(run.journal) is None), None)
    if others and missing is not None:
        raise InputError(
            f"{missing.journal.parent.parent} has runs of the pre-trained network "
            f"{', '.join(others)}, and this is {network}: no comparison joins two; delete those "
            "runs, or give the model they began with, or another --output"
        )


def _study_sizes(study: Study, wanted: Wanted) -> Iterator[Size]:
    """The size of every run to come, but for rates beyond the grid."""
    for size in study.sizes:
        for name in study.strategies:
            if study.tuned(name) and wanted(size.name, name, None):
                yield from [size] * (len(study.rates) * len(study.grid_seeds))
            yield from [size] * sum(wanted(size.name, name, seed) for seed in study.seeds)


def _grid_runs(
    study: Study, size: Size, directory: Path, tried: Mapping[str, Sequence[float]]
) -> Iterator[Run]:
    """Every seed of the grid for these rates of these strategies."""
    for name, rates in tried.items():
        for rate in rates:
            for seed in study.grid_seeds:
                path = directory / "grid" / size.name / name / f"{rate:g}-{seed}.jsonl"
                about = {"strategy": name, "size": size.name}
                optimizer = study.strategies[name].config(learning_rate=rate)
                adapted = study.adapted(name, size, seed, directory)
                yield Run(
                    path, about, optimizer, size, seed, only_development=True, adapted=adapted
                )


def _beyond_the_edge(
    grid: Sequence[Run], chosen: Mapping[str, float]
) -> dict[str, Sequence[float]]:
    """{strategy: the next rate} of those whose best is the lowest or the highest tried so far.

    The step is the ratio of the two rates at that edge.
    """
    tried: dict[str, set[float]] = {}
    for run in grid:
        tried.setdefault(run.about["strategy"], set()).add(run.optimizer.learning_rate)
    further: dict[str, Sequence[float]] = {}
    for name, rates in tried.items():
        near = sorted(rates, key=lambda rate: abs(math.log(rate / chosen[name])))
        if len(rates) > 1 and chosen[name] in (min(rates), max(rates)):
            further[name] = [float(f"{near[0] ** 2 / near[1]:.3g}")]
    return further


def _chosen(runs: list[Run], ends: list[dict[str, Any]], metric: Metric) -> dict[str, float]:
    """{strategy: base rate} with the best mean development score; of equals the lowest."""
    merits: dict[str, dict[float, float]] = {}
    for run, end in zip(runs, ends, strict=True):
        rates = merits.setdefault(run.about["strategy"], {})
        # The rate of a run that diverged must not be chosen.
        score = end["scores"] and end["scores"]["development"][metric.name]
        rate, merit = run.optimizer.learning_rate, metric.merit(score)
        rates[rate] = rates.get(rate, 0.0) + (-math.inf if merit is None else merit)
    return {
        name: max(sorted(rates), key=lambda rate: rates[rate]) for name, rates in merits.items()
    }


def _final_runs(
    study: Study, size: Size, chosen: Mapping[str, float], directory: Path, wanted: Wanted
) -> Iterator[Run]:
    # Seed by seed: where time runs out, every strategy has as many.
    for seed, (name, strategy) in itertools.product(study.seeds, study.strategies.items()):
        if wanted(size.name, name, seed):
            path = directory / "runs" / size.name / name / f"{seed}.jsonl"
            rate = {"learning_rate": chosen[name]} if name in chosen else {}
            about = {"strategy": name, "size": size.name}
            adapted = study.adapted(name, size, seed, directory)
            # The one file of a plan's study keeps no other curves.
            curve = study.place is None or seed == study.seeds[0]
            optimizer = strategy.config(**rate)
            yield Run(path, about, optimizer, size, seed, curve=curve, adapted=adapted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid of learning rate by layer decay over one strategy, as Sun et al. 2019, table 4."""

    strategy: Strategy
    rates: tuple[float, ...]
    decays: tuple[float, ...]
    size: Size
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("rates", "decays", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"sweep: {name}={values} must be different, and one at least")
        if not all(0 < rate < math.inf for rate in self.rates):
            raise InputError(f"sweep: rates={self.rates} must be positive numbers")
        for decay in self.decays:  # now, and not when their turn comes
            self.strategy.config(layer_decay=decay)


def run_sweep(laboratory: Laboratory, sweep: Sweep, directory: Path, *, show: bool) -> None:
    """Makes every run of the grid that `directory` does not hold yet; raises as `run_study`."""
    with held(directory):
        _claim(directory / SWEEP, _describe_sweep(laboratory, sweep))
        runs = list(_sweep_runs(sweep, directory))
        _check_network(runs, read_sweep(directory).networks, laboratory.network)
        with Progress(laboratory, [sweep.size] * len(runs), show) as progress:
            for run in runs:
                progress.run(run)


def _sweep_runs(sweep: Sweep, directory: Path) -> Iterator[Run]:
    for seed in sweep.seeds:
        for rate in sweep.rates:
            for decay in sweep.decays:
                path = directory / "runs" / f"{rate:g}" / f"{decay:g}" / f"{seed}.jsonl"
                optimizer = sweep.strategy.config(learning_rate=rate, layer_decay=decay)
                about = {"strategy": sweep.strategy.name, "size": sweep.size.name}
                yield Run(path, about, optimizer, sweep.size, seed)


def _describe_study(laboratory: Laboratory, study: Study) -> dict[str, Any]:
    grid: dict[str, Any] = {"rates": list(study.rates), "seeds": list(study.grid_seeds)}
    grid |= {"extensions": study.extensions} if study.extensions else {}
    return {
        "kind": "study",
        "version": VERSION,
        "strategies": {
            name: _describe_strategy(strategy)
            | {"tuned": study.tuned(name)}
            | _describe_adaptation(study.adaptations.get(name))
            for name, strategy in study.strategies.items()
        },
        "control": study.control,
        "sizes": {size.name: _describe_size(laboratory, size) for size in study.sizes},
        "seeds": list(study.seeds),
        "grid": grid if study.rates else None,
        **({"plan": study.place} if study.place else {}),
        **_describe_laboratory(laboratory),
    }


def _describe_sweep(laboratory: Laboratory, sweep: Sweep) -> dict[str, Any]:
    return {
        "kind": "sweep",
        "version": VERSION,
        "strategy": sweep.strategy.name,
        "settings": _describe_strategy(sweep.strategy)["settings"],
        "rates": list(sweep.rates),
        "decays": list(sweep.decays),
        "seeds": list(sweep.seeds),
        "size": _describe_size(laboratory, sweep.size),
        **_describe_laboratory(laboratory),
    }


def _describe_strategy(strategy: Strategy) -> dict[str, Any]:
    return {
        "about": strategy.about,
        "source": strategy.source,
        "settings": dict(strategy.settings),
    }


def _describe_adaptation(adaptation: Adaptation | None) -> dict[str, Any]:
    return {} if adaptation is None else {"adaptation": dataclasses.asdict(adaptation)}


def _describe_size(laboratory: Laboratory, size: Size) -> dict[str, Any]:
    there = len(laboratory.data.train)
    count = there if size.examples is None else size.examples
    if count > there:  # now, and not after an hour
        raise InputError(f"train size {count}: the training set has {there} examples")
    return {"examples": count, "epochs": size.epochs}


def _describe_laboratory(laboratory: Laboratory) -> dict[str, Any]:
    data = laboratory.data
    return {
        "labels": list(data.train.label_names or ()),
        "in_domain": data.domain,
        "out_of_domain": list(data.out_of_domain),
        **laboratory.describe(),
        "environment": environment(),
    }


# What another machine or package may change without making it another study.
_FREE = ("environment",)


def _claim(path: Path, description: Mapping[str, Any]) -> None:
    """Writes the description, or checks that the one that is there is the same.

    Raises:
      InputError: it differs; where, is named. Or it is not JSON any more.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, description)
        return
    wanted = json.loads(json.dumps(description))
    there = {**FIRST, **read_json(path, "put it back, or give another --output")}
    (there.get("grid") or {}).pop("chosen", None)  # found on the way, and again from the journals
    differ = [
        key for key in {**wanted, **there} if key not in _FREE and there.get(key) != wanted.get(key)
    ]
    if differ:
        raise InputError(
            f"{path} is of another study: {', '.join(differ)} differ; give the same settings to go "
            "on with it, or another --output"
        )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")
