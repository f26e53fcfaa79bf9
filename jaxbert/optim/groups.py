"""Which parameters share a learning rate: a group for each label, split where a pattern says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxbert.errors import InputError
from jaxbert.optim import layers
from jaxbert.optim.config import OptimizerConfig


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
      epoch: at which it starts to train.
      frozen: whether it never does.

    Example:
      >>> Group("pooler", "pooler", (), ("pooler/bias",), 1.0, 0.25, False).first_step(6)
      2
    """

    name: str
    label: str
    patterns: tuple[str, ...]
    paths: tuple[str, ...]
    multiplier: float
    epoch: float
    frozen: bool

    def first_step(self, steps_per_epoch: int) -> int:
        """The step from which the group trains: its epoch, rounded to whole steps.

        Args:
          steps_per_epoch: of the run.

        Returns:
          A step, counted from 0; it says nothing of a frozen group.
        """
        return round(self.epoch * steps_per_epoch)


def make_groups(config: OptimizerConfig, labels: Mapping[str, str]) -> dict[str, Group]:
    """The groups of a model.

    Args:
      config: the configuration.
      labels: {path: label} of `layers.leaf_labels`.

    Returns:
      {name: group}, from input to output; every path is in one of them.

    Raises:
      InputError: rows that decide nothing, everything frozen.

    Example:
      >>> labels = {"pooler/bias": "pooler", "pooler/kernel": "pooler", "head/kernel": "head"}
      >>> groups = make_groups(OptimizerConfig(multipliers={".*/bias": 2.0}), labels)
      >>> {name: (group.paths, group.multiplier) for name, group in groups.items()}
      ... # doctest: +NORMALIZE_WHITESPACE
      {'pooler': (('pooler/kernel',), 1.0), 'pooler.1': (('pooler/bias',), 2.0),
       'head': (('head/kernel',), 1.0)}
    """
    multiplier, multiplier_rule = _multipliers(config, labels)
    epoch, epoch_rule = _epochs(config, labels)
    frozen = layers.first_matches("frozen", config.frozen, labels)
    if len(frozen) == len(labels):
        raise InputError(f"frozen={config.frozen} freezes every parameter: leave some to train")
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
