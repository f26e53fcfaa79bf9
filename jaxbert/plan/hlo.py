"""Reads compiled HLO: the products it computes, what it sends between devices, what it moves."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple


class Instruction(NamedTuple):
    """One line of HLO. computation: in which it stands. rest: what follows the opening bracket."""

    computation: str
    name: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    opcode: str
    rest: str

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
    """A compiled program, from `compiled.as_text()`. Loops are counted once."""

    def __init__(self, text: str) -> None:
        self.instructions = list(_parse(text))
        self._shapes = {i.name: i.shapes for i in self.instructions}
        self.entry = _needed(_ENTRY, text)

    def operand_shape(self, instruction: Instruction, index: int) -> tuple[int, ...]:
        """Of an operand that is an array."""
        return self._shapes[instruction.operands[index]][0][1]

    def operand_bytes(self, instruction: Instruction) -> int:
        """Of all of them together."""
        return sum(_bytes(self._shapes.get(name, ())) for name in instruction.operands)

    def kernels(self) -> dict[str, int]:
        """{target: how often it is called} of the custom kernels that compute attention."""
        found = Counter(i.needed(_TARGET) for i in self.instructions if i.opcode == _CUSTOM)
        wanted = ("tpu_custom_call", "__cudnn$fmha")
        return {name: n for name, n in sorted(found.items()) if name.startswith(wanted)}


_CUSTOM, _TARGET = "custom-call", r'custom_call_target="([^"]*)"'
_COMPUTATION = re.compile(r"^(?:ENTRY )?%([\w.-]+) \(.*\{$")
_ENTRY = re.compile(r"^ENTRY %([\w.-]+) ", re.MULTILINE)
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
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
            name, shapes, opcode, rest = found.groups()
            sides = tuple(
                (dtype, tuple(int(n) for n in dims.split(",") if n))
                for dtype, dims in _SHAPE.findall(shapes)
            )
            yield Instruction(computation, name, sides, opcode, rest)


def _bytes(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> int:
    return sum(_SIZES.get(dtype, 4) * math.prod(dims) for dtype, dims in shapes)


def product_flops(program: Program) -> int:
    """FLOPs of all matrix products, in kernels of any kind, 2 for a multiplication and addition."""
    return sum(_flops(program, i) for i in program.instructions)


def _flops(program: Program, i: Instruction) -> int:
    if i.opcode == "dot":
        sides = program.operand_shape(i, 0)
        dims = i.needed(r"lhs_contracting_dims=\{([\d,]*)\}")
        return 2 * math.prod(i.shapes[0][1]) * _contracted(sides, dims.split(","))
    if i.opcode == "convolution":  # what products are on a TPU
        return _convolution_flops(program, i)
    if i.opcode != _CUSTOM:
        return 0
    target = i.needed(_TARGET)
    if target == "tpu_custom_call":  # Pallas: what the kernel says of itself
        return int(i.attribute(r'"cost_estimate":\{"flops":"(\d+)"') or 0)
    if target.startswith("__cublas"):
        dims = i.needed(r'"lhs_contracting_dimensions":(\[[^\]]*\])')
        sides = program.operand_shape(i, 0)
        return 2 * math.prod(i.shapes[0][1]) * _contracted(sides, json.loads(dims))
    if target.startswith("__cudnn$fmha"):
        # Of queries and keys [B, L, N, H]: two products forward, five backward.
        batch, length, heads, width = program.operand_shape(i, 0)
        products = 5 if "Backward" in target else 2
        return 2 * products * batch * heads * length * program.operand_shape(i, 1)[1] * width
    return 0


def _convolution_flops(program: Program, i: Instruction) -> int:
    """Of a convolution, without what it multiplies by padding and by the gaps of a dilation.

    TPUs write a batch of products as a convolution whose window goes over the batch and, by
    dilation or padding, meets one element of it: that is one product, not as many as its size.
    """
    shapes = program.operand_shape(i, 0), program.operand_shape(i, 1), i.shapes[0][1]
    labels = i.needed(r"dim_labels=([^,\s]+)").replace("->", "_").split("_")
    left, kernel, out = (dict(zip(*pair, strict=True)) for pair in zip(labels, shapes, strict=True))
    window = dict(re.findall(r"(\w+)=(\S+)", i.attribute(r"window=\{([^}]*)\}") or ""))
    said = {name: values.split("x") for name, values in window.items()}
    met = 1
    for axis, name in enumerate(sorted(set(out) - {"b", "f"})):
        stride, apart, gap = (
            int(said[key][axis]) if key in said else 1
            for key in ("stride", "lhs_dilate", "rhs_dilate")
        )
        before = int(said["pad"][axis].partition("_")[0]) if "pad" in said else 0
        places = (
            at * stride + element * gap - before
            for at in range(out[name])
            for element in range(kernel[name])
        )
        met *= sum(place % apart == 0 and 0 <= place // apart < left[name] for place in places)
    return 2 * out["b"] * out["f"] * kernel["i"] * met


def _contracted(sides: tuple[int, ...], dims: list[str]) -> int:
    return math.prod(sides[int(dim)] for dim in dims if dim != "")


class Collective(NamedTuple):
    """Something sent. size: bytes of the whole array. devices: how many take part together."""

    kind: str
    size: int
    devices: int

    def seconds(self, link: float) -> float:
        """On a ring, at `link` bytes a second in one direction and nothing for latency."""
        share = (self.devices - 1) / self.devices
        rounds = {"all-reduce": 2 * share, "collective-permute": 1}.get(self.kind, share)
        return rounds * self.size / link


_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def collectives(program: Program, devices: int) -> list[Collective]:
    """Everything that a step sends between `devices` devices."""
    found, chains = [], set()
    for i in program.instructions:
        kind = i.opcode.removesuffix("-start")
        if kind not in _KINDS:
            continue
        # TPUs split one all-gather over several fusions, which share this number.
        chain = i.attribute(r'chain_id="(\d+)"')
        if chain is not None and (kind, chain) in chains:
            continue
        chains.add((kind, chain))
        group = _group(i, devices)
        if group > 1:
            found.append(Collective(*_whole(i, kind, group), group))
    return found


def _group(i: Instruction, devices: int) -> int:
    if listed := i.attribute(r"replica_groups=\{\{([\d,]+)\}"):
        return len(listed.split(","))
    if counted := i.attribute(r"replica_groups=\[\d+,(\d+)\]"):
        return int(counted)
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", i.rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named.group(2)))
    return devices


def _whole(i: Instruction, kind: str, group: int) -> tuple[str, int]:
    shapes = i.shapes
    if i.opcode.endswith("-start") and kind != "all-reduce":  # (operands, results, ...)
        shapes = shapes[1:2]
    if kind == "all-reduce" and i.computation.startswith("all-reduce-scatter"):
        return "reduce-scatter", _bytes(shapes)  # which is how TPUs write one
    return kind, _bytes(shapes) * (group if kind == "reduce-scatter" else 1)


_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all"}


def bytes_moved(program: Program) -> int:
    """What kernels read and write, each once: where the compiler has no count of its own."""
    return sum(
        _bytes(i.shapes) + program.operand_bytes(i)
        for i in program.instructions
        if i.computation == program.entry and i.opcode not in _FREE
    )
