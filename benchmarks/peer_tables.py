"""The tables of PEERS.md, from benchmarks/results/peers.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.kernel_cycles import with_kernels
from benchmarks.markdown import table
from benchmarks.peer_sides import OURS
from benchmarks.peers import (
    CASES,
    FULL,
    LONGEST,
    PACKED,
    PADDED,
    SENTENCES,
    TOPOLOGIES,
    Case,
    read_agreements,
    read_programs,
    sides_of,
)

NAMES = {
    "jaxbert": "jaxbert",
    "keras-hub": "KerasHub",
    "hf-flax": "HF Flax",
    "torchax": "PyTorch by torchax",
}
PACKAGES = {
    "jaxbert": ("jax", "libtpu"),
    "keras-hub": ("keras-hub", "keras", "jax"),
    "hf-flax": ("transformers", "flax", "jax"),
    "torchax": ("torchax", "torch", "transformers", "jax"),
}
# Each of a device, with how many digits, and jaxbert's beside it as a ratio.
COLUMNS = {
    "products, GFLOP": lambda row: f"{row['flops'] / 1e9:,.0f} ({_beyond(row):+.0%})",
    "HBM, GB": lambda row: f"{row['hbm_bytes'] / 1e9:.1f}",
    "peak memory, GB": lambda row: f"{row['peak'] / 1e9:.1f}",
    "sent, GB": lambda row: f"{_sent(row) / 1e9:.2f}",
    "kernels": lambda row: f"{row['launches']:,}" if "launches" in row else "",
    "modelled, ms": lambda row: f"{1e3 * row['modelled_seconds']:.1f}",
    "of it at peaks, ms": lambda row: f"{1e3 * row['roofline_seconds']:.1f}",
    "with kernels' code, ms": lambda row: _with_kernels(row),
    "sent beside others, ms": lambda row: _hidden(row),
}
RATIOS = {
    "HBM, of jaxbert's": lambda row: row.get("hbm_bytes"),
    "time, of jaxbert's": lambda row: _seconds(row)[0],
    "without what is sent beside others": lambda row: _ordered(row),
}
FILM = ("HBM, GB", "modelled, ms", "with kernels' code, ms")
NOTE = (
    "`python -m benchmarks.peers`. Of one device of eight, data-parallel; bfloat16 products of "
    "float32 weights, AdamW, clipping to norm 1, dropout .1, rows of full length with a mask. In "
    "brackets what is multiplied beyond what the model asks for. Sent: whole arrays, once. "
    "Kernels: fusions and custom calls that a step starts. Compiled, not run: a modelled time is "
    "no measurement. It is the compiler's own estimate of each operation's cycles where it has "
    'one; else, which is the time "at peaks", the longer of products and bytes at published peaks. '
    "With kernels' code: as PLANS.md counts the Pallas kernels, which alone have none of the "
    "compiler's estimates on TPUs; where that is known, it is the time that is compared. A step "
    "sends one thing after the other, beside nothing; sent beside others is what the program's own "
    "order would save of that, and the last column compares times without it."
)


def peers() -> str:
    """Every step of full rows, jaxbert's and its peers'."""
    found = read_programs()
    rows = [r for case in FULL if found[case].keys() - {OURS} for r in _rows(case, found[case])]
    if not rows:
        return "Not compiled yet: `python -m benchmarks.peers` does."
    missing = [case.name for case in CASES if found[case].keys() < {*sides_of(case)}]
    rest = f" Not compiled yet, at least for one: {', '.join(missing)}." if missing else ""
    return f"{table(['step', 'side', *COLUMNS, *RATIOS], rows)}\n\n{NOTE}{rest}"


def _rows(case: Case, programs: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    ours = programs.get(OURS, {})
    rows = []
    for side, row in programs.items():
        step = f"{case.model}, {case.topology}, {case.batch_size} x {case.max_length}"
        if "error" in row:
            cells = [f"not compiled: {row['error'].partition(' / ')[0][:80]}"]
            cells += [""] * (len(COLUMNS) + len(RATIOS) - 1)
        else:
            cells = [cell(row) for cell in COLUMNS.values()]
            cells += [_ratio(row, ours, number) for number in RATIOS.values()]
        rows.append([step, NAMES[side], *cells])
    return rows


def film() -> str:
    """A batch of the film sentences: packed by jaxbert, padded by the others."""
    found = read_programs()
    whole = [case for case in CASES if (case.batch_size, case.max_length) == (SENTENCES, 128)]
    header = ["slice", "side", "rows", *FILM, *RATIOS]
    rows = []
    for topology in TOPOLOGIES:
        cases = [c for c in (*PACKED, *PADDED, *whole) if c.topology == topology]
        packed = found[cases[0]].get(OURS, {})
        for case in (case for case in cases if case.model == cases[0].model and packed):
            for side, row in found[case].items():
                if "error" not in row and (side != OURS or case in PACKED):
                    rows.append([topology, NAMES[side], f"{case.batch_size} x {case.max_length}",
                                 *_film_cells(row, packed)])  # fmt: skip
    if not rows:
        return "Not compiled yet: `python -m benchmarks.peers` does."
    note = (
        f"{SENTENCES} of the demo's film sentences a step, BERT-base, all else as above. jaxbert "
        f"packs them, most batches into {PACKED[0].batch_size} rows of {LONGEST}; the others pad "
        f"them, most batches to {LONGEST} if to the longest (every length is a program), or to 128."
    )
    return f"{table(header, rows)}\n\n{note}"


def _film_cells(row: Mapping[str, Any], packed: Mapping[str, Any]) -> list[str]:
    ratios = [_ratio(row, packed, number) for number in RATIOS.values()]
    return [*(COLUMNS[name](row) for name in FILM), *ratios]


def agreement() -> str:
    """How far each peer's loss and gradient are from jaxbert's."""
    rows = [
        [NAMES[side], f"{row['loss']:.0e}", f"{row['gradient']:.0e}", _versions(side)]
        for side, row in read_agreements().items()
    ]
    if not rows:
        return "Not compared yet: `python -m benchmarks.peers` does."
    header = ["side", "loss, relative difference", "gradient, largest relative difference",
              "compiled with"]  # fmt: skip
    note = (
        "BERT of two layers, 32 wide, float32, on a CPU, rows with padding, dropout off, the same "
        "weights. The gradient is what the step itself gives AdamW, after clipping."
    )
    return f"{table(header, rows)}\n\n{note}"


def _versions(side: str) -> str:
    """Of the newest program that the side's environment has written."""
    kept = [row for programs in read_programs().values() for name, row in programs.items()
            if name == side and "side_versions" in row]  # fmt: skip
    versions = kept[-1]["side_versions"] if kept else {}
    return ", ".join(f"{name} {versions[name]}" for name in PACKAGES[side] if name in versions)


