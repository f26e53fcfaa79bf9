"""Batches of padded rows, as every side but jaxbert takes them; needs numpy and no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.workload import Data, Workload


def batches(data: Data, workload: Workload, multiple: int = 1) -> Iterator[dict[str, np.ndarray]]:
    """One pass: {"input_ids" [B, L] int32, "labels" [B] int32}, and a mask if lengths differ.

    Grouped: examples in order of length, each batch padded to its longest. That wastes less than
    any grouping that leaves the order some chance, and so favours the side that gets it.

    Args:
      multiple: lengths are rounded up to it, for sides that compile every length anew.
    """
    order = np.arange(len(data.labels))
    if workload.padding == "grouped":
        # The longest first, so that memory is claimed once.
        order = np.argsort(-np.diff(data.offsets), kind="stable")
    for at in range(0, len(order), workload.batch):
        yield batch(data, workload, order[at : at + workload.batch], multiple)


def batch(
    data: Data, workload: Workload, members: Sequence[int], multiple: int = 1
) -> dict[str, np.ndarray]:
    """These examples, padded with 0 (see `batches`)."""
    rows = [data.input_ids[data.offsets[i] : data.offsets[i + 1]] for i in members]
    length = workload.length
    if workload.padding == "grouped":
        longest = max(len(row) for row in rows)
        length = min(length, -(-longest // multiple) * multiple)
    ids = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), np.int32)
    for to, ones, row in zip(ids, mask, rows, strict=True):
        to[: len(row)] = row
        ones[: len(row)] = 1
    found = {"input_ids": ids, "labels": data.labels[list(members)]}
    return found | ({"attention_mask": mask} if workload.is_ragged else {})
