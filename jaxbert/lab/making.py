"""Makes one run after the other, skips those that are there, and shows where the whole is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxbert.errors import InputError
from jaxbert.lab.journal import finished
from jaxbert.lab.plan_file import FULL
from jaxbert.lab.run import Adapted, Laboratory
from jaxbert.optim import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class Size:
    """A train size: how many examples (None = all), and how often they are seen."""

    examples: int | None
    epochs: int

    @property
    def name(self) -> str:
        """As in paths and tables."""
        return FULL if self.examples is None else str(self.examples)


def parse_sizes(names: Sequence[str], epochs: Sequence[int]) -> tuple[Size, ...]:
    """Train sizes from their names, "full" or a number, with one number of epochs or one for each.

    Raises:
      InputError: no numbers, or another number of them.
    """
    bad = [n for n in names if n != FULL and not (n.isdigit() and int(n))]
    if bad:
        raise InputError(f"train sizes {', '.join(bad)}: want {FULL}, or a number of examples")
    if len(epochs) not in (1, len(names)):
        raise InputError(f"{len(epochs)} numbers of epochs for {len(names)} train sizes")
    if min(epochs) < 1:
        raise InputError(f"epochs {', '.join(map(str, epochs))}: want 1 at least")
    each = epochs if len(epochs) == len(names) else [epochs[0]] * len(names)
    return tuple(
        Size(None if name == FULL else int(name), count)
        for name, count in zip(names, each, strict=True)
    )


class Run(NamedTuple):
    """One cell: what it is called, where its journal is, and what is trained."""

    journal: Path
    about: dict[str, Any]
    optimizer: OptimizerConfig
    size: Size
    seed: int
    only_development: bool = False
    curve: bool = True
    adapted: Adapted | None = None


class Progress:
    """Makes runs, skips those that are there, and shows where the whole is."""

    def __init__(self, laboratory: Laboratory, sizes: Iterable[Size], show: bool) -> None:
        from tqdm import tqdm

        self._laboratory = laboratory
        self._steps = lambda size: laboratory.steps(size.examples, size.epochs)
        total = sum(map(self._steps, sizes))
        self._bar = tqdm(total=total, unit="step", disable=not show, smoothing=0.05)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def run(self, run: Run) -> dict[str, Any]:
        """The last line of the run's journal."""
        end, steps = finished(run.journal), self._steps(run.size)
        if end is not None:
            self._bar.total -= steps  # time left is that of the runs still to be made
            self._bar.refresh()
            return end
        rate = f"{run.optimizer.learning_rate:g}"
        self._bar.set_description(f"{run.size.name} {run.about['strategy']} {rate} #{run.seed}")
        end = self._laboratory.run(
            run.optimizer,
            run.journal,
            run.about,
            examples=run.size.examples,
            epochs=run.size.epochs,
            seed=run.seed,
            only_development=run.only_development,
            curve=run.curve,
            adapted=run.adapted,
        )
        self._bar.update(steps)
        return end
