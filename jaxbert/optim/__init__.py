"""Which parameter trains how fast, and when."""

from typing import TYPE_CHECKING

from jaxbert.lazy import lazy

if TYPE_CHECKING:
    from jaxbert.optim.config import DEFAULT_STRATEGY, OPTIMIZERS, OptimizerConfig
    from jaxbert.optim.groups import Group
    from jaxbert.optim.layers import CONVENTIONS, leaf_labels, reinitialized_paths
    from jaxbert.optim.rate_plan import RatePlan, make_optimizer
    from jaxbert.optim.schedules import SCHEDULES, make_schedule
    from jaxbert.optim.strategies import STRATEGIES, Strategy, get_strategy, load_strategies
    from jaxbert.optim.table import GroupRow, format_group_table, group_table

_HOMES = {
    "jaxbert.optim.config": ("DEFAULT_STRATEGY", "OPTIMIZERS", "OptimizerConfig"),
    "jaxbert.optim.groups": ("Group",),
    "jaxbert.optim.layers": ("CONVENTIONS", "leaf_labels", "reinitialized_paths"),
    "jaxbert.optim.rate_plan": ("RatePlan", "make_optimizer"),
    "jaxbert.optim.schedules": ("SCHEDULES", "make_schedule"),
    "jaxbert.optim.strategies": ("STRATEGIES", "Strategy", "get_strategy", "load_strategies"),
    "jaxbert.optim.table": ("GroupRow", "format_group_table", "group_table"),
}

__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
