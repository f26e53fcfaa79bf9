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
from jaxbert.plan.costs import Cost, costs, seconds_of
from jaxbert.plan.flops import training_flops
from jaxbert.plan.hardware import Topology
from jaxbert.plan.hlo import Program
from jaxbert.plan.products import product_flops
from jaxbert.plan.sending import collectives, hidden_seconds
from jaxbert.plan.traffic import launches
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
      hbm_bytes: read from and written to the device's memory; on a TPU what stays on the chip is in
        vmem_bytes instead. On a GPU caches may save some of it: none is assumed.
      sent: {kind of collective: {"count", "bytes", "seconds"}}, the seconds on a ring at the links'
        speed.
      hidden_seconds: of these, what passes beside other operations by the program's own order.
      bounds: {what: seconds}, each of which no step of this program can go below: its products at
        the chip's peak, and on a TPU its bytes at the memory's bandwidth, what it sends at the
        links' speed.
      modelled_seconds: of a step, by the compiler's estimate of each operation where it has one;
        else the longer of computing and moving, at published peaks. Nothing is sent meanwhile.
        Neither a measurement nor a bound.
      utilisation: model_flops over what the device could do in the modelled time.
      parts: {part of the model: its share of all of it}.
      kernels: how many custom kernels of which kind compute attention.
      launches: how many kernels of all kinds start in a step: fusions and custom calls.
    """

    topology: str
    mesh: dict[str, int]
    batch_size: int
    max_length: int
    segments: int
    accumulation: int
    dtype: str
    params: int
    optimizer_state: int
    activations: int
    peak: int
    memory: int
    flops: int
    model_flops: int
    hbm_bytes: int
    vmem_bytes: int
    sent: dict[str, dict[str, float]]
    hidden_seconds: float
    bounds: dict[str, float]
    modelled_seconds: float
    utilisation: float
    parts: dict[str, Cost]
    kernels: dict[str, int]
    launches: int
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
    segments: int = 1,
) -> Plan:
    """Compiles the training step of a sequence classifier, every row of full length.

    Args:
      training: of it batch_size, accumulation, max_length, optimizer and mesh; everything is split
        over a mesh.
      compute: dtypes and memory; the platform is the topology's.
      segments: examples that share a row; batch_size counts rows.

    Raises:
      InputError: what does not divide over the devices; a length beyond the model's positions.
      DoesNotFit: so much memory is missing that the compiler gave up.
    """
    dtype = compute.dtype
    _check(model, topology, training, dtype)
    engine = make_engine("mesh", training.mesh, topology.devices)
    engine.check(training.batch_size, training.accumulation)
    compute = dataclasses.replace(compute, platform=topology.chip.platform)
    step, state, rest = _step(model, compute, training, engine, segments)
    lowered = engine.compile(step, donate=True).lower(state, *rest)
    counts = compile_and_count(lowered, topology, dtype, training.batch_size)
    asked = training_flops(model, training.batch_size, training.max_length, segments)
    asked //= len(topology.devices)
    return Plan(
        topology=topology.name,
        mesh=dict(engine.mesh.shape),
        batch_size=training.batch_size,
        max_length=training.max_length,
        segments=segments,
        accumulation=training.accumulation,
        dtype=dtype,
        params=_held(state.params),
        optimizer_state=_held(state.opt_state),
        **counts,
        model_flops=asked,
        utilisation=asked / (counts["modelled_seconds"] * topology.chip.flops[dtype]),
    )


def compile_and_count(
    lowered: Any, topology: Topology, dtype: str, batch_size: int
) -> dict[str, Any]:
    """What a program takes of each device of a slice, as `Plan` names it; anybody's program.

    Args:
      lowered: for the slice's devices.
      dtype: of its products, whose rate at the chip's peak is taken.
      batch_size: of the program, for the error to name.

    Raises:
      DoesNotFit: so much memory is missing that the compiler gave up.
    """
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(f"{topology.name}, {batch_size=}: {error}") from None
    seconds = time.perf_counter() - start
    program = Program(compiled.as_text())
    return {
        **_memory(compiled),
        "memory": int(topology.chip.memory),
        **_costs(program, topology, dtype),
        "kernels": program.kernels(),
        "launches": launches(program),
        "compile_seconds": seconds,
    }


def _check(model: EncoderConfig, topology: Topology, training: TrainConfig, dtype: str) -> None:
    check_max_length(model, training.max_length)
    if dtype not in topology.chip.flops:
        known = ", ".join(topology.chip.flops)
        raise InputError(f"dtype={dtype!r}: {topology.chip.kind} can be planned for in {known}")


def _step(
    model: EncoderConfig,
    compute: Compute,
    training: TrainConfig,
    engine: MeshEngine,
    segments: int = 1,
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
        "segment_starts": placed((rows, segments), jnp.int32, engine.rows),
        "labels": placed((rows, segments), jnp.int32, engine.rows),
        "weights": placed((rows, segments), jnp.float32, engine.rows),
    }
    rates = {group: placed((), jnp.float32) for group in plan.peaks}
    return step, state, (batch, rates)


def _memory(compiled: Any) -> dict[str, int]:
    """Bytes that one device holds during a step."""
    stats = compiled.memory_analysis()
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    peak = held + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
    return {"activations": stats.temp_size_in_bytes, "peak": peak}


def _costs(program: Program, topology: Topology, dtype: str) -> dict[str, Any]:
    """What one device computes, moves and sends, and how long that takes."""
    chip = topology.chip
    parts, flops = costs(program, chip, dtype), product_flops(program)
    hbm = sum(cost.hbm_bytes for cost in parts.values())
    sent: dict[str, dict[str, float]] = {}
    for one in collectives(program, len(topology.devices)):
        total = sent.setdefault(one.kind, {"count": 0, "bytes": 0, "seconds": 0.0})
        total["count"] += one.times
        total["bytes"] += one.times * one.size
        total["seconds"] += one.times * one.seconds(chip.link)
    sending = sum(total["seconds"] for total in sent.values())
    bounds = {"products": flops / chip.flops[dtype]}
    if chip.platform == "tpu":  # else caches may save bytes, and switches add up what is sent
        bounds |= {"memory": hbm / chip.bandwidth, "links": sending}
    working = sum(cost.seconds for cost in parts.values())
    return {
        "flops": flops,
        "hbm_bytes": hbm,
        "vmem_bytes": sum(cost.vmem_bytes for cost in parts.values()),
        "sent": sent,
        "hidden_seconds": hidden_seconds(
            program, chip.link, len(topology.devices), lambda i: seconds_of(program, i, chip, dtype)
        ),
        "bounds": bounds,
        # Copies that run beside other operations have no time of their own, but the memory has.
        "modelled_seconds": max(working + sending, hbm / chip.bandwidth),
        "parts": parts,
    }


def _held(tree: Any) -> int:
    """Bytes that one device holds of it."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )
