"""The mean of paired differences between two strategies, over seeds and over test examples.

With every seed two strategies are tested on the same examples, so the differences are a table of
seeds by examples, and both are drawn: other seeds and another test set of the same kind would give
another mean. A bootstrap draws rows and columns of the table (Owen 2007, "The pigeonhole
bootstrap"). Here it draws the effects of rows and of columns, since drawing cells would count the
noise of a cell three times. Examples are drawn with replacement. Seeds are few, and drawn so they
would give few different means; their effects get random weights instead (Liu 1988, the wild
bootstrap, with normal weights). The draws are as wide as the analysis of variance says, and spread
as Student's t, since a handful of seeds knows its own noise badly; the degrees of freedom are those
that Hillis 2007 gives readers and cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxbert.errors import InputError
from jaxbert.lab.statistics import Interval

RESAMPLES = 10_000
_MANY = 1e6  # degrees of freedom that are as good as any number


@dataclass(frozen=True, eq=False)
class Effect:
    """A mean of paired differences, and how well it is known.

    Attributes:
      mean: of the differences.
      seeds: how many pairs.
      seed_variance: of a seed's difference, the noise of its examples' included.
      example_variance: of the mean, from the choice of the test examples: no seed takes it away.
      draws: [B], sorted: means that other seeds and examples might have given; None = Student's t
        stands for them.

    Example:
      >>> effect = student_effect([0.01, 0.02, 0.03])
      >>> round(effect.mean, 3), effect.p < 0.1, effect.equivalence_p(0.5) < 0.001
      (0.02, True, True)
    """

    mean: float
    seeds: int
    seed_variance: float
    example_variance: float = 0.0
    draws: np.ndarray | None = None

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return float((self.seed_variance / self.seeds + self.example_variance) ** 0.5)

    @property
    def degrees(self) -> float:
        """Degrees of freedom of its Student's t: seeds - 1, or more where examples add noise."""
        return float(degrees(self.seeds, self.seed_variance, self.example_variance))

    def interval(self, level: float = 0.95) -> Interval:
        """The mean and its interval; one seed gives none."""
        if self.seeds < 2:
            return Interval(self.mean, None, None, self.seeds)
        tail = (1 - level) / 2
        if self.draws is not None:
            low, high = np.quantile(self.draws, [tail, 1 - tail])
        else:
            from scipy.stats import t

            half = t.isf(tail, self.degrees) * self.standard_error
            low, high = self.mean - half, self.mean + half
        return Interval(self.mean, float(low), float(high), self.seeds)

    def p_above(self, threshold: float = 0.0) -> float:
        """One-sided p of "the difference is no more than the threshold"; 1 of one seed."""
        return self._tail(self.mean - threshold, lambda draws: draws <= threshold)

    def p_below(self, threshold: float = 0.0) -> float:
        """One-sided p of "the difference is no less than the threshold"; 1 of one seed."""
        return self._tail(threshold - self.mean, lambda draws: draws >= threshold)

    def _tail(self, distance: float, beyond: Callable[[np.ndarray], np.ndarray]) -> float:
        if self.seeds < 2:
            return 1.0
        if self.draws is not None:
            return float((1 + beyond(self.draws).sum()) / (1 + len(self.draws)))
        if self.standard_error == 0:
            return 0.0 if distance > 0 else 1.0
        from scipy.stats import t

        return float(t.sf(distance / self.standard_error, self.degrees))

    @property
    def p(self) -> float:
        """Two-sided p of "no difference": below .05 where the 95% interval leaves out 0."""
        return min(1.0, 2 * min(self.p_above(), self.p_below()))

    def equivalence_p(self, margin: float) -> float:
        """p of "the difference is as large as the margin, or larger": two one-sided tests.

        The larger of the two p (Schuirmann 1987): below .05 where the 90% interval lies within the
        margin.
        """
        return max(self.p_above(-margin), self.p_below(margin))


