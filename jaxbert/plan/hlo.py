"""Reads compiled HLO: its operations, the arrays they read and write, how often each is run."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

TRITON = "__gpu$xla.gpu.triton"
PALLAS = ("tpu_custom_call", TRITON)


class Buffer(NamedTuple):
    """An array. size: bytes in memory, its layout's padding included, and without it `data`.

    space: 0 = the device's main memory.
    """

    dims: tuple[int, ...]
    data: int
    size: int
    space: int


class Instruction(NamedTuple):
    """One line of HLO. computation: in which it stands. rest: what follows the opening bracket.

    is_root: whether it is the computation's result.
    """

    computation: str
    name: str
    results: tuple[Buffer, ...]
    opcode: str
    rest: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """Their names."""
        return re.findall(r"%([\w.-]+)", self.rest.partition(")")[0])

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern in its attributes."""
        found = re.search(pattern, self.rest)
        return None if found is None else found.group(1)

    def needed(self, pattern: str) -> str:
        """The same of an attribute without which nothing can be counted."""
        return _needed(re.compile(pattern), self.rest)


class Program:
    """A compiled program, from `compiled.as_text()`.

    Attributes:
      instructions: all of them, also those that are fused into others.
      times: {computation: how often a step runs it}; a loop's body as often as the loop goes round.
      operations: the instructions that run as themselves, which those fused into others do not.

    Raises:
      LookupError: what is needed to count is not in the text, as how often a loop goes round.
    """

    def __init__(self, text: str) -> None:
        self.instructions = list(_parse(text))
        self._named = {i.name: i for i in self.instructions}
        self._bodies: dict[str, list[Instruction]] = defaultdict(list)
        self._users: dict[str, list[tuple[Instruction, int]]] = defaultdict(list)
        for i in self.instructions:
            self._bodies[i.computation].append(i)
            for place, name in enumerate(i.operands):
                self._users[name].append((i, place))
        self.times: Counter[str] = Counter()
        running: dict[str, None] = {}
        self._run(_needed(_ENTRY, text), 1, running)
        self.operations = [i for name in running for i in self._bodies[name]]

    def _run(self, computation: str, times: int, running: dict[str, None] | None) -> None:
        """Counts a computation and all that it calls.

        running: the computations whose instructions run as themselves; None = not inside of these.
        """
        self.times[computation] += times
        if running is not None:
            running[computation] = None
        for i in self._bodies[computation]:
            rounds = self._rounds(i) if i.opcode == "while" else 1
            for name in _called(i):
                self._run(name, times * rounds, running if i.opcode in _CONTROL else None)

    def _rounds(self, loop: Instruction) -> int:
        known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
        if known is not None:
            return int(known)
        # Else counted from 0 to the one number that its condition has.
        condition = self._bodies[loop.needed(r"condition=%([\w.-]+)")]
        bounds = [re.match(r"(\d+)\)", i.rest) for i in condition if i.opcode == "constant"]
        if len(bounds) != 1 or bounds[0] is None:
            raise LookupError(f"how often does this loop go round? {loop.name} = {loop.rest[:200]}")
        return int(bounds[0].group(1))

    def operand(self, instruction: Instruction, place: int) -> Instruction:
        """What made it."""
        return self._named[instruction.operands[place]]

    def operand_shape(self, instruction: Instruction, place: int) -> tuple[int, ...]:
        """Of an operand that is an array."""
        return self.operand(instruction, place).results[0].dims

    def body(self, instruction: Instruction) -> list[Instruction]:
        """What is fused into it; nothing where it is no fusion."""
        if instruction.opcode != "fusion":
            return []
        return self._bodies[instruction.needed(r"calls=%([\w.-]+)")]

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """It, and what is fused into it, at any depth."""
        yield instruction
        for i in self.body(instruction):
            yield from self.inside(i)

    def users(self, instruction: Instruction) -> list[tuple[Instruction, int]]:
        """Who reads it, and as which operand."""
        return self._users[instruction.name]

    def kernels(self) -> dict[str, int]:
        """{target: how often a step calls it} of the custom kernels that compute attention."""
        found: Counter[str] = Counter()
        for i in self.instructions:
            target = target_of(i) or ""
            # Of Pallas kernels, which all have one target, the scope says what they compute.
            is_pallas = target in PALLAS and i.attribute(r'op_name="[^"]*(attention)\b')
            if is_pallas or target.startswith("__cudnn$fmha"):
                found[target] += self.times[i.computation]
        return dict(sorted(found.items()))


def target_of(instruction: Instruction) -> str | None:
    """The kernel that it calls; None where it calls none."""
    if instruction.opcode != "custom-call":
        return None
    return instruction.needed(r'custom_call_target="([^"]*)"')


# What runs other computations as they are, and not as a part of itself.
_CONTROL = {"while", "conditional", "call", "async-start"}
_CALLED = re.compile(
    r"\b(?:calls|to_apply|condition|body|true_computation|false_computation)=%([\w.-]+)"
)
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")


def _called(i: Instruction) -> list[str]:
    branches = re.findall(r"%([\w.-]+)", ",".join(_BRANCHES.findall(i.rest)))
    return _CALLED.findall(i.rest) + branches


_COMPUTATION = re.compile(r"^(?:ENTRY )?%([\w.-]+) \(.*\{$")
_ENTRY = re.compile(r"^ENTRY %([\w.-]+) ", re.MULTILINE)
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8}


def _needed(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    if found is None:
        raise LookupError(f"no {pattern.pattern} in this HLO: {text[:200]}")
    return found.group(1)


def _parse(text: str) -> Iterator[Instruction]:
    computation = ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            computation = start.group(1)
        elif found := _INSTRUCTION.match(line):
            root, name, shapes, opcode, rest = found.groups()
            results = tuple(_buffer(*shape) for shape in _SHAPE.findall(shapes))
            yield Instruction(computation, name, results, opcode, rest, root is not None)


def _buffer(dtype: str, dims: str, layout: str) -> Buffer:
    """Of a shape such as bf16[8,100]{1,0:T(8,128)(2,1)S(1)}, which is 8 x 128 in memory space 1."""
    sides = tuple(int(n) for n in dims.split(",") if n)
    order, _, rest = layout.partition(":")
    slowest_first = [sides[int(axis)] for axis in reversed(order.split(","))] if order else [*sides]
    if tile := re.match(r"T\(([\d,]+)\)", rest):
        units = [int(n) for n in tile.group(1).split(",")]
        slowest_first = [1] * (len(units) - len(sides)) + slowest_first
        for place, unit in enumerate(units, len(slowest_first) - len(units)):
            slowest_first[place] = -(-slowest_first[place] // unit) * unit
    space = re.search(r"S\((\d+)\)", rest)
    data, size = (_SIZES.get(dtype, 4) * math.prod(n) for n in (sides, slowest_first))
    return Buffer(sides, data, size, int(space.group(1)) if space else 0)
