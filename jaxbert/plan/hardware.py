"""The accelerators that can be planned for: what they can do, and devices to compile for.

Rates are the makers' published peaks. Nothing here asks a device: there is none.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from jaxbert.errors import InputError

GB, TB, GIGA, TERA = 1e9, 1e12, 1e9, 1e12


class Chip(NamedTuple):
    """One accelerator.

    memory: bytes. flops: FLOP/s of products of each dtype, dense. bandwidth: of its memory,
    bytes/s. link: what it can send to the others of its slice, bytes/s in one direction. slices:
    what can be rented, smallest first. source: of the figures. clock: of the cycles that its
    compiler estimates, 1/s; None where it estimates none.
    """

    platform: str
    kind: str
    memory: float
    flops: dict[str, float]
    bandwidth: float
    link: float
    slices: tuple[str, ...]
    source: str
    clock: float | None = None


def _tpu(kind: str, memory: float, flops: float, *rest: Any) -> Chip:
    # float32 products are exact here: six of bfloat16 each.
    return Chip("tpu", kind, memory, {"bfloat16": flops, "float32": flops / 6}, *rest)


_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8")
_NODE = ("1", "2", "4", "8")
# The clocks of TPUs are their peaks over what their product units do in a cycle: 131,072 FLOP
# (v5e), 524,288 (v6e), 262,144 (v5p).
CHIPS = {
    "v5e": _tpu("TPU v5e", 16 * GB, 197 * TERA, 819 * GB, 200 * GB, _SQUARES,
                "docs.cloud.google.com/tpu/docs/v5e", 1.5 * GIGA),
    "v6e": _tpu("TPU v6e", 32 * GB, 918 * TERA, 1638 * GB, 400 * GB, _SQUARES,
                "docs.cloud.google.com/tpu/docs/v6e", 1.75 * GIGA),
    "v5p": _tpu("TPU v5p", 95 * GB, 459 * TERA, 2765 * GB, 600 * GB, _CUBES,
                "docs.cloud.google.com/tpu/docs/v5p", 1.75 * GIGA),
    "a100": Chip("gpu", "NVIDIA A100-SXM4-80GB", 80 * GB,
                 {"bfloat16": 312 * TERA, "float32": 19.5 * TERA}, 2039 * GB, 300 * GB, _NODE,
                 "NVIDIA A100 data sheet"),
    "h100": Chip("gpu", "NVIDIA H100 80GB HBM3", 80 * GB,
                 {"bfloat16": 989 * TERA, "float32": 67 * TERA}, 3.35 * TB, 450 * GB, _NODE,
                 "NVIDIA H100 data sheet (SXM, dense)"),
}  # fmt: skip


class Topology(NamedTuple):
    """Devices that can be compiled for. name: as the user gave it, "v5e:2x4" or "h100:8"."""

    name: str
    chip: Chip
    devices: Sequence[jax.Device]


def parse_topology(name: str) -> tuple[Chip, str, int]:
    """(the chip, the slice, how many devices) of a name like "v5e:2x4" or "h100:8"."""
    kind, _, extent = name.partition(":")
    sides = extent.split("x")
    if kind not in CHIPS or not all(side.isdecimal() and int(side) > 0 for side in sides):
        examples = ", ".join(f"{kind}:{chip.slices[2]}" for kind, chip in CHIPS.items())
        raise InputError(f"topology={name!r}: want a chip and a slice of them, as in {examples}")
    wanted = CHIPS[kind].slices[-1].count("x") + 1
    if len(sides) != wanted:
        raise InputError(f"topology={name!r}: a slice of {kind} has {wanted} sides")
    return CHIPS[kind], extent, math.prod(map(int, sides))


def open_topology(name: str) -> Topology:
    """The devices of a slice, which can be compiled for and do nothing else.

    Raises:
      InputError: no such chip or slice.
      ModuleNotFoundError: the optional packages are missing; says which to install.
    """
    chip, extent, count = parse_topology(name)
    _require(chip.platform)
    from jax.experimental import topologies

    try:
        if chip.platform == "tpu":
            found = topologies.get_topology_desc(name, "tpu", **_host(extent, count))
        else:
            found = topologies.get_topology_desc(
                f"1x1x{count}", "cuda", topology=f"1x1x{count}", target_config=_target(chip)
            )
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"topology={name!r} cannot be compiled for: {error}") from None
    return Topology(name, chip, found.devices)


_NEEDS = {
    "tpu": (
        "libtpu",
        "jaxbert[tpu]",
        {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"},
    ),
    "gpu": ("jax_cuda12_plugin", "jaxbert[cuda12]", {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}),
}


def _require(platform: str) -> None:
    module, extra, settings = _NEEDS[platform]
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(
            f"compiling for a {platform.upper()} needs the package {module}: pip install '{extra}'"
        )
    # Do not look for a machine that is not there, nor lock it against other processes.
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _host(extent: str, count: int) -> dict[str, Any]:
    """A slice smaller than a host must be described as a host of its own."""
    if count >= 4:
        return {}
    return {"chips_per_host_bounds": (*map(int, extent.split("x")), 1), "num_slices": 1}


# What the compiler asks about an NVIDIA GPU, from the CUDA device queries of these cards:
# (compute capability, cores, fp32 units per core, clock in GHz, shared memory per core and per
# block, L2 cache, memory).
_CARDS = {
    "NVIDIA A100-SXM4-80GB": (8, 108, 64, 1.41, 167936, 166912, 41943040, 85100068864),
    "NVIDIA H100 80GB HBM3": (9, 132, 128, 1.98, 233472, 232448, 52428800, 84942979072),
}


def _target(chip: Chip) -> str:
    """An XLA `GpuTargetConfigProto` as text."""
    major, cores, units, clock, core_shared, block_shared, cache, memory = _CARDS[chip.kind]
    info = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": core_shared,
        "shared_memory_per_block_optin": block_shared,
        "core_count": cores,
        "fpus_per_core": units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "memory_bandwidth": int(chip.bandwidth),
        "l2_cache_size": cache,
        "clock_rate_ghz": clock,
        "device_memory_size": memory,
    }
    fields = "\n".join(f"  {name}: {value}" for name, value in info.items())
    return (
        f"gpu_device_info {{\n{fields}\n  cuda_compute_capability {{ major: {major} }}\n}}\n"
        f'platform_name: "CUDA"\n'
        f"dnn_version_info {{ major: 9 minor: 8 }}\n"
        f"runtime_version {{ major: 12 minor: 8 }}\n"
        f'device_description_str: "{chip.kind}"\n'
    )
