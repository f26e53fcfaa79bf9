"""Which parameter moves how fast, and when."""

from jaxbert.optim.config import OPTIMIZERS, OptimizerConfig
from jaxbert.optim.groups import (
    Group,
    GroupRow,
    format_group_table,
    group_table,
    learning_rates,
    make_groups,
    peak_rates,
    trainable_mask,
)
from jaxbert.optim.layers import CONVENTIONS, leaf_labels, reinitialised_paths
from jaxbert.optim.optimizer import make_optimizer
from jaxbert.optim.schedules import SCHEDULES, make_schedule
from jaxbert.optim.strategies import (
    DEFAULT_STRATEGY,
    STRATEGIES,
    Strategy,
    get_strategy,
    load_strategies,
)

__all__ = [
    "CONVENTIONS",
    "DEFAULT_STRATEGY",
    "OPTIMIZERS",
    "SCHEDULES",
    "STRATEGIES",
    "Group",
    "GroupRow",
    "OptimizerConfig",
    "Strategy",
    "format_group_table",
    "get_strategy",
    "group_table",
    "leaf_labels",
    "learning_rates",
    "load_strategies",
    "make_groups",
    "make_optimizer",
    "make_schedule",
    "peak_rates",
    "reinitialised_paths",
    "trainable_mask",
]
