"""What a compiled step costs, by part of the model: FLOPs, bytes, and modelled time.

The compiler for TPUs says of most operations how many cycles it thinks they take
(`estimated_cycles`). That for GPUs has a model too (`xla_gpu_collect_cost_model_stats`), but no
sound one: of BERT on an H100 it gives a LayerNorm of 31 MB half an hour, and products a thirtieth
of the peak. So there, and of Pallas kernels, an operation is taken to run at the longer of its
products at the chip's peak and its bytes at the memory's bandwidth. A sum of such times is a model
of a step, and no measurement.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from jaxbert.plan.hardware import Chip
from jaxbert.plan.hlo import Instruction, Program
from jaxbert.plan.products import flops_of
from jaxbert.plan.sending import KINDS
from jaxbert.plan.traffic import Moved, moved

# The first row whose pattern is in the scopes (`jax.named_scope`) that an operation comes from.
_PARTS = (
    ("optimizer", r"\b(optimizer|gradient_norms)\b"),
    ("loss and head", r"\b(loss|head|pooler)\b"),
    ("embeddings", r"\bembeddings\b"),
    ("LayerNorm", r"\blayer_norm\b"),
    ("attention", r"\battention\b"),
    ("feed-forward", r"\bfeed_forward\b"),
    ("dropout, residual sums", r"\b(dropout|layer_\d+)\b"),
)
REST = "all else"
PARTS = (*(name for name, _ in _PARTS), REST)
# A copy is begun, done, perhaps put together from several, perhaps renamed, and read.
_STEPS_TO_A_READER = 4
_CYCLES = r'"estimated_cycles":"(\d+)"'


@dataclass
class Cost:
    """Of one part, on one device, in one step.

    Attributes:
      flops: of products. hbm_bytes: read from and written to main memory. vmem_bytes: the same of
        memory on the chip, where the compiler puts arrays there.
      seconds: modelled. product_seconds: of operations that multiply matrices.
      roofline_seconds: of operations that the compiler says nothing about.
    """

    flops: int = 0
    hbm_bytes: int = 0
    vmem_bytes: int = 0
    seconds: float = 0.0
    product_seconds: float = 0.0
    roofline_seconds: float = 0.0


def costs(program: Program, chip: Chip, dtype: str) -> dict[str, Cost]:
    """{part: its cost} of a step; what is sent takes no time here, see `sending`."""
    found = {part: Cost() for part in PARTS}
    for i in program.operations:
        times = program.times[i.computation]
        cost = found[part_of(program, i)]
        flops, bytes_moved = _work(program, i, chip)
        seconds, is_modelled = _seconds(i, chip, dtype, flops, bytes_moved.main)
        cost.flops += times * flops
        cost.hbm_bytes += times * bytes_moved.main
        cost.vmem_bytes += times * bytes_moved.chip
        cost.seconds += times * seconds
        if flops:
            cost.product_seconds += times * seconds
        if not is_modelled:
            cost.roofline_seconds += times * seconds
    return {part: cost for part, cost in found.items() if cost != Cost()}


def seconds_of(program: Program, i: Instruction, chip: Chip, dtype: str) -> float:
    """How long an operation takes once, modelled; nothing of what is sent."""
    flops, bytes_moved = _work(program, i, chip)
    return _seconds(i, chip, dtype, flops, bytes_moved.main)[0]


def _work(program: Program, i: Instruction, chip: Chip) -> tuple[int, Moved]:
    """(FLOPs of its products, what it moves), once."""
    flops = sum(flops_of(program, j) for j in program.inside(i))
    return flops, moved(program, i, has_vmem=chip.platform == "tpu")


def _seconds(
    i: Instruction, chip: Chip, dtype: str, flops: int, main_bytes: int
) -> tuple[float, bool]:
    """(how long an operation takes once, whether the compiler says so)."""
    if i.opcode.endswith("-start") or i.opcode in KINDS:
        return 0.0, True  # beside others; or sent, which is counted apart
    cycles = i.attribute(_CYCLES)
    if chip.clock is not None and cycles is not None:
        return int(cycles) / chip.clock, True
    return max(flops / chip.flops[dtype], main_bytes / chip.bandwidth), False


def part_of(program: Program, i: Instruction) -> str:
    """What of the model an operation computes: its product's part, else its own, else of most.

    The compiler's own copies say nothing: theirs is the part that reads them, else that made them.
    """
    inside = list(program.inside(i))
    products = [j for j in inside if flops_of(program, j)]
    for name in _scopes([*products, i]):
        return name
    # Constants are shared, and say where one of those is who share them.
    computed = [j for j in inside if j.opcode not in ("constant", "broadcast", "parameter")]
    names = list(_scopes(computed))
    if names:
        return max(names, key=names.count)
    return _part_of_copy(program, i) if i.opcode.endswith("-start") else REST


def _part_of_copy(program: Program, i: Instruction) -> str:
    readers = [i]
    for _ in range(_STEPS_TO_A_READER):
        readers = [user for reader in readers for user, _ in program.users(reader)]
        names = [part_of(program, reader) for reader in readers]
        if known := [name for name in names if name != REST]:
            return known[0]
    made = program.operand(i, 0)
    return REST if made.opcode == "parameter" else part_of(program, made)


def _scopes(instructions: list[Instruction]) -> Iterator[str]:
    """The parts that those of the instructions are of which say so."""
    for i in instructions:
        scopes = i.attribute(r'op_name="([^"]*)"') or ""
        found = [name for name, pattern in _PARTS if re.search(pattern, scopes)]
        yield from found[:1]
