"""One training step compiled for a slice that is not here, and what it takes: a line of JSON.

    python -m benchmarks.peer_program CASE_AS_JSON           # jaxbert's
    python -m benchmarks.peer_program CASE_AS_JSON FILE      # the peer's that `export` wrote

In a process of its own, for a compiler takes gigabytes and keeps them. All is counted by
`jaxbert.plan`, for a peer as for jaxbert.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is run, so no device is looked for

import jax
import jax.export
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.peer_sides import OURS
from benchmarks.peers import DTYPE, MESH, Case, mesh_of
from jaxbert.models import AutoConfig, Compute, EncoderConfig
from jaxbert.plan import Topology, make_plan, open_topology
from jaxbert.plan.compile import compile_and_count
from jaxbert.plan.flops import training_flops
from jaxbert.training.config import TrainConfig
from jaxbert.training.engines import make_engine

KEPT = (
    "peak", "memory", "flops", "hbm_bytes", "vmem_bytes", "sent", "hidden_seconds",
    "modelled_seconds", "kernels", "launches", "compile_seconds",
)  # fmt: skip


def ours(case: Case, config: EncoderConfig, topology: Topology) -> dict[str, Any]:
    """jaxbert's step, as `jaxbert plan` has it."""
    mesh = mesh_of(OURS)
    training = TrainConfig(
        batch_size=case.batch_size, max_length=case.max_length, parallel="mesh", mesh=mesh
    )
    plan = make_plan(config, topology, training, Compute(dtype=DTYPE), case.segments)
    return {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}


def theirs(case: Case, file: Path, topology: Topology) -> dict[str, Any]:
    """A peer's step: its state on every device, the batch's rows over all; the rest is XLA's."""
    engine = make_engine("mesh", MESH, topology.devices)
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    (state, batch), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    everywhere = NamedSharding(engine.mesh, PartitionSpec())

    def placed(tree: Any, sharding: NamedSharding) -> Any:
        return jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding), tree
        )

    step = jax.jit(exported.call, donate_argnums=0, out_shardings=everywhere)
    lowered = step.lower(placed(state, everywhere), placed(batch, engine.rows))
    return compile_and_count(lowered, topology, DTYPE, case.batch_size)


def count(case: Case, file: Path | None) -> dict[str, Any]:
    """What the step takes of each device."""
    config, topology = AutoConfig.preset(case.model), open_topology(case.topology)
    found = theirs(case, file, topology) if file else ours(case, config, topology)
    asked = training_flops(config, case.batch_size, case.max_length, case.segments)
    return {name: found[name] for name in KEPT} | {
        "model_flops": asked // len(topology.devices),
        "roofline_seconds": sum(part.roofline_seconds for part in found["parts"].values()),
    }


if __name__ == "__main__":
    rest = [Path(word) for word in sys.argv[2:]]
    print(json.dumps(count(Case(**json.loads(sys.argv[1])), *(rest or [None]))))
