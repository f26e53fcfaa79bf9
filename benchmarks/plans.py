"""Plans the published sizes of BERT on the slices that the table of PLANS.md shows.

python -m benchmarks.plans               # all, about an hour on two cores
python -m benchmarks.plans --only v5e    # those whose name contains it

Nothing is run on the hardware: each step is compiled for it. Needs the extras tpu and cuda12.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any, NamedTuple

from benchmarks.results import RESULTS, read_results

FILE = "plans"
SHARDED = "fsdp=8"  # how `--parallel mesh` splits eight devices by itself


class Case(NamedTuple):
    """One plan. batch_size: of all devices. attention_dropout: None = the model's own, .1."""

    model: str
    topology: str
    batch_size: int
    max_length: int
    mesh: str = SHARDED
    attention_dropout: float | None = None

    @property
    def name(self) -> str:
        """As `--only` matches it."""
        dropout = "" if self.attention_dropout is None else f" dropout={self.attention_dropout:g}"
        return f"{self.model} {self.topology} {self.batch_size}x{self.max_length}{dropout}"


MODELS = ("bert-base-uncased", "bert-large-uncased")
# Tokens -> sequences; 4,096 tokens for each of eight devices.
LENGTHS = {128: 256, 512: 64}
CASES = [
    *(
        Case(model, topology, batch, length)
        for topology in ("v5e:2x4", "v6e:2x4", "h100:8")
        for model in MODELS
        for length, batch in LENGTHS.items()
    ),
    # Four times as much for each device.
    Case("bert-base-uncased", "v5e:2x4", 1024, 128),
    # cuDNN's kernel knows no dropout of ours: without any on attention, it is used.
    *(
        Case(model, "h100:8", batch, length, SHARDED, 0.0)
        for model in MODELS
        for length, batch in LENGTHS.items()
    ),
]


def main() -> int:
    """Each plan in a process of its own: a compiler takes gigabytes and keeps them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="plans whose name contains it")
    only = parser.parse_args().only
    there = {_key(row) for row in read_plans()}
    for case in CASES:
        if only in case.name and tuple(case) not in there:
            print(case.name, flush=True)
            subprocess.run(_command(case), check=True)
    return 0


def read_plans() -> list[dict[str, Any]]:
    """The newest plan of each case, in the order of the cases; none of a case that is no more."""
    found = {_key(row): row for row in read_results(FILE)}
    return [found[case] for case in CASES if case in found]


def _key(row: dict[str, Any]) -> Case:
    return Case(**{field: row[field] for field in Case._fields})


def _command(case: Case) -> list[str]:
    words = [sys.executable, "-m", "jaxbert", "plan", "--json", str(RESULTS / f"{FILE}.jsonl")]
    for field, value in case._asdict().items():
        if value is not None:
            words += [f"--{field.replace('_', '-')}", str(value)]
    return words


if __name__ == "__main__":
    raise SystemExit(main())
