"""What a compiled step sends between devices, and how long that takes on a ring."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from jaxbert.plan.hlo import Buffer, Instruction, Program, target_of


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


# How TPUs begin and end, within fusions, what they send beside these.
_BEGUN, _DONE = "AsyncCollectiveStart", "AsyncCollectiveDone"
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def collectives(program: Program, devices: int) -> list[Collective]:
    """Everything that a step sends between `devices` devices."""
    found: dict[str, Collective] = {}
    for i in program.instructions:
        one = sent_by(program, i, devices)
        if one is not None:
            found.setdefault(name_of(i), one)
    return [*found.values()]


def sent_by(program: Program, i: Instruction, devices: int) -> Collective | None:
    """What an instruction sends, or begins to; None where it sends nothing."""
    kind = i.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    group = _group(i, devices)
    if group == 1:
        return None
    return Collective(*_whole(i, kind, group), group, program.times[i.computation])


def name_of(i: Instruction) -> str:
    """Of what an instruction sends: TPUs split one all-gather over fusions that share a number."""
    chain = i.attribute(r'chain_id="(\d+)"')
    return i.name if chain is None else f"{i.opcode}, chain {chain}"


def hidden_seconds(
    program: Program, link: float, devices: int, seconds: Callable[[Instruction], float]
) -> float:
    """How much of a step's sending passes beside other operations, by the program's own order.

    What is begun is sent when the link is free; where it is wanted, all wait until it is there.

    Args:
      link: bytes a second in one direction, as `Collective.seconds` has it.
      seconds: what an operation takes, once.
    """
    bodies: dict[str, list[Instruction]] = defaultdict(list)
    for i in program.operations:
        bodies[i.computation].append(i)
    return sum(
        program.times[name] * _hidden(program, body, link, devices, seconds)
        for name, body in bodies.items()
    )


def _hidden(
    program: Program,
    body: list[Instruction],
    link: float,
    devices: int,
    seconds: Callable[[Instruction], float],
) -> float:
    """The same of one run of a computation."""
    now = free = sent = waited = 0.0
    there: dict[str, float] = {}  # when what was begun has come
    for i in body:
        inside = list(program.inside(i))
        targets = {target_of(j) for j in inside}
        wanted = [i.operands[0]] if i.opcode.removesuffix("-done") in KINDS else []
        for j in inside:
            one, name = sent_by(program, j, devices), name_of(j)
            if one is None:
                continue
            is_begun = j.opcode.endswith("-start") or _BEGUN in targets or name in there
            if name not in there:
                free = max(free, now) + one.seconds(link)
                there[name] = free
                sent += one.seconds(link)
            if _DONE in targets or not is_begun:
                wanted.append(name)
        for name in wanted:
            waited += max(0.0, there.get(name, 0.0) - now)
            now = max(now, there.get(name, 0.0))
        now += seconds(i)
    return max(0.0, sent - waited)  # roundoff, where nothing is hidden


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
