"""Tables of what was done to break the package: changed files, kills, many rows, hours, mutants."""

from __future__ import annotations

import collections
import functools
import tomllib
from typing import Any

from benchmarks import rows as many_rows
from benchmarks.markdown import machine, table
from benchmarks.results import RESULTS, read_results

_NONE = "Not run yet: `{}` does."


def fuzz() -> str:
    """What became of all changed files that were ever tried and counted."""
    targets: dict[str, list[dict[str, Any]]] = {}
    for row in read_results("fuzz"):
        targets.setdefault(row["target"], []).append(row)
    sums = ("cases", "refused", "read", "found")
    rows = [
        [name, *(f"{sum(row[key] for row in found):,}" for key in sums),
         f"{max(row['slowest_seconds'] for row in found):.1f}"]
        for name, found in targets.items()
    ]  # fmt: skip
    every = [row for found in targets.values() for row in found]
    rows.append(["all", *(f"{sum(row[key] for row in every):,}" for key in sums), ""])
    header = ["what", "cases", "refused", "read all the same", "found", "slowest, s"]
    return f"{table(header, rows)}\n\n`python -m tests.fuzz --cases 20000 --save`."


def kills() -> str:
    """Where processes were killed, and whether they ended with the same bits."""
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in read_results("kills"):
        engine = row["engine"] + (f", {row['processes']} processes" * (row["processes"] > 1))
        pairs.setdefault((row["task"], engine), []).append(row)
    command = "python -m tests.faults.kills --times 50 --save"
    if not pairs:
        return _NONE.format(command)
    rows = []
    for (task, engine), found in pairs.items():
        landed: collections.Counter[str] = collections.Counter()
        half: collections.Counter[str] = collections.Counter()
        for row in found:
            landed.update(row["landed"])
            half.update(row["half_written"])
        steps, start = (landed.pop(name, 0) for name in ("between steps", "start"))
        places = ", ".join(f"{name} {count}" for name, count in landed.most_common())
        equal = all(row["equal"] for row in found)
        rows.append([
            task, engine, str(sum(row["kills"] for row in found)), str(start), str(steps),
            places, str(half.total()), "yes" if equal else "NO",
        ])  # fmt: skip
    header = [
        "task", "engine", "kills", "before any write", "after a step", "at or after a write of",
        "files and checkpoints left half-written", "same bits",
    ]  # fmt: skip
    return f"{table(header, rows)}\n\n`{command}`."


def rows() -> str:
    """What a row of a large file takes."""
    found = {(row["format"], row["rows"]): row for row in read_results("rows")}
    command = "python -m benchmarks.rows"
    if not found:
        return _NONE.format(command)
    where = machine([*found.values()][-1])
    return f"{many_rows.shown([*found.values()])}\n\n`{command}`; {where}."


def soak() -> str:
    """What a process that trains for long holds more and more of."""
    found = read_results("soak")
    command = "python -m tests.soak --minutes 60 --save"
    if not found:
        return _NONE.format(command)
    parts = functools.reduce(dict.__or__, found)
    lines = []
    if run := parts.get("training"):
        lines.append([
            f"one training of {run['minutes'][-1]:.0f} minutes: {run['steps']:,} steps, "
            f"{run['evaluations']:,} evaluations, {run['checkpoints']:,} checkpoints",
            f"{run['mib'][-1]:.0f}",
            f"{run['mib_per_minute']:+.2f} a minute after {run['after_minutes']:.0f}",
            "",
        ])  # fmt: skip
    for part, name in (("evaluations", "evaluations"), ("trainers", "`Trainer`s that fit")):
        if run := parts.get(part):
            grown = f"{run['mib_each']:+.3f} each after {run['warm']}"
            kept = f"{run['allocated_mib_each']:+.3f} each" if "allocated_mib_each" in run else ""
            lines.append([f"{run['times']:,} {name}", f"{run['mib'][-1]:.0f}", grown, kept])
    shown = table(["in one process", "MiB at its end", "MiB more", "allocated of it"], lines)
    drawn = "![The memory of one training, and of many trainers](results/soak.png)"
    return f"{shown}\n\n{drawn}\n\n`{command}`; {machine(parts)}."


def mutants() -> str:
    """Which share of small mistakes in a file its tests notice."""
    files = {row["file"]: row for row in read_results("mutants")}
    command = "python -m tests.mutate FILE --sample 40 --save"
    if not files:
        return _NONE.format(command)
    known = _explained()
    left = {
        name: [one for one in row["survivors"] if (name, one["text"], one["change"]) not in known]
        for name, row in sorted(files.items())
    }
    rows = [
        (f"`{name}`", files[name]["mutants"], files[name]["tried"], files[name]["killed"],
         len(files[name]["survivors"]) - len(found))
        for name, found in left.items()
    ]  # fmt: skip
    for folder in dict.fromkeys(name.partition("/")[0] for name in left):
        inside = [row for row in rows if row[0].startswith(f"`{folder}/")]
        if len(inside) > 1:
            rows.append((f"{folder}/", *_sums(inside)))
    rows.append(("all", *_sums([row for row in rows if row[0].startswith("`")])))
    cells = [[name, *map(str, counts), f"{counts[2] / counts[1]:.0%}"] for name, *counts in rows]
    header = ["file", "mutants", "tried", "noticed", "change nothing that matters", "noticed"]
    lines = [
        f"- `{name}:{one['line']}`: {one['change']}, in `{one['text']}`"
        for name, found in left.items() for one in found
    ]  # fmt: skip
    rest = "\n".join(["\n\nNot noticed, and not explained:\n", *lines]) if lines else ""
    return f"{table(header, cells)}\n\n`{command}`.{rest}"


def _sums(rows: list[tuple[Any, ...]]) -> list[int]:
    return [sum(row[place] for row in rows) for place in range(1, 5)]


def _explained() -> set[tuple[str, str, str]]:
    """{(file, text of the line, change)} of mutants that change nothing that could matter."""
    path = RESULTS.parent.parent / "tests" / "mutants.toml"
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        (file, row["line"], change)
        for file, rows in found.items() for row in rows for change in row["changes"]
    }  # fmt: skip


TABLES = {"fuzz": fuzz, "kills": kills, "rows": rows, "soak": soak, "mutants": mutants}
