"""What each operation of compiled HLO reads and writes: of main memory, and of that on the chip.

A TPU's compiler keeps arrays in the chip's own memory (VMEM) where they fit, and says so in their
layout, `S(1)`. What is brought there ahead of its use (`copy-start` from main memory) counts as
read from main memory, once; its users then read VMEM. On a GPU every array is in main memory as far
as the program says; what its caches hold nobody knows before it is run.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxbert.plan.hlo import Buffer, Instruction, Program, target_of

_MAIN, _ON_CHIP = 0, 1  # memory spaces; others hold flags, of no size to speak of
# What moves nothing: names for what is there, control, and the ends of what a "-start" has begun.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
    "opt-barrier", "optimization-barrier", "partition-id", "replica-id",
    "while", "conditional", "call", "async-start",
}  # fmt: skip
_FREE_TARGETS = {"AllocateBuffer", "ConcatBitcast", "SliceBitcast", "Sharding"}
_PARTIAL = {"dynamic-slice", "slice", "gather"}  # they read of their operand what they return
_IN_PLACE = {"dynamic-update-slice", "scatter"}  # they write of their operand what changes


class Moved(NamedTuple):
    """Bytes read and written: of the device's main memory, and of that on the chip."""

    main: int = 0
    chip: int = 0


def moved(program: Program, i: Instruction, *, has_vmem: bool) -> Moved:
    """By one operation, once.

    Args:
      has_vmem: whether `S(1)` is memory on the chip, as on TPUs; else all is main memory.
    """
    if i.opcode in _FREE or i.opcode.endswith(("-done", "-update")):
        return Moved()
    if target_of(i) in _FREE_TARGETS:
        return Moved()
    touched = [*_reads(program, i), *_writes(program, i)]
    if not has_vmem:
        return Moved(sum(size for size, _ in touched))
    main, chip = (sum(size for size, at in touched if at == space) for space in (_MAIN, _ON_CHIP))
    return Moved(main, chip)


def launches(program: Program) -> int:
    """How many kernels a step starts: fusions and custom calls that move or compute something."""
    return sum(
        program.times[i.computation]
        for i in program.operations
        if i.opcode in ("fusion", "custom-call") and target_of(i) not in _FREE_TARGETS
    )


def _reads(program: Program, i: Instruction) -> list[tuple[int, int]]:
    """(bytes, memory space) of each operand."""
    found, seen = [], set()
    for place, name in enumerate(i.operands):
        buffers = program.operand(i, place).results
        if len(buffers) == 1:
            size = _read_of(program, i, place, buffers[0].size)
        else:  # a tuple, read whole
            size = sum(buffer.size for buffer in buffers)
        # An operand that is given twice is read once.
        if (name, size) not in seen and buffers:
            found.append((size, buffers[0].space))
        seen.add((name, size))
    return found


def _read_of(program: Program, i: Instruction, place: int, whole: int) -> int:
    """Bytes that it reads of an operand of `whole` bytes."""
    if i.opcode == "fusion":
        given = f"{place})"
        (parameter,) = (
            p for p in program.body(i) if p.opcode == "parameter" and p.rest.startswith(given)
        )
        return _read_by_users(program, parameter, whole)
    if i.opcode == "bitcast":
        return _read_by_users(program, i, whole)
    kind = i.opcode.removesuffix("-start")
    if place == 0 and kind in _PARTIAL:
        return min(whole, _outputs(i)[0].size)
    return 0 if place == 0 and kind in _IN_PLACE else whole


def _read_by_users(program: Program, i: Instruction, whole: int) -> int:
    return min(whole, sum(_read_of(program, *user, whole) for user in program.users(i)))


def _writes(program: Program, i: Instruction) -> list[tuple[int, int]]:
    """(bytes, memory space) of each result."""
    sources = _sources(program, i)
    outputs = _outputs(i)
    if len(sources) != len(outputs):
        return [(buffer.size, buffer.space) for buffer in outputs]
    return [
        (_written(program, source, buffer.size), buffer.space)
        for source, buffer in zip(sources, outputs, strict=True)
    ]


def _sources(program: Program, i: Instruction) -> list[Instruction]:
    """What computes each of its results, within it where it is a fusion."""
    roots = [j for j in program.body(i) if j.is_root]
    if not roots:
        return [i]
    (root,) = roots
    if root.opcode != "tuple":
        return _sources(program, root)
    return [program.operand(root, place) for place in range(len(root.operands))]


def _written(program: Program, source: Instruction, whole: int) -> int:
    """Bytes that are written of a result of `whole` bytes."""
    if source.opcode == "bitcast":
        return _written(program, program.operand(source, 0), whole)
    if source.opcode == "dynamic-update-slice":
        return min(whole, _size(program.operand(source, 1)))
    if source.opcode == "scatter":
        # Operands, indices, as many updates. What is changed is read, too.
        updates = range(len(source.operands) // 2 + 1, len(source.operands))
        return min(2 * whole, 2 * sum(_size(program.operand(source, at)) for at in updates))
    return whole


def _size(i: Instruction) -> int:
    return sum(buffer.size for buffer in i.results)


def _outputs(i: Instruction) -> tuple[Buffer, ...]:
    """Its results, without the operands and flags that a "-start" returns too."""
    if not i.opcode.endswith("-start") or i.opcode == "all-reduce-start":
        return i.results
    if i.opcode == "copy-start":  # (the copy, its operand, a flag)
        return i.results[:1]
    count = len(i.operands)
    return i.results[count : 2 * count]
