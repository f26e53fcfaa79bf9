"""`jaxbert plan`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxbert.cli import common, flags
from jaxbert.cli.options import PlanOptions, resolve
from jaxbert.optim.config import OptimizerConfig

if TYPE_CHECKING:
    from jaxbert.plan import Plan

_FLAGS = (
    "model",
    "attention_dropout",
    "topology",
    "compute",
    "training.batch_size",
    "training.max_length",
    "training.mesh",
    "training.optimizer.optimizer",
    "search",
    "json",
)


def add_flags(parser: flags.Parser) -> None:
    """Of `jaxbert plan`."""
    parser.usage = "%(prog)s --topology CHIP:SLICE --model NAME_OR_DIR [flags]"
    flags.add_flags(parser, PlanOptions, only=_FLAGS)


def run(args: argparse.Namespace) -> None:
    """`jaxbert plan`."""
    # Nothing is run, so JAX must not look for devices; it reads this when it is imported.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from jaxbert.plan import largest_batch, smallest_slice
    from jaxbert.plan.hardware import parse_topology

    # No strategy is planned for: what a step takes depends on the optimizer, not on its rates.
    optimizer = {"training.optimizer.optimizer": OptimizerConfig.optimizer}
    options = resolve(PlanOptions, optimizer | vars(args))
    if options.json is not None:
        common.check_place(options.json)
    config = common.read_config(options.model)
    if options.attention_dropout is not None:
        dropout = options.attention_dropout
        config = dataclasses.replace(config, attention_probs_dropout_prob=dropout)
    if not options.search:
        _show(options, _make(options, config))
        return
    kind, devices = options.topology.partition(":")[0], parse_topology(options.topology)[2]
    found = largest_batch(lambda n: _make(options, config, batch_size=n), devices)
    _show(options, found, "largest batch")

    def on(name: str) -> Plan:
        return _make(options, config, name, mesh=f"fsdp={parse_topology(name)[2]}")

    found = smallest_slice(on, kind, options.training.batch_size)
    _show(options, found, "smallest slice")


def _make(options: PlanOptions, config: Any, topology: str | None = None, **training: Any) -> Plan:
    from jaxbert.plan import make_plan, open_topology

    return make_plan(
        config,
        open_topology(topology or options.topology),
        dataclasses.replace(options.training, **training),
        options.compute,
    )


def _show(options: PlanOptions, plan: Plan, title: str | None = None) -> None:
    import jax

    if title:
        print(f"{title}:")
    for name, value in _lines(plan):
        print(f"  {name:<30}{value}")
    if options.json:
        line = {
            "jax": jax.__version__,
            **dataclasses.asdict(plan),
            "fits": plan.fits,
            "waste": plan.waste,
            "model": options.model,
            "mesh": options.training.mesh,
            "optimizer": options.training.optimizer.optimizer,
            "attention_dropout": options.attention_dropout,
            "gradient_checkpointing": options.compute.gradient_checkpointing,
            "axes": plan.mesh,
        }
        with Path(options.json).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")


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
