"""Compiles the training steps of jaxbert's peers for the same slices by the same compiler.

    python -m benchmarks.peers                                   # what is not there yet
    python -m benchmarks.peers --only "v5e:2x4 256x128" --sides jaxbert,keras-hub

A peer's own step, with its AdamW and clipping, is written as StableHLO in the peer's environment
(`make peer-environments`) and compiled here, where `jaxbert.plan` counts what it takes; nothing is
run. Before its first, a peer computes a tiny model's loss and gradient, which must be jaxbert's.
Adds lines to benchmarks/results/peers.jsonl; jaxbert's steps that `benchmarks.plans` has compiled
are taken from there. On two cores a step takes minutes. Needs the extras tpu and cuda12.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import plans
from benchmarks.peer_sides import (
    OURS,
    PEERS,
    SIDES,
    agreements,
    is_near,
    loaded,
    make_all_files,
)
from benchmarks.plans import LENGTHS, MODELS
from benchmarks.protocol import ERROR_LINES, SideError
from benchmarks.results import append_result, environment, read_results
from benchmarks.workload import Workload

FILE = "peers"
MESH, DTYPE = "data=8", "bfloat16"  # of the peers
PLATFORMS = {"v5e": "tpu", "v6e": "tpu", "h100": "cuda"}  # as jax calls them


class Case(NamedTuple):
    """A step. batch_size: rows of all devices. segments: examples that share a row, jaxbert's."""

    model: str
    topology: str
    batch_size: int
    max_length: int
    segments: int = 1

    @property
    def name(self) -> str:
        """As `--only` matches it."""
        packed = f" x{self.segments}" if self.segments > 1 else ""
        return f"{self.model} {self.topology} {self.batch_size}x{self.max_length}{packed}"


BASE, TOPOLOGIES = "bert-base-uncased", ("v5e:2x4", "v6e:2x4", "h100:8")
# So many of the film sentences, drawn at random, are a batch. jaxbert packs them into rows like
# these (most of its batches have this shape); others pad them to the batch's longest, or to 128.
SENTENCES, LONGEST = 256, 64
FULL = [
    Case(model, topology, batch, length)
    for model in MODELS
    for length, batch in LENGTHS.items()
    for topology in TOPOLOGIES
]
PACKED = [Case(BASE, topology, 112, LONGEST, segments=8) for topology in TOPOLOGIES]
PADDED = [Case(BASE, topology, SENTENCES, LONGEST) for topology in TOPOLOGIES]
CASES = [*FULL, *PACKED, *PADDED]


def sides_of(case: Case) -> list[str]:
    """Who is compiled for it."""
    if case in PACKED:
        return [OURS]
    return [*PEERS] if case in PADDED else [*SIDES]


def read_programs() -> dict[Case, dict[str, dict[str, Any]]]:
    """{case: {side: its newest program, or its error}}, in the order of cases and sides.

    Of jaxbert's steps those of `plans` count, where it has them.
    """
    planned = [row for row in read_results(plans.FILE) if is_comparable(row)]
    programs = [
        row
        for row in read_results(FILE)
        if row["what"] == "program" and row["mesh"] == mesh_of(row["side"])
    ]
    found = {
        (Case(**{name: row[name] for name in Case._fields if name in row}), row["side"]): row
        for row in [*programs, *map(from_plan, planned)]
    }
    wanted = {case: sides_of(case) for case in CASES}
    return {
        case: {side: found[case, side] for side in sides if (case, side) in found}
        for case, sides in wanted.items()
    }


def mesh_of(side: str) -> str:
    """Over what a side divides a step: jaxbert all that it keeps, the others the rows alone."""
    return plans.SHARDED if side == OURS else MESH


def is_comparable(plan: Mapping[str, Any]) -> bool:
    """Whether a line of `plans` is jaxbert's step as the peers' steps are."""
    wanted = {
        "mesh": mesh_of(OURS), "dtype": DTYPE, "accumulation": 1, "optimizer": "adamw",
        "attention_dropout": None, "gradient_checkpointing": False, "scan_layers": False,
    }  # fmt: skip
    return all(plan.get(name, value) == value for name, value in wanted.items())


