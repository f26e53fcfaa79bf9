"""The tables of PLANS.md, from benchmarks/results/plans.jsonl."""

from __future__ import annotations

from typing import Any

from benchmarks.kernel_cycles import read_kernels, with_kernels
from benchmarks.markdown import table
from benchmarks.plans import read_plans
from jaxbert.plan.hlo import PALLAS

KERNELS = {**dict.fromkeys(PALLAS, "Pallas"), "__cudnn": "cuDNN"}
COLUMNS = {
    "model": lambda row: row["model"],
    "slice": lambda row: row["topology"],
    "batch": lambda row: _batch(row),
    "mesh": lambda row: row["mesh"],
    "peak memory, GB": lambda row: f"{row['peak'] / 1e9:.1f} of {row['memory'] / 1e9:.0f}",
    "FLOPs beyond the model's": lambda row: f"{row['waste']:+.1%}",
    "HBM, GB": lambda row: f"{row['hbm_bytes'] / 1e9:.1f}",
    "VMEM, GB": lambda row: f"{row['vmem_bytes'] / 1e9:.1f}" if row["vmem_bytes"] else "",
    "sent, GB": lambda row: f"{_sent(row, 'bytes') / 1e9:.2f}",
    "bound, ms": lambda row: _bound(row),
    "modelled, ms": lambda row: f"{1e3 * row['modelled_seconds']:.1f}",
    "modelled utilization": lambda row: f"{row['utilisation']:.0%}",
    "with kernels' code": lambda row: _with_kernels(row),
    "attention": lambda row: _kernels(row),
}
NOTE = (
    "`python -m benchmarks.plans`: bfloat16 products, AdamW, all rows of full length; memory and "
    "bytes of one device, those of VMEM being what a TPU keeps on the chip. Compiled, not run. A "
    "bound is what no step of that program can go below, and of what (products at the chip's peak, "
    "bytes at the memory's bandwidth, what is sent at the links' speed; on GPUs, whose caches and "
    "switches may save the others, products alone). A modelled time is neither a bound nor a "
    "measurement: the compiler's own estimate of each operation's cycles where it has one (TPUs, "
    "but for Pallas kernels), else the longer of its products and its bytes at published peaks; "
    "then what is sent, on rings, beside nothing. With kernels' code: as modelled, but the Pallas "
    "kernels take what the last table of this page counts, and not what peaks would."
)


def plans() -> str:
    """Every plan: memory of a device, waste, bytes, the bound and the model."""
    found = read_plans()
    if not found:
        return "Not planned yet: `python -m benchmarks.plans` does."
    rows = [[cell(row) for cell in COLUMNS.values()] for row in found]
    return f"{table(list(COLUMNS), rows)}\n\n{NOTE}"


def plan_parts() -> str:
    """Where the modelled time of every plan goes, by part of the model."""
    found = read_plans()
    if not found:
        return "Not planned yet: `python -m benchmarks.plans` does."
    total = {name: 0.0 for row in found for name in row["parts"]}
    for row in found:
        for name, cost in row["parts"].items():
            total[name] += cost["seconds"]
    names = sorted(total, key=lambda name: -total[name])
    rows = [
        [
            f"{row['model']}, {row['topology']}, {_batch(row)}, {_kernels(row)}",
            *(_part(row["parts"].get(name)) for name in names),
            _sending(row),
        ]
        for row in found
    ]
    note = (
        "Modelled milliseconds of a step, as above; in brackets those of operations that multiply "
        "matrices, with what the compiler fused into them, and of what is sent that which the "
        "program's own order has beside other operations. An operation counts where its product "
        "does, or else its result."
    )
    return f"{table(['plan', *names, 'sending'], rows)}\n\n{note}"


def kernel_cycles() -> str:
    """What the Pallas kernels take by their own code, the newest count of each."""
    rows = [
        [row["chip"], row["kernel"], " x ".join(map(str, row["shape"])), str(row["heads"]),
         f"{1e6 * row['seconds']:.0f}", f"{1e6 * row['memory_seconds']:.0f}"]
        for row in read_kernels().values()
    ]  # fmt: skip
    header = [
        "chip",
        "kernel",
        "rows x length x width",
        "heads",
        "by its code, us",
        "by its bytes, us",
    ]
    note = (
        "`python -m benchmarks.kernel_cycles`: bundles of instructions as the compiler wrote them, "
        "dropout on, one a cycle, as often as their loops go round; and the arrays of whole rows "
        "at the memory's bandwidth, which is nothing where they stay on the chip. The longer of "
        "both is a model of a kernel; a step calls those of attention once and those of norms "
        "twice in each layer but the last. Modelled times without them count a kernel's products "
        "and what it moves in main memory alone."
    )
    return f"{table(header, rows)}\n\n{note}"


def _with_kernels(row: dict[str, Any]) -> str:
    at_peaks = sum(part["roofline_seconds"] for part in row["parts"].values())
    seconds = with_kernels(row, at_peaks)
    if seconds is None:
        return ""
    return f"{1e3 * seconds:.1f} ms, {row['utilisation'] * row['modelled_seconds'] / seconds:.0%}"


def _part(cost: dict[str, Any] | None) -> str:
    if cost is None:
        return ""
    products = f" ({1e3 * cost['product_seconds']:.1f})" if cost["product_seconds"] else ""
    return f"{1e3 * cost['seconds']:.1f}{products}"


def _sending(row: dict[str, Any]) -> str:
    hidden = f" ({1e3 * row['hidden_seconds']:.1f})" if "hidden_seconds" in row else ""
    return f"{1e3 * _sent(row, 'seconds'):.1f}{hidden}"


def _batch(row: dict[str, Any]) -> str:
    return f"{row['batch_size']} x {row['max_length']}"


def _bound(row: dict[str, Any]) -> str:
    what, seconds = max(row["bounds"].items(), key=lambda pair: pair[1])
    return f"{1e3 * seconds:.1f} ({what})"


def _sent(row: dict[str, Any], field: str) -> float:
    return sum(kind[field] for kind in row["sent"].values())


def _kernels(row: dict[str, Any]) -> str:
    names = {short for name in row["kernels"] for start, short in KERNELS.items()
             if name.startswith(start)}  # fmt: skip
    dropout = ", no dropout" if row["attention_dropout"] == 0 else ""
    return (", ".join(sorted(names)) or "plain") + dropout
