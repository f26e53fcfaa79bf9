"""Which parameters share a learning rate, what it is at each step, and the table that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbert.optim import layers
from jaxbert.optim.config import OptimizerConfig
from jaxbert.optim.schedules import Schedule, make_schedule


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Attributes:
      name: a label (`embeddings`, `layer_0`, ..., `pooler`, `head`); with ".1", ".2" ... for what
        a pattern over paths takes out of one.
      label: of the layers it belongs to.
      patterns: those patterns.
      paths: its parameters.
      multiplier: of the peak learning rate.
      epoch: at which it starts to move.
      frozen: whether it never does.
    """

    name: str
    label: str
    patterns: tuple[str, ...]
    paths: tuple[str, ...]
    multiplier: float
    epoch: float
    frozen: bool


def make_groups(config: OptimizerConfig, params: Any) -> dict[str, Group]:
    """{name: group} of a parameter tree (arrays or ShapeDtypeStructs), from input to output.

    Raises:
      ValueError: leaves without a label, rows that decide nothing, everything frozen.
    """
    labels = layers.leaf_labels(params)
    multiplier, multiplier_rule = _multipliers(config, labels)
    epoch, epoch_rule = _epochs(config, labels)
    frozen = layers.first_matches("frozen", config.frozen, labels)
    if len(frozen) == len(labels):
        raise ValueError(f"frozen={config.frozen} freezes every parameter: leave some to train")
    frozen_rule = {path: config.frozen[index] for path, index in frozen.items()}

    # A rule for a whole label moves the whole group; a rule for paths splits one.
    members: dict[tuple[str, tuple[str | None, ...]], list[str]] = {}
    for path, label in labels.items():
        rules = (rule.get(path) for rule in (multiplier_rule, epoch_rule, frozen_rule))
        split = tuple(r if r and not layers.matches(r, label, label) else None for r in rules)
        members.setdefault((label, split), []).append(path)

    groups = {}
    for label in layers.sort_labels(labels.values()):
        number = 0
        for split in sorted((s for name, s in members if name == label), key=_rule_count):
            number += bool(_rule_count(split))
            name = f"{label}.{number}" if number else label
            paths = tuple(members[label, split])
            groups[name] = Group(
                name=name,
                label=label,
                patterns=tuple(dict.fromkeys(r for r in split if r)),
                paths=paths,
                multiplier=multiplier[paths[0]],
                epoch=epoch[paths[0]],
                frozen=paths[0] in frozen,
            )
    return groups


def _rule_count(split: tuple[str | None, ...]) -> int:
    return sum(rule is not None for rule in split)


def _multipliers(
    config: OptimizerConfig, labels: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, str]]:
    by_label = layers.depth_multipliers(
        labels.values(), config.layer_decay, config.convention, config.head_multiplier
    )
    return _overridden("multipliers", config.multipliers, by_label, labels)


def _epochs(
    config: OptimizerConfig, labels: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, str]]:
    rows, pace = (
        (config.unfreezing, 0.0)
        if isinstance(config.unfreezing, tuple)
        else ((), config.unfreezing)
    )
    by_label = layers.unfreezing_epochs(labels.values(), pace)
    return _overridden("unfreezing", rows, by_label, labels)


def _overridden(
    argument: str,
    rows: tuple[tuple[str, float], ...],
    by_label: Mapping[str, float],
    labels: Mapping[str, str],
) -> tuple[dict[str, float], dict[str, str]]:
    """{path: value} by label, replaced by the rows that match; and {path: that row's pattern}."""
    row_of = layers.first_matches(argument, [pattern for pattern, _ in rows], labels)
    values = {path: by_label[label] for path, label in labels.items()}
    values |= {path: float(rows[index][1]) for path, index in row_of.items()}
    return values, {path: rows[index][0] for path, index in row_of.items()}


def trainable_mask(config: OptimizerConfig, params: Any) -> Any:
    """A tree like params: True where a leaf moves, sooner or later; False where it is frozen."""
    groups = make_groups(config, params).values()
    return layers.path_tree(params, {path: not g.frozen for g in groups for path in g.paths})