def degrees(
    seeds: float | np.ndarray, seed_variance: float, example_variance: float
) -> float | np.ndarray:
    """Satterthwaite's for the sum of a seeds' part, which n - 1 numbers estimate, and another."""
    own = seed_variance / np.asarray(seeds)
    if not seed_variance:
        return np.full_like(own, _MANY)
    return np.minimum((own + example_variance) ** 2 / (own**2 / (np.asarray(seeds) - 1)), _MANY)


def student_effect(differences: Sequence[float]) -> Effect:
    """Of one difference for each seed; the test examples are taken as they are.

    Raises:
      InputError: no differences.
    """
    if not len(differences):
        raise InputError("no differences: want one pair of runs at least")
    array = np.asarray(differences, np.float64)
    variance = float(array.var(ddof=1)) if len(array) > 1 else 0.0
    return Effect(float(array.mean()), len(array), variance)


def crossed_effect(
    tables: Sequence[np.ndarray], resamples: int = RESAMPLES, seed: int = 0
) -> Effect:
    """Of a difference for each seed and test example.

    Args:
      tables: one for each test set, of which the means count alike: [S, E] differences, of the
        same seeds in the same order; -1, 0 or 1 where an answer is right or wrong.
      resamples: how many means are drawn.
      seed: of the draws.

    Raises:
      InputError: no tables, or not of the same seeds.
    """
    if not tables or len({len(table) for table in tables}) != 1 or not len(tables[0]):
        raise InputError("tables: want one at least, all with a row for each of the same seeds")
    rows = np.mean([table.mean(axis=1) for table in tables], axis=0)
    mean, seeds = float(rows.mean()), len(rows)
    if seeds < 2:
        return Effect(mean, seeds, 0.0)
    rng = np.random.default_rng(seed)
    # Of weights with variance 1 the sum varies as the mean of that many seeds does.
    wide = (rows - mean) / (seeds * (seeds - 1)) ** 0.5
    drawn = rng.standard_normal((resamples, seeds)) @ wide
    example_variance = 0.0
    for table in tables:
        effects, variance = _example_effects(table)
        share = 1 / len(effects) / len(tables)
        # Few values are different, so that how often each is drawn says all.
        values, counts = np.unique(effects, return_counts=True)
        often = rng.multinomial(len(effects), counts / len(effects), size=resamples)
        drawn += (often @ values) * share
        example_variance += variance / len(effects) / len(tables) ** 2
    effect = Effect(mean, seeds, float(rows.var(ddof=1)), example_variance)
    return Effect(
        mean, seeds, effect.seed_variance, example_variance, np.sort(_as_student(drawn, effect))
    )


def _example_effects(table: np.ndarray) -> tuple[np.ndarray, float]:
    """([E] effects of examples, their variance): what of a column's mean is not its cells' noise.

    The column means are drawn towards each other until they vary as the analysis of variance says
    that the examples do: (mean square of columns - mean square of the rest) / seeds, or not at all.
    """
    seeds, examples = table.shape
    columns = table.mean(axis=0)
    spread = float(columns.var(ddof=1)) if examples > 1 else 0.0
    if not spread:
        return np.zeros(examples), 0.0
    rest = table - table.mean(axis=1, keepdims=True) - columns + table.mean()
    noise = float(np.square(rest).sum()) / ((seeds - 1) * (examples - 1))
    variance = max(0.0, spread - noise / seeds)
    shrunk = (variance / spread * examples / (examples - 1)) ** 0.5
    return (columns - columns.mean()) * shrunk, variance


def _as_student(deviations: np.ndarray, effect: Effect) -> np.ndarray:
    """Draws around the mean, each as far out as it would be if noise were known as badly as it is.

    A draw z standard deviations out goes where Student's t has what the normal has at z.
    """
    from scipy.stats import norm, t

    spread = deviations.std()
    if not spread:
        return np.full_like(deviations, effect.mean)
    z = (deviations - deviations.mean()) / spread
    far = t.isf(norm.sf(np.abs(z)), effect.degrees)
    return effect.mean + effect.standard_error * np.sign(z) * far
