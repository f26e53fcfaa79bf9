"""The opening paragraph of a report: what to choose, by the numbers of its studies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from jaxbert.lab.comparisons import IN_DOMAIN, OUT_OF_DOMAIN, Outcome, effect, values
from jaxbert.lab.journals import Collection, Study
from jaxbert.lab.metric import Metric
from jaxbert.lab.regions import good_region, rate_scores, without_search
from jaxbert.lab.verdicts import ALPHA


class Advice(NamedTuple):
    """What to choose, in a sentence or two, and at each train size, in domain and out."""

    lead: str
    details: list[str]


def advice(studies: Sequence[Study]) -> Advice | None:
    """The best strategy at each train size, in domain and out; what being wrong costs.

    Numbers are means over the studies whose scores are shares of a perfect one (or all of one other
    metric) and whose control does better than guessing; strategies are compared within each,
    uncorrected. None where there is nothing to compare.
    """
    shares = [study for study in studies if study.metric.in_percent]
    if shares or len({study.metric for study in studies}) > 1:
        studies = shares
    sizes = sorted({size for study in studies for size in study.sizes}, key=_examples)
    choices = []
    for size in sizes:
        there = [s for s in studies if size in s.sizes and not s.guesses(size)]
        for outcome in (IN_DOMAIN, OUT_OF_DOMAIN):
            having = [s for s in there if outcome.sets is None or outcome.sets(s)]
            means = mean_scores(having, size, outcome)
            if len(means) > 1:
                choices.append(_choose(having, size, outcome, means))
    if not choices:
        return None
    lead = [_anywhere(choices), *_unsearched(studies), *_robustness(studies)]
    return Advice(" ".join(lead), [_told(choice, sizes) for choice in choices])


def advice_by_model(found: Collection) -> dict[str, Advice]:
    """{model on tasks: its advice}, tasks of one metric together, where a plan has any.

    Networks want rates of their own, and an F1 is no accuracy.
    """
    alike: dict[tuple[str, Metric], dict[str, Study]] = {}
    for (task, model), study in found.studies.items():
        alike.setdefault((model, study.metric), {})[task] = study
    several = {
        f"{model} on {', '.join(studies)}": advice([*studies.values()])
        for (model, _), studies in alike.items()
    }
    return {name: said for name, said in several.items() if said is not None}


def _examples(size: str) -> float:
    return math.inf if size == "full" else int(size)


def _amount(size: str, sizes: list[str]) -> str:
    examples = "all examples" if size == "full" else f"{size} examples"
    if len(sizes) < 2:
        return examples
    word = "few" if size == sizes[0] else "many" if size == sizes[-1] else "some"
    return f"{word} ({examples})"


def mean_scores(studies: Sequence[Study], size: str, outcome: Outcome) -> dict[str, float]:
    """{strategy: mean over the studies} of those that all of them have."""
    found: dict[str, list[float]] = {}
    if not studies:
        return {}
    for study in studies:
        for name in study.strategies:
            scores = values(study, size, name, outcome)
            if scores:
                found.setdefault(name, []).append(statistics.mean(scores.values()))
    return {
        name: statistics.mean(scores)
        for name, scores in found.items()
        if len(scores) == len(studies)
    }


class _Choice(NamedTuple):
    """Of one train size and outcome: the best, what is as good, and what is not told apart.

    failed: of strategies with such runs, how many.
    """

    size: str
    outcome: Outcome
    margin: float | None
    metric: Metric
    means: dict[str, float]
    best: str
    same: list[str]
    close: list[str]
    failed: dict[str, str]

    def cost(self, name: str) -> float:
        """What a strategy has less than the best."""
        return self.means[self.best] - self.means[name]

    def points(self, cost: float) -> str:
        """A difference in words."""
        return self.metric.show(cost) + (" points" if self.metric.in_percent else "")

    def behind(self, name: str, words: str) -> str:
        """A strategy, what it has less in the words given, and how many of its runs failed."""
        return f"{name} ({'; '.join(filter(None, (words, self.failed.get(name))))})"

    @property
    def worse(self) -> list[str]:
        """The rest, the worst first."""
        rest = set(self.means) - {self.best, *self.same, *self.close}
        return sorted(rest, key=lambda name: self.means[name])


def _choose(
    studies: Sequence[Study], size: str, outcome: Outcome, means: dict[str, float]
) -> _Choice:
    best = max(means, key=lambda name: means[name])
    others = [name for name in means if name != best]
    same = [name for name in others if _is_same(studies, size, best, name, outcome)]
    close = [
        name for name in others if name not in same and _is_open(studies, size, best, name, outcome)
    ]
    first, failed = studies[0], {}
    for name in means:
        runs = [run for study in studies for run in study.cell(size, name).values()]
        if count := sum(run.failed for run in runs):
            failed[name] = f"{count} of {len(runs)} runs failed"
    return _Choice(
        size, outcome, outcome.margin(first), first.metric, means, best, same, close, failed
    )


def _anywhere(choices: Sequence[_Choice]) -> str:
    """What choosing wrong costs: how far each strategy falls behind the best, at most."""
    told, apart = [], False
    for outcome in dict.fromkeys(choice.outcome for choice in choices):
        sizes = [choice for choice in choices if choice.outcome == outcome]
        everywhere = [name for name in sizes[0].means if all(name in c.means for c in sizes)]
        costs = {name: max(choice.cost(name) for choice in sizes) for name in everywhere}
        worse = {name for choice in sizes for name in choice.worse}
        apart |= not worse.isdisjoint(costs)
        show = sizes[0].metric.show
        listed = (
            f"{name} {show(costs[name])}{'*' if name in worse else ''}"
            for name in sorted(costs, key=lambda name: costs[name])
        )
        told.append(f"{outcome.name}: {', '.join(listed)}")
    unit = ", in points" if choices[0].metric.in_percent else ""
    text = f"Behind the best strategy of a train size by at most{unit}, {'; '.join(told)}."
    return text + (" * is told apart from the best somewhere." if apart else "")


def _told(choice: _Choice, sizes: list[str]) -> str:
    best, margin = choice.best, choice.margin
    text = f"With {_amount(choice.size, sizes)}, {choice.outcome.name}: {best}"
    score = choice.metric.show(abs(choice.means[best]))
    text += f" ({score}%)" if choice.metric.in_percent else f" ({score})"
    if choice.same and margin is not None:
        points = "1 point" if margin == 0.01 else f"{100 * margin:g} points"
        text += f"; the same within {points}: {', '.join(choice.same)}"
    if choice.close:
        near = sorted(choice.close, key=choice.cost)
        behind = [choice.behind(n, f"{choice.metric.show(choice.cost(n))} less") for n in near]
        text += f"; not told apart from it: {', '.join(behind)}"
    costs = [choice.behind(n, f"by {choice.points(choice.cost(n))}") for n in choice.worse]
    return text + (f"; worse: {', '.join(costs)}" if costs else "") + "."


def _is_same(studies: Sequence[Study], size: str, best: str, name: str, outcome: Outcome) -> bool:
    """Equivalent in every study."""
    found = [(effect(study, size, best, name, outcome), outcome.margin(study)) for study in studies]
    return all(gap and margin and gap.equivalence_p(margin) < ALPHA for gap, margin in found)


def _is_open(studies: Sequence[Study], size: str, best: str, name: str, outcome: Outcome) -> bool:
    """Significantly worse in no study."""
    found = [effect(study, size, best, name, outcome) for study in studies]
    return not any(gap and gap.mean > 0 and gap.p < ALPHA for gap in found)


def _unsearched(studies: Sequence[Study]) -> list[str]:
    """What one rate costs that is taken for everything."""
    found = without_search(studies)
    if not found:
        return []
    show = studies[0].metric.show
    told = ", ".join(f"{name} {show(cost)} (at {rate:g})" for name, (rate, cost) in found.items())
    points = ", in points" if studies[0].metric.in_percent else ""
    return [
        "Without a search, each at the one rate that is best for all sizes, behind the best on the "
        f"development set by at most{points}: {told}."
    ]


def _robustness(studies: Sequence[Study]) -> list[str]:
    """How wide the good rates of each strategy are, the widest first."""
    found: dict[str, list[float]] = {}
    for study in studies:
        for size in study.sizes:
            for name in study.strategies:
                region = good_region(rate_scores(study, size, name))
                if region is not None:
                    found.setdefault(name, []).append(region.octaves)
    if not found:
        return []
    means = {name: statistics.mean(octaves) for name, octaves in found.items()}
    order = sorted(means, key=lambda name: -means[name])
    told = ", ".join(f"{name} {means[name]:.1f}" for name in order)
    return [f"Octaves of the base rate within a point of the best, on average: {told}."]