def _beyond(row: Mapping[str, Any]) -> float:
    return row["flops"] / row["model_flops"] - 1


def _sent(row: Mapping[str, Any]) -> float:
    return sum(kind["bytes"] for kind in row["sent"].values())


def _seconds(row: Mapping[str, Any]) -> tuple[float, bool]:
    """Modelled seconds of a step, and whether its kernels' own code is in them."""
    counted = None
    if "tpu_custom_call" in row.get("kernels", {}):
        counted = with_kernels(dict(row), row["roofline_seconds"])
    return (row["modelled_seconds"], False) if counted is None else (counted, True)


def _with_kernels(row: Mapping[str, Any]) -> str:
    seconds, counted = _seconds(row)
    return f"{1e3 * seconds:.1f}" if counted else ""


def _hidden(row: Mapping[str, Any]) -> str:
    return f"{1e3 * row['hidden_seconds']:.1f}" if "hidden_seconds" in row else ""


def _ordered(row: Mapping[str, Any]) -> float | None:
    """Modelled seconds without what is sent beside others; None where that was not counted."""
    return _seconds(row)[0] - row["hidden_seconds"] if "hidden_seconds" in row else None


def _ratio(
    row: Mapping[str, Any], ours: Mapping[str, Any], number: Callable[[Any], float | None]
) -> str:
    if row is ours or "hbm_bytes" not in ours:
        return ""
    mine, theirs = number(ours), number(row)
    return f"{theirs / mine:.2f}" if mine and theirs else ""


TABLES = {"peers": peers, "peers film": film, "peers agreement": agreement}
