"""`make_plan`: compiles the real training step for a slice of devices, and reads what it takes."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxbert.errors import DoesNotFit, InputError
from jaxbert.models import Compute, EncoderConfig, split_model
from jaxbert.plan.flops import training_flops
from jaxbert.plan.hardware import Topology
from jaxbert.plan.hlo import Program, bytes_moved, collectives, product_flops
from jaxbert.tasks import TEXT_CLASSIFICATION, abstract_model
from jaxbert.training.assemble import check_max_length, make_step
from jaxbert.training.config import TrainConfig
from jaxbert.training.engines import MeshEngine, make_engine
from jaxbert.training.step import init_state

# Neither the program nor its size depends on how long the run is.
_STEPS_PER_EPOCH = 100


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one training step takes of each device. Bytes, FLOPs, seconds.

    Attributes:
      params, optimizer_state: bytes held between steps.
      activations: the largest size of everything that lives during a step only.
      peak: the most that is held at a time. fits: whether it is within `memory`.
      flops: of the products in the compiled program; model_flops: those that the model asks for.
      bytes_moved: to and from the device's memory.
      sent: {kind of collective: {"count", "bytes", "seconds"}}, the seconds at the links' speed.
      estimated_seconds: of a step: the longer of computing and moving, and then sending. At
        published peaks, so no step is faster; real ones are slower.
      utilisation: model_flops over what the device could do in that time.
      kernels: how many custom kernels of which kind compute attention.
    """

    topology: str
    mesh: dict[str, int]
    batch_size: int
    max_length: int
    dtype: str
    params: int
    optimizer_state: int
    activations: int
    peak: int
    memory: int
    flops: int
    model_flops: int
    bytes_moved: int
    sent: dict[str, dict[str, float]]
    estimated_seconds: float
    utilisation: float
    kernels: dict[str, int]
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """Whether a device has the memory."""
        return self.peak <= self.memory

    @property
    def waste(self) -> float:
        """What is computed beyond what the model asks for, as a share of the latter."""
        return self.flops / self.model_flops - 1


def make_plan(
    model: EncoderConfig,
    topology: Topology,
    training: TrainConfig,
    compute: Compute = Compute(dtype="bfloat16"),  # noqa: B008 (frozen)
) -> Plan:
    """Compiles the training step of a sequence classifier, every row of full length.

    Args:
      training: of it batch_size, max_length, optimizer and mesh; everything is split over a mesh.
      compute: dtypes and memory; the platform is the topology's.

    Raises:
      InputError: what does not divide over the devices; a length beyond the model's positions.
      DoesNotFit: so much memory is missing that the compiler gave up.
    """
    dtype = compute.dtype
    _check(model, topology, training, dtype)
    engine = make_engine("mesh", training.mesh, topology.devices)
    engine.check(training.batch_size, 1)
    compute = dataclasses.replace(compute, platform=topology.chip.platform)
    step, state, rest = _step(model, compute, training, engine)
    start = time.perf_counter()
    lowered = engine.compile(step, donate=True).lower(state, *rest)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(f"{topology.name}, batch_size={training.batch_size}: {error}") from None
    seconds = time.perf_counter() - start
    program, devices = Program(compiled.as_text()), len(topology.devices)
    memory, costs = _memory(compiled), _costs(compiled, program, topology, dtype)
    asked = training_flops(model, training.batch_size, training.max_length) // devices
    return Plan(
        topology=topology.name,
        mesh=dict(engine.mesh.shape),
        batch_size=training.batch_size,
        max_length=training.max_length,
        dtype=dtype,
        params=_held(state.params),
        optimizer_state=_held(state.opt_state),
        activations=memory["activations"],
        peak=memory["peak"],
        memory=int(topology.chip.memory),
        **costs,
        model_flops=asked,
        utilisation=asked / (costs["estimated_seconds"] * topology.chip.flops[dtype]),
        kernels=program.kernels(),
        compile_seconds=seconds,
    )


def _check(model: EncoderConfig, topology: Topology, training: TrainConfig, dtype: str) -> None:
    if training.accumulation != 1:
        raise InputError("a plan is of one part of a batch: divide batch_size by accumulation")
    check_max_length(model, training.max_length)
    if dtype not in topology.chip.flops:
        known = ", ".join(topology.chip.flops)
        raise InputError(f"dtype={dtype!r}: {topology.chip.kind} can be planned for in {known}")


def _step(
    model: EncoderConfig, compute: Compute, training: TrainConfig, engine: MeshEngine
) -> tuple[Any, Any, Any]:
    """(the training step, its state, its other arguments), the arrays as shapes with a place."""
    graphdef, params = split_model(abstract_model(TEXT_CLASSIFICATION, model, compute))
    step, plan = make_step(
        graphdef, params, TEXT_CLASSIFICATION, training, engine, _STEPS_PER_EPOCH
    )

    def placed(shape: tuple[int, ...], dtype: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding or engine.sharding(shape))

    state = jax.eval_shape(lambda params: init_state(params, plan.optimizer, 0), params)
    state = jax.tree.map(lambda leaf: placed(leaf.shape, leaf.dtype), state)
    rows, length = training.batch_size, training.max_length
    whole = ("input_ids", "token_type_ids", "segment_ids")
    batch = {
        **{name: placed((rows, length), jnp.int32, engine.rows) for name in whole},
        "token_index": placed((rows, length), jnp.uint32, engine.rows),
        "segment_starts": placed((rows, 1), jnp.int32, engine.rows),
        "labels": placed((rows, 1), jnp.int32, engine.rows),
        "weights": placed((rows, 1), jnp.float32, engine.rows),
    }
    rates = {group: placed((), jnp.float32) for group in plan.peaks}
    return step, state, (batch, rates)


def _memory(compiled: Any) -> dict[str, int]:
    """Bytes that one device holds during a step."""
    stats = compiled.memory_analysis()
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    peak = held + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
    return {"activations": stats.temp_size_in_bytes, "peak": peak}


def _costs(compiled: Any, program: Program, topology: Topology, dtype: str) -> dict[str, Any]:
    """What one device computes, moves and sends, and how long that takes at least."""
    chip = topology.chip
    flops = product_flops(program)
    # Compilers for TPUs have counted the bytes themselves, those for GPUs have not.
    moved = int((compiled.cost_analysis() or {}).get("bytes accessed") or bytes_moved(program))
    sent: dict[str, dict[str, float]] = {}
    for one in collectives(program, len(topology.devices)):
        total = sent.setdefault(one.kind, {"count": 0, "bytes": 0, "seconds": 0.0})
        total["count"] += 1
        total["bytes"] += one.size
        total["seconds"] += one.seconds(chip.link)
    sending = sum(total["seconds"] for total in sent.values())
    estimate = max(flops / chip.flops[dtype], moved / chip.bandwidth) + sending
    return {"flops": flops, "bytes_moved": moved, "sent": sent, "estimated_seconds": estimate}


def _held(tree: Any) -> int:
    """Bytes that one device holds of it."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )
