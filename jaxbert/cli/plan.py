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
    "training.accumulation",
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
    # No strategy is planned for: what a step takes depends on the optimizer, not on its rates.
    optimizer = {"training.optimizer.optimizer": OptimizerConfig.optimizer}
    options = resolve(PlanOptions, optimizer | vars(args))
    if options.json is not None:
        common.check_place(options.json)
    config = common.read_config(options.model)
    if options.attention_dropout is not None:
        dropout = options.attention_dropout
        config = dataclasses.replace(config, attention_probs_dropout_prob=dropout)
    if options.search:
        _search(options, config)
    else:
        _show(options, _make(options, config))


def _search(options: PlanOptions, config: Any) -> None:
    """The best of many plans, in three directions."""
    from jaxbert.plan import DoesNotFit, fastest_meshes, largest_batch, smallest_slice
    from jaxbert.plan.hardware import parse_topology

    kind, devices = options.topology.partition(":")[0], parse_topology(options.topology)[2]
    mesh, parts = options.training.mesh, options.training.accumulation
    if mesh is None:
        mesh = f"fsdp={devices}"  # holds the most
        try:
            found = fastest_meshes(lambda mesh: _make(options, config, mesh=mesh), devices)
            mesh = _axes(found[0], "=", ",")
            _show(options, found[0], "fastest mesh")
            for plan in found[1:]:
                print(f"  {'slower':<32}{_axes(plan)}: {plan.modelled_seconds * 1e3:.1f} ms")
        except DoesNotFit as error:
            print(f"no mesh holds the batch: {error}")

    def of(batch_size: int) -> Plan:
        return _make(options, config, batch_size=batch_size, mesh=mesh)

    _show(options, largest_batch(of, devices * parts), "largest batch")

    def on(name: str) -> Plan:
        return _make(options, config, name, mesh=f"fsdp={parse_topology(name)[2]}")

    smallest = smallest_slice(on, kind, options.training.batch_size, parts)
    _show(options, smallest, "smallest slice")


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
    for name, value in (*_memory(plan), *_work(plan), *_times(plan), *_parts(plan)):
        print(f"  {name:<32}{value}".rstrip())
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
            "scan_layers": options.compute.scan_layers,
            "axes": plan.mesh,
        }
        with Path(options.json).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")


_Lines = Iterator[tuple[str, str]]


def _memory(plan: Plan) -> _Lines:
    yield "topology", f"{plan.topology} ({_axes(plan)})"
    parts = f" in {plan.accumulation} parts" if plan.accumulation > 1 else ""
    yield "batch", f"{plan.batch_size} x {plan.max_length} tokens{parts}, {plan.dtype}"
    yield "of each device", ""
    yield "  parameters", _bytes(plan.params)
    yield "  optimizer state", _bytes(plan.optimizer_state)
    yield "  activations", _bytes(plan.activations)
    share = f"{_bytes(plan.peak)} of {_bytes(plan.memory)}"
    yield "  peak memory", f"{share}: {'fits' if plan.fits else 'DOES NOT FIT'}"


def _work(plan: Plan) -> _Lines:
    waste = f"{plan.flops / 1e9:,.1f} G, {plan.waste:+.1%} of what the model asks for"
    yield "  FLOPs of products", waste
    yield "  main memory, read and written", _bytes(plan.hbm_bytes)
    if plan.vmem_bytes:
        yield "  on the chip, the same", _bytes(plan.vmem_bytes)
    for kind, sent in sorted(plan.sent.items()):
        yield f"  {kind}", f"{sent['count']} of {_bytes(sent['bytes'])}"
    names = ", ".join(f"{count} x {name}" for name, count in plan.kernels.items())
    yield "attention kernels", names or "none: plain products"


def _times(plan: Plan) -> _Lines:
    """Each with what it is: a bound, a model, or a measurement."""
    for what, seconds in plan.bounds.items():
        yield f"{what}, a bound", f"{_ms(seconds)}: no step of this program is faster"
    per_second = plan.batch_size / plan.modelled_seconds
    yield (
        "a step, modelled",
        f"{_ms(plan.modelled_seconds)}, {per_second:,.0f} examples/s, utilisation "
        f"{plan.utilisation:.0%}: no measurement, and no bound",
    )
    sending = sum(sent["seconds"] for sent in plan.sent.values())
    if sending:
        yield "  of it sending", f"{_ms(sending)}: on rings, one after the other, beside nothing"
        hidden = (
            f"{_ms(plan.hidden_seconds)}: so much less, if links keep up with the program's order"
        )
        yield "  of it beside others", hidden
    roofline = sum(cost.roofline_seconds for cost in plan.parts.values())
    compiler = sum(cost.seconds for cost in plan.parts.values()) - roofline
    if compiler:
        yield "  of it by the compiler", f"{_ms(compiler)}: the cycles that it estimates"
    yield "  of it at published peaks", f"{_ms(roofline)}: where the compiler estimates nothing"
    yield "compiled in", f"{plan.compile_seconds:.0f} s, measured"


def _parts(plan: Plan) -> _Lines:
    """A table of the model's parts."""
    row = "{:>9}{:>12}{:>11}{:>11}{:>12}".format
    yield "by part, modelled", row("ms", "products", "FLOPs, G", "memory", "on the chip")
    for name, cost in sorted(plan.parts.items(), key=lambda pair: -pair[1].seconds):
        yield (
            f"  {name}",
            row(
                f"{1e3 * cost.seconds:.2f}",
                f"{1e3 * cost.product_seconds:.2f}",
                f"{cost.flops / 1e9:,.1f}",
                _bytes(cost.hbm_bytes),
                _bytes(cost.vmem_bytes),
            ),
        )


def _axes(plan: Plan, equals: str = " ", comma: str = ", ") -> str:
    return comma.join(f"{axis}{equals}{size}" for axis, size in plan.mesh.items())


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} B"