def from_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A line of `plans` as one of this file's."""
    roofline = sum(part["roofline_seconds"] for part in plan["parts"].values())
    return {"side": OURS, **plan, "roofline_seconds": roofline}


def read_agreements() -> dict[str, dict[str, Any]]:
    """{side: the newest row}."""
    return {row["side"]: row for row in read_results(FILE) if row["what"] == "agreement"}


# --- programs


def make_program(side: str, case: Case, directory: Path) -> dict[str, Any]:
    """What a side's step takes; {"error": why there is none}. The directory has its files."""
    command = [sys.executable, "-m", "benchmarks.peer_program", json.dumps(case._asdict())]
    about: dict[str, Any] = {}
    try:
        if side != OURS:
            file = str(directory / f"{side}.stablehlo")
            with loaded(side, workload(case), directory) as process:
                platform = PLATFORMS[case.topology.partition(":")[0]]
                about = {"side_versions": process.ask("export", platform=platform, file=file)}
            command.append(file)
    except SideError as error:
        return {"error": str(error)}
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True)
    if done.returncode:
        return about | {"error": " / ".join(done.stderr.strip().splitlines()[-ERROR_LINES:])}
    return about | json.loads(done.stdout.splitlines()[-1])


def workload(case: Case) -> Workload:
    """The case as the sides know it: one batch of padded rows, dropout .1."""
    return Workload(
        name=case.name, kind="train", preset=case.model, batch=case.batch_size,
        length=case.max_length, dtype=DTYPE, examples=case.batch_size, source="ragged",
    )  # fmt: skip


# --- the command


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 if all that was asked for is there, and agrees."""
    args = parser().parse_args(argv)
    missing = [side for side in args.sides if not SIDES[side].is_there()]
    for side in missing:
        print(f"{side}: no environment yet, make it with: make peer-environments", flush=True)
    there = {
        case: {side for side, row in programs.items() if "error" not in row}
        for case, programs in read_programs().items()
    }
    to_do = [
        (case, [s for s in args.sides if s in set(sides_of(case)) - {*missing, *there[case]}])
        for case in CASES
        if args.only in case.name
    ]
    asked = {side for _, sides in to_do for side in sides}
    agreed = {OURS, *(side for side, row in read_agreements().items() if is_near(row))}
    agreed |= check([side for side in PEERS if side in asked - agreed])
    fine = not missing and asked <= agreed
    for case, sides in to_do:
        with tempfile.TemporaryDirectory(prefix="jaxbert-peers-") as directory:
            sides = [side for side in sides if side in agreed]
            if set(sides) - {OURS}:
                make_all_files(workload(case), Path(directory))
            for side in sides:
                row = make_program(side, case, Path(directory))
                fine &= "error" not in row
                said = row.get("error") or f"modelled {1e3 * row['modelled_seconds']:.1f} ms"
                print(f"{case.name}  {side}: {said}", flush=True)
                keep({"what": "program", "side": side, **case._asdict(), **row})
    return int(not fine)


def check(sides: Sequence[str]) -> set[str]:
    """Measures, prints and keeps how far the sides are from jaxbert; which of them are near."""
    near = set()
    with tempfile.TemporaryDirectory(prefix="jaxbert-peers-") as directory:
        for row in agreements(sides, Path(directory)) if sides else ():
            if "error" in row:
                print(f"{row['side']}: {row['error']}", flush=True)
                continue
            said = f"loss off by {row['loss']:.0e}, gradient by {row['gradient']:.0e}"
            print(f"{row['side']}: {said}", flush=True)
            keep({"what": "agreement", **row})
            if is_near(row):
                near.add(row["side"])
    return near


def keep(row: dict[str, Any]) -> None:
    """Adds a line to the results."""
    mesh = mesh_of(row["side"]) if row["what"] == "program" else MESH
    append_result(FILE, row | {"mesh": mesh, "dtype": DTYPE} | environment())


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--only", default="", help="cases whose name contains it")
    parser.add_argument("--sides", type=_sides, default=[*SIDES], help=f"of {','.join(SIDES)}")
    return parser


def _sides(text: str) -> list[str]:
    if unknown := sorted(set(text.split(",")) - set(SIDES)):
        known = ", ".join(SIDES)
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {known}")
    return text.split(",")


if __name__ == "__main__":
    raise SystemExit(main())
