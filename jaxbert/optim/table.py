"""The table of a plan: what each group of layers gets, as rows and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxbert.optim import layers
from jaxbert.optim.rate_plan import RatePlan
from jaxbert.optim.start import decays_to


@dataclass(frozen=True)
class GroupRow:
    """A line of the table: a group, and its learning rate at three moments.

    Attributes:
      group: with its patterns, if a pattern set it apart from its label.
      parameters: how many numbers.
      multiplier: of the peak learning rate; 0 when frozen.
      start: learning rate of the first update.
      peak: the largest of the run.
      end: where the schedule ends, one past the last update.
      decayed: the share of its parameters that weight decay applies to, in [0, 1].
      epoch: from which it trains; None when frozen.
      to_start: whether they decay towards where they started, and not towards zero.

    Example:
      >>> GroupRow("head", 8, 1.0, start=0.0, peak=1e-3, end=0.0, decayed=0.75, epoch=0.0).peak
      0.001
    """

    group: str
    parameters: int
    multiplier: float
    start: float
    peak: float
    end: float
    decayed: float
    epoch: float | None
    to_start: bool = False


def group_table(plan: RatePlan, params: Any) -> list[GroupRow]:
    """What each group of layers gets.

    Args:
      plan: of the run.
      params: the parameters that it was made for, arrays or ShapeDtypeStructs.

    Returns:
      A row for each group, from input to output.

    Example:
      >>> from jaxbert.optim.config import OptimizerConfig
      >>> params = {"pooler": {"bias": np.zeros(3)}, "head": {"bias": np.zeros(2)}}
      >>> plan = RatePlan.make(OptimizerConfig(frozen=["pooler"]), params, 10, 5)
      >>> [(row.group, row.parameters, row.epoch) for row in group_table(plan, params)]
      [('pooler', 3, None), ('head', 2, 0.0)]
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    sizes = {layers.path_string(path): int(np.prod(leaf.shape)) for path, leaf in leaves}
    rows = []
    for name, group in plan.groups.items():
        rate = np.asarray(plan.schedules[name](np.arange(plan.total_steps + 1)), np.float64)
        parameters = sum(sizes[path] for path in group.paths)
        to = {path: decays_to(plan.config, path, group.label) for path in group.paths}
        decayed = sum(sizes[path] for path in group.paths if to[path])
        rows.append(
            GroupRow(
                group=f"{name} ({', '.join(group.patterns)})" if group.patterns else name,
                parameters=parameters,
                multiplier=0.0 if group.frozen else group.multiplier,
                start=float(rate[0]),
                peak=float(rate[:-1].max()),
                end=float(rate[-1]),
                decayed=0.0 if group.frozen else decayed / parameters,
                epoch=None if group.frozen else group.epoch,
                to_start="start" in to.values(),
            )
        )
    return rows


def format_group_table(rows: list[GroupRow]) -> str:
    """The rows as plain text.

    Args:
      rows: of `group_table`.

    Returns:
      A line for each row under a header, and one with the sums. A column says when each group
      trains, unless all do from the start.

    Example:
      >>> row = GroupRow("head", 1538, 1.0, start=0.0, peak=5e-5, end=0.0, decayed=1.0, epoch=0.0)
      >>> print(format_group_table([row]))
      group  parameters  multiplier  start   peak  end  weight decay
      head        1,538           1      0  5e-05    0  yes (100.0%)
      1,538 parameters, 1,538 of them trainable
    """
    header = ["group", "parameters", "multiplier", "start", "peak", "end", "weight decay"]
    lines = [
        [
            row.group,
            f"{row.parameters:,}",
            f"{row.multiplier:.4g}",
            *(f"{rate:.3g}" for rate in (row.start, row.peak, row.end)),
            f"{'to start' if row.to_start else 'yes'} ({row.decayed:.1%})" if row.decayed else "no",
        ]
        for row in rows
    ]
    if any(row.epoch != 0 for row in rows):
        header.append("trains")
        for line, row in zip(lines, rows, strict=True):
            line.append("never" if row.epoch is None else f"from epoch {row.epoch:g}")
    # By the rate, not by `frozen`: a group that would wake after the run's end does not train.
    trainable = sum(row.parameters for row in rows if row.peak > 0)
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in [header, *lines]
    ]
    total = sum(row.parameters for row in rows)
    return "\n".join([*text, f"{total:,} parameters, {trainable:,} of them trainable"])
