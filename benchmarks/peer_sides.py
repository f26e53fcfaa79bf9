"""Who is compared, each in an environment of its own, and whether they compute the same."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from benchmarks import compare
from benchmarks.compare import SideSpec, make_files, side_environment
from benchmarks.protocol import SideError, SideProcess
from benchmarks.workload import TOLERANCE, WORKLOADS, Workload
from jaxbert.optim.strategies import get_strategy

OURS = "jaxbert"
PEERS = {
    "keras-hub": compare.SIDES["keras-hub"],
    "hf-flax": compare.SIDES["hf-flax"]._replace(environment="hf-flax-export"),
    "torchax": SideSpec("benchmarks.side_torchax", {}, "torchax"),
}
SIDES = {OURS: compare.SIDES[OURS], **PEERS}


def is_near(row: Mapping[str, Any]) -> bool:
    """Whether a side computes what jaxbert does. Said so that NaN does not."""
    return all(row[name] <= TOLERANCE["float32"] for name in ("loss", "gradient"))


def agreements(sides: Sequence[str], directory: Path) -> Iterator[dict[str, Any]]:
    """How far each side is from jaxbert: a tiny model's step, float32, rows with padding.

    "loss": relative. "gradient": of each tensor the largest difference over the largest entry, of
    all tensors the largest, but for attention's key biases, whose gradient is rounding alone.
    """
    work = dataclasses.replace(WORKLOADS["smoke-ragged-float32"], padding="padded", dropout=0.0)
    make_all_files(work, directory)
    addresses = directory / "addresses"
    shutil.copytree(directory, addresses)
    sizes = write_addresses(addresses / "model" / "model.safetensors")

    def measured(side: str) -> tuple[float, np.ndarray]:
        file = directory / f"{side}.npy"
        with loaded(side, work, directory) as process:
            loss = process.ask("loss")
            process.ask("first_moment", addresses=str(addresses), file=str(file))
        return loss, np.load(file)

    loss, moment = measured(OURS)
    for side in sides:
        try:
            its_loss, its_moment = measured(side)
        except SideError as error:
            yield {"side": side, "error": str(error)}
        else:
            off = {
                "loss": abs(its_loss / loss - 1),
                "gradient": distance(its_moment, moment, sizes),
            }
            yield {"side": side, **off}


def write_addresses(checkpoint: Path) -> dict[str, int]:
    """Makes each number of a checkpoint its place in it; {tensor: how many numbers}."""
    tensors, at = load_file(checkpoint), 0
    with safe_open(checkpoint, "np") as file:
        metadata = file.metadata()
    for name, array in tensors.items():
        tensors[name] = np.arange(at, at + array.size, dtype=np.float32).reshape(array.shape)
        at += array.size
    if at > 2**24:
        raise ValueError(f"{at} numbers: float32 does not tell so many apart")
    save_file(tensors, checkpoint, metadata)
    return {name: array.size for name, array in tensors.items()}


def distance(got: np.ndarray, wanted: np.ndarray, sizes: dict[str, int]) -> float:
    """See `agreements`. A difference that is no number is infinite."""
    ends = np.cumsum([*sizes.values()])[:-1]
    found = [0.0]
    for name, ours, theirs in zip(sizes, np.split(wanted, ends), np.split(got, ends), strict=True):
        if "key.bias" not in name:
            found.append(float(np.abs(theirs - ours).max() / np.abs(ours).max()))
    return max(value if np.isfinite(value) else np.inf for value in found)


def make_all_files(work: Workload, directory: Path) -> None:
    """The workload's files, with one learning rate for all: KerasHub knows no other."""
    make_files(work, directory, side_environment("cpu"))
    settings = dataclasses.asdict(get_strategy("uniform").config())
    (directory / "optimizer.json").write_text(json.dumps(settings), encoding="utf-8")


@contextlib.contextmanager
def loaded(side: str, work: Workload, directory: Path) -> Iterator[SideProcess]:
    """A side in a process of its own, ready to be asked."""
    spec = SIDES[side]
    command = [spec.python(), "-m", spec.module]
    with SideProcess(command, side_environment("cpu"), directory / f"{side}.log") as process:
        about = {"workload": dataclasses.asdict(work), "directory": str(directory)}
        process.ask("load", **about, device="cpu", **spec.options)
        yield process
