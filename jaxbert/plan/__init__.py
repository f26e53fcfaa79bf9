"""Compile the training step for hardware you do not have, and read off what it would take."""

from jaxbert.errors import DoesNotFit
from jaxbert.plan.compile import Plan, make_plan
from jaxbert.plan.hardware import CHIPS, Topology, open_topology
from jaxbert.plan.search import fastest_meshes, largest_batch, smallest_slice

__all__ = [
    "CHIPS",
    "DoesNotFit",
    "Plan",
    "Topology",
    "fastest_meshes",
    "largest_batch",
    "make_plan",
    "open_topology",
    "smallest_slice",
]
