"""The opening paragraph of a report: what to choose, by the numbers of its studies."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from jaxbert.lab.comparisons import IN_DOMAIN, OUT_OF_DOMAIN, Outcome, effect, values
from jaxbert.lab.journals import Study
from jaxbert.lab.metric import Metric
from jaxbert.lab.regions import good_region, rate_scores
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
    sizes = list(dict.fromkeys(size for study in studies for size in study.sizes))
    choices = []
    for size in sizes:
        there = [s for s in studies if size in s.sizes and not s.guesses(size)]
        for outcome in (IN_DOMAIN, OUT_OF_DOMAIN):
            means = _means(there, size, outcome)
            if len(means) > 1:
                choices.append(_choose(there, size, outcome, means))
    if not choices:
        return None
    lead = [_anywhere(choices), *_robustness(studies)]
    return Advice(" ".join(lead), [_told(choice, sizes) for choice in choices])


def _amount(size: str, sizes: list[str]) -> str:
    examples = "all examples" if size == "full" else f"{size} examples"
    if len(sizes) < 2:
        return examples
    word = "few" if size == sizes[0] else "many" if size == sizes[-1] else "some"
    return f"{word} ({examples})"


def _means(studies: Sequence[Study], size: str, outcome: Outcome) -> dict[str, float]:
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
    """Of one train size and outcome: the best, what is as good, and what is not told apart."""

    size: str
    outcome: Outcome
    margin: float | None
    metric: Metric
    means: dict[str, float]
    best: str
    same: list[str]
    close: list[str]

    def cost(self, name: str) -> float:
        """What a strategy has less than the best."""
        return self.means[self.best] - self.means[name]

    def points(self, cost: float) -> str:
        """A difference in words."""
        return self.metric.show(cost) + (" points" if self.metric.in_percent else "")

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
    first = studies[0]
    return _Choice(size, outcome, outcome.margin(first), first.metric, means, best, same, close)


def _anywhere(choices: Sequence[_Choice]) -> str:
    """What is good everywhere, and what it costs to choose what is not."""
    every = list(dict.fromkeys(name for choice in choices for name in choice.means))
    good = [name for name in every if not any(name in choice.worse for choice in choices)]
    text = f"Nowhere told apart from the best: {', '.join(good) or 'no strategy'}."
    costs = {
        name: max(choice.cost(name) for choice in choices if name in choice.worse)
        for name in every
        if name not in good
    }
    if costs:
        order = sorted(costs, key=lambda name: costs[name])
        told = (f"{name} up to {choices[0].points(costs[name])}" for name in order)
        text += f" Being wrong costs: {', '.join(told)}."
    return text


def _told(choice: _Choice, sizes: list[str]) -> str:
    best, margin = choice.best, choice.margin
    text = f"With {_amount(choice.size, sizes)}, {choice.outcome.name}: {best}"
    score = choice.metric.show(abs(choice.means[best]))
    text += f" ({score}%)" if choice.metric.in_percent else f" ({score})"
    if choice.same and margin is not None:
        points = "1 point" if margin == 0.01 else f"{100 * margin:g} points"
        text += f"; the same within {points}: {', '.join(choice.same)}"
    if choice.close:
        behind = [f"{n} ({choice.metric.show(choice.cost(n))} less)" for n in choice.close]
        text += f"; not told apart from it: {', '.join(behind)}"
    costs = [f"{name} (by {choice.points(choice.cost(name))})" for name in choice.worse]
    return text + (f"; worse: {', '.join(costs)}" if costs else "") + "."


def _is_same(studies: Sequence[Study], size: str, best: str, name: str, outcome: Outcome) -> bool:
    """Equivalent in every study."""
    found = [(effect(study, size, best, name, outcome), outcome.margin(study)) for study in studies]
    return all(gap and margin and gap.equivalence_p(margin) < ALPHA for gap, margin in found)


def _is_open(studies: Sequence[Study], size: str, best: str, name: str, outcome: Outcome) -> bool:
    """Significantly worse in no study."""
    found = [effect(study, size, best, name, outcome) for study in studies]
    return not any(gap and gap.mean > 0 and gap.p < ALPHA for gap in found)


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
