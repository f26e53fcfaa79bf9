"""What a compiled step sends between devices, and how long that takes on a ring."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from jaxbert.plan.hlo import Buffer, Instruction, Program


class Collective(NamedTuple):
    """Something sent. size: bytes of the whole array. devices: how many take part together.

    times: how often a step sends it.
    """

    kind: str
    size: int
    devices: int
    times: int = 1

    def seconds(self, link: float) -> float:
        """Once, on a ring, at `link` bytes a second in one direction and nothing for latency."""
        share = (self.devices - 1) / self.devices
        rounds = {"all-reduce": 2 * share, "collective-permute": 1}.get(self.kind, share)
        return rounds * self.size / link


KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def collectives(program: Program, devices: int) -> list[Collective]:
    """Everything that a step sends between `devices` devices."""
    found, chains = [], set()
    for i in program.instructions:
        kind = i.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        # TPUs split one all-gather over several fusions, which share this number.
        chain = i.attribute(r'chain_id="(\d+)"')
        if chain is not None and (kind, chain) in chains:
            continue
        chains.add((kind, chain))
        group = _group(i, devices)
        if group > 1:
            times = program.times[i.computation]
            found.append(Collective(*_whole(i, kind, group), group, times))
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
    results = i.results
    if i.opcode.endswith("-start") and kind != "all-reduce":  # (operands, results, ...)
        count = len(i.operands)  # GPUs send many arrays at once
        results = results[count : 2 * count]
    if kind == "all-reduce" and i.computation.startswith("all-reduce-scatter"):
        return "reduce-scatter", _bytes(results)  # which is how TPUs write one
    return kind, _bytes(results) * (group if kind == "reduce-scatter" else 1)


def _bytes(results: tuple[Buffer, ...]) -> int:
    return sum(buffer.data for buffer in results)
