"""What `jaxbert plan` prints."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxbert.models import BertConfig
from jaxbert.optim import OptimizerConfig
from jaxbert.plan import Plan, largest_batch, make_plan, open_topology, smallest_slice
from jaxbert.plan.hardware import parse_topology
from jaxbert.training import TrainConfig


def run(args: argparse.Namespace, config: BertConfig) -> None:
    """`jaxbert plan`."""
    if args.attention_dropout is not None:
        config = dataclasses.replace(config, attention_probs_dropout_prob=args.attention_dropout)
    make = partial(_make, args, config)
    if not args.search:
        _show(args, make(args.topology, args.batch_size, args.mesh))
        return
    _, _, devices = parse_topology(args.topology)
    _show(
        args, largest_batch(lambda n: make(args.topology, n, args.mesh), devices), "largest batch"
    )
    kind = args.topology.partition(":")[0]
    found = smallest_slice(
        lambda name: make(name, args.batch_size, f"fsdp={parse_topology(name)[2]}"),
        kind,
        args.batch_size,
    )
    _show(args, found, "smallest slice")


def _make(
    args: argparse.Namespace, config: BertConfig, topology: str, batch_size: int, mesh: str | None
) -> Plan:
    training = TrainConfig(
        batch_size=batch_size,
        max_length=args.max_length,
        parallel="mesh",
        mesh=mesh,
        optimizer=OptimizerConfig(optimizer=args.optimizer),
    )
    return make_plan(
        config,
        open_topology(topology),
        training,
        dtype=args.dtype,
        param_dtype=args.param_dtype,
        gradient_checkpointing=args.gradient_checkpointing,
    )


def _show(args: argparse.Namespace, plan: Plan, title: str | None = None) -> None:
    if title:
        print(f"{title}:")
    for name, value in _lines(plan):
        print(f"  {name:<30}{value}")
    if args.json:
        asked = ("model", "mesh", "optimizer", "attention_dropout", "gradient_checkpointing")
        found = dataclasses.asdict(plan) | {"fits": plan.fits, "waste": plan.waste}
        line = {"jax": jax.__version__, **found, **{name: getattr(args, name) for name in asked}}
        line["axes"] = plan.mesh
        with Path(args.json).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _lines(plan: Plan) -> Iterator[tuple[str, Any]]:
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    yield "topology", f"{plan.topology} ({mesh})"
    yield "batch", f"{plan.batch_size} x {plan.max_length} tokens, {plan.dtype}"
    yield "of each device", ""
    yield "  parameters", _bytes(plan.params)
    yield "  optimizer state", _bytes(plan.optimizer_state)
    yield "  activations", _bytes(plan.activations)
    share = f"{_bytes(plan.peak)} of {_bytes(plan.memory)}"
    yield "  peak memory", f"{share}: {'fits' if plan.fits else 'DOES NOT FIT'}"
    waste = f"{plan.flops / 1e9:,.1f} G, {plan.waste:+.1%} of what the model asks for"
    yield "  FLOPs of products", waste
    yield "  moved to and from memory", _bytes(plan.bytes_moved)
    for kind, sent in sorted(plan.sent.items()):
        about = f"{sent['count']} of {_bytes(sent['bytes'])}, {sent['seconds'] * 1e3:.2f} ms"
        yield f"  {kind}", about
    names = ", ".join(f"{count} x {name}" for name, count in plan.kernels.items())
    yield "attention kernels", names or "none: plain products"
    per_second = plan.batch_size / plan.estimated_seconds
    yield (
        "estimate, at published peaks",
        (
            f"{plan.estimated_seconds * 1e3:.1f} ms a step, {per_second:,.0f} examples/s, "
            f"utilisation at most {plan.utilisation:.0%}"
        ),
    )
    yield "compiled in", f"{plan.compile_seconds:.0f} s"


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} B"
