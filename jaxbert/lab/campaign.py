"""Runs a plan: every task with every model, and more seeds where comparisons need them."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxbert.atomic import write_text
from jaxbert.errors import InputError
from jaxbert.lab.adaptation import NAME as ADAPTIVE
from jaxbert.lab.adaptation import Adaptation
from jaxbert.lab.claims import compared
from jaxbert.lab.comparisons import effect
from jaxbert.lab.journals import read_study
from jaxbert.lab.making import parse_sizes
from jaxbert.lab.plan_file import FILE, OWN, PRETRAINING, Margins, Only, Plan, directory_of
from jaxbert.lab.records import merge, unmerge
from jaxbert.lab.run import Laboratory
from jaxbert.lab.sequential import Comparison, more_seeds
from jaxbert.lab.study import Study, Wanted, run_study
from jaxbert.optim import Strategy, get_strategy

_GRID_SEEDS = 100  # the first seed of the grid: apart from those that count
Seeds = Mapping[tuple[str, str], int]  # (train size, strategy) -> how many
MakeLaboratory = Callable[[str, str], Laboratory]  # (task, model) -> where its runs are made


def run_plan(
    plan: Plan,
    text: str,
    directory: Path,
    laboratory: MakeLaboratory,
    known: Mapping[str, Strategy],
    *,
    only: Only,
    show: bool,
) -> None:
    """Makes every run of the plan that `directory` does not hold yet, study by study.

    Each study has a directory of its own, with one file of all its runs; `read` reads them all.

    Args:
      text: of the plan's file, a copy of which goes with the results.
      laboratory: called once for each task and model that is run.
      known: strategies by name.
      only: which cells to run.

    Raises:
      InputError: strategies that nobody knows, cells that there are not, before anything is run;
        as `run_study`.
    """
    only.check(plan)
    chosen = [pair for pair in plan.studies if only.takes(task=pair[0], model=pair[1])]
    studies = {pair: study_of(plan, *pair, known) for pair in chosen}
    for (task, model), study in studies.items():
        place, made = directory / directory_of(task, model), laboratory(task, model)
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / FILE, text)
        unmerge(place)
        _run_one(plan, task, study, made, place, only, show)


def study_of(plan: Plan, task: str, model: str, known: Mapping[str, Strategy]) -> Study:
    """The study of one task and model, with every seed that it may spend.

    Where the model's own pre-training rate is known, the strategy at that rate joins the one at
    BERT's.

    Raises:
      InputError: a strategy that nobody knows.
    """
    strategies = {name: get_strategy(name, known) for name in plan.all_strategies if name != OWN}
    own = plan.models[model].get("pretraining_rate")
    if own is not None and PRETRAINING in strategies:
        base = strategies[PRETRAINING]
        strategies[OWN] = dataclasses.replace(
            base,
            name=OWN,
            about="the model's own pre-training rate, unchanged",
            settings={**base.settings, "learning_rate": float(own)},
        )
    return Study(
        strategies=strategies,
        control=plan.control,
        sizes=parse_sizes(list(plan.sizes), list(plan.sizes.values())),
        seeds=tuple(range(plan.seeds.most)),
        rates=plan.grid.rates,
        grid_seeds=tuple(range(_GRID_SEEDS, _GRID_SEEDS + plan.grid.seeds)),
        extensions=plan.grid.extensions,
        place=f"{task}/{model}",
        adaptations={ADAPTIVE: Adaptation()} if ADAPTIVE in strategies else {},
    )


def _run_one(
    plan: Plan,
    task: str,
    study: Study,
    laboratory: Laboratory,
    place: Path,
    only: Only,
    show: bool,
) -> None:
    margins = plan.margins_of(task)
    seeds = {
        (size.name, name): plan.seeds.first
        for size in study.sizes
        for name in study.strategies
        if plan.has(size.name, name)
    }
    while True:
        run_study(laboratory, study, place, show=show, wanted=_wanted(seeds, only))
        merge(place)
        further = {} if only.names_seeds else _further(plan, margins, place, seeds, only)
        if not further:
            return
        seeds |= further


def _wanted(seeds: Seeds, only: Only) -> Wanted:
    """Which runs are made now: the first so many seeds of each cell, or those that `only` names."""

    def wanted(size: str, strategy: str, seed: int | None) -> bool:
        if (size, strategy) not in seeds or not only.takes(size=size, strategy=strategy):
            return False
        if seed is None:
            return True
        if only.names_seeds:
            return fnmatch.fnmatchcase(str(seed), only.patterns[-1])
        return seed < seeds[size, strategy]

    return wanted


def _further(
    plan: Plan, margins: Margins, place: Path, seeds: Seeds, only: Only
) -> dict[tuple[str, str], int]:
    """{(size, strategy): seeds} of the cells whose comparisons need more than they have.

    Where the control guesses none does: that nothing is learned, more seeds would only repeat.
    """
    study = read_study(place, plan, margins)
    comparisons = {}
    for first, second, outcome in compared(study):
        for size in (size for size in study.sizes if not study.guesses(size)):
            margin = outcome.margin(study)
            found = effect(study, size, first, second, outcome)
            taken = all(only.takes(size=size, strategy=name) for name in (first, second))
            if taken and found is not None and margin is not None:
                comparisons[size, first, second, outcome] = Comparison(found, margin)
    further: dict[tuple[str, str], int] = {}
    for (size, *names, _), count in more_seeds(comparisons, plan.seeds.most).items():
        for name in names:
            cell = (size, str(name))
            if count > max(seeds.get(cell, 0), further.get(cell, 0)):
                further[cell] = count
    return further


def check_strategies(plan: Plan, known: Mapping[str, Strategy]) -> None:
    """Raises InputError naming every strategy of a plan that nobody knows."""
    unknown = [name for name in plan.all_strategies if name not in known and name != OWN]
    if unknown:
        raise InputError(
            f"the plan's strategies {', '.join(unknown)} are not known; known are "
            f"{', '.join(known)}; give yours with --strategy-file"
        )