def peak_rates(config: OptimizerConfig, params: Any) -> dict[str, float]:
    """{group: peak learning rate}, 0 for frozen groups."""
    return {
        name: 0.0 if group.frozen else config.learning_rate * group.multiplier
        for name, group in make_groups(config, params).items()
    }


def learning_rates(
    config: OptimizerConfig,
    params: Any,
    total_steps: int,
    steps_per_epoch: int,
) -> dict[str, Schedule]:
    """{group: step -> learning rate}, from input to output; frozen groups have 0.

    Args:
      config: the configuration.
      params: arrays or ShapeDtypeStructs.
      total_steps: of the run.
      steps_per_epoch: for the epochs of `unfreezing`, rounded to whole steps.

    Raises:
      ValueError: as `make_groups` and `make_schedule`.
    """
    groups = make_groups(config, params)
    peaks = peak_rates(config, params)
    factor = make_schedule(
        config.schedule, total_steps, config.warmup, **dict(config.schedule_options)
    )
    return {
        name: _rate(peaks[name], factor, first_step(group, steps_per_epoch))
        for name, group in groups.items()
    }


def first_step(group: Group, steps_per_epoch: int) -> int:
    """The step from which a group moves."""
    return round(group.epoch * steps_per_epoch)


def _rate(peak: float, factor: Schedule, first_step: int) -> Schedule:
    return lambda step: jnp.where(jnp.asarray(step) >= first_step, peak * factor(step), 0.0)


@dataclass(frozen=True)
class GroupRow:
    """A line of `jaxbert lr`: a group, and its learning rate at three moments.

    Attributes:
      group: with its patterns, if a pattern set it apart from its label.
      parameters: how many numbers.
      multiplier: of the peak learning rate; 0 when frozen.
      start: learning rate of the first update.
      peak: the largest of the run.
      end: where the schedule ends, one past the last update.
      decayed: the share of its parameters that weight decay applies to, in [0, 1].
      epoch: at which it starts to move; None when frozen.
    """

    group: str
    parameters: int
    multiplier: float
    start: float
    peak: float
    end: float
    decayed: float
    epoch: float | None


def group_table(
    config: OptimizerConfig, params: Any, total_steps: int, steps_per_epoch: int
) -> list[GroupRow]:
    """What each group of layers gets, from input to output. Arguments as `learning_rates`."""
    rates = learning_rates(config, params, total_steps, steps_per_epoch)
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    sizes = {layers.path_string(path): int(np.prod(leaf.shape)) for path, leaf in leaves}
    rows = []
    for name, group in make_groups(config, params).items():
        rate = np.asarray(rates[name](np.arange(total_steps + 1)), np.float64)
        parameters = sum(sizes[path] for path in group.paths)
        decayed = sum(sizes[path] for path in group.paths if layers.decays_weight(path))
        moves = not group.frozen
        rows.append(
            GroupRow(
                group=f"{name} ({', '.join(group.patterns)})" if group.patterns else name,
                parameters=parameters,
                multiplier=group.multiplier * moves,
                start=float(rate[0]),
                peak=float(rate[:total_steps].max()),
                end=float(rate[-1]),
                decayed=decayed / parameters if config.weight_decay and moves else 0.0,
                epoch=group.epoch if moves else None,
            )
        )
    return rows


def format_group_table(rows: list[GroupRow]) -> str:
    """The rows as plain text, one line each under a header, and a line with the sums."""
    header = ["group", "parameters", "multiplier", "start", "peak", "end", "weight decay"]
    lines = [
        [
            row.group,
            f"{row.parameters:,}",
            f"{row.multiplier:.4g}",
            *(f"{rate:.3g}" for rate in (row.start, row.peak, row.end)),
            f"yes ({row.decayed:.1%})" if row.decayed else "no",
        ]
        for row in rows
    ]
    if any(row.epoch != 0 for row in rows):
        header.append("moves")
        for line, row in zip(lines, rows, strict=True):
            line.append("never" if row.epoch is None else f"from epoch {row.epoch:g}")
    moving = sum(row.parameters for row in rows if row.peak > 0)
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in [header, *lines]
    ]
    total = sum(row.parameters for row in rows)
    return "\n".join([*text, f"{total:,} parameters, {moving:,} of them move"])
