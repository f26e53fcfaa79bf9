"""Counts the FLOPs of the matrix products in compiled HLO, in kernels of any kind."""

from __future__ import annotations

import json
import math
import re

from jaxbert.plan.hlo import TRITON, Instruction, Program, target_of

# Of the kernels in models/kernels for GPUs: attention's backward pass computes scores twice.
_PRODUCTS = {
    "attention_forward_kernel": 2, "attention_backward_kernel": 7,
    "forward_norm": 0, "backward_norm": 0,
}  # fmt: skip


def product_flops(program: Program) -> int:
    """FLOPs of all matrix products of a step, 2 for a multiplication and addition."""
    return sum(program.times[i.computation] * flops_of(program, i) for i in program.instructions)


def flops_of(program: Program, i: Instruction) -> int:
    """Of one instruction, without what is fused into it, once."""
    if i.opcode == "dot":
        sides = program.operand_shape(i, 0)
        dims = i.needed(r"lhs_contracting_dims=\{([\d,]*)\}")
        return 2 * math.prod(i.results[0].dims) * _contracted(sides, dims.split(","))
    if i.opcode == "convolution":  # what products are on a TPU
        return _convolution_flops(program, i)
    target = target_of(i)
    if target is None:
        return 0
    if target == "tpu_custom_call":  # Pallas: what the kernel says of itself
        return int(i.attribute(r'"cost_estimate":\{"flops":"(\d+)"') or 0)
    if target.startswith("__cublas"):
        dims = i.needed(r'"lhs_contracting_dimensions":(\[[^\]]*\])')
        sides = program.operand_shape(i, 0)
        return 2 * math.prod(i.results[0].dims) * _contracted(sides, json.loads(dims))
    if target == TRITON:
        products = _PRODUCTS[i.needed(r'op_name="[^"]*/(\w+)/pallas_call')]
        if products == 0:
            return 0
        # Of queries, keys and values as one array, [B, L, 3 N, H].
        batch, length, three, width = program.operand_shape(i, 0)
        return 2 * products * batch * (three // 3) * length**2 * width
    if target.startswith("__cudnn$fmha"):
        # Of queries and keys [B, L, N, H]: two products forward, five backward.
        batch, length, heads, width = program.operand_shape(i, 0)
        products = 5 if "Backward" in target else 2
        return 2 * products * batch * heads * length * program.operand_shape(i, 1)[1] * width
    return 0


def _convolution_flops(program: Program, i: Instruction) -> int:
    """Of a convolution, without what it multiplies by padding and by the gaps of a dilation.

    TPUs write a batch of products as a convolution whose window goes over the batch and, by
    dilation or padding, meets one element of it: that is one product, not as many as its size.
    """
    shapes = program.operand_shape(i, 0), program.operand_shape(i, 1), i.results[0].dims
    labels = i.needed(r"dim_labels=([^,\s]+)").replace("->", "_").split("_")
    left, kernel, out = (dict(zip(*pair, strict=True)) for pair in zip(labels, shapes, strict=True))
    window = dict(re.findall(r"(\w+)=(\S+)", i.attribute(r"window=\{([^}]*)\}") or ""))
    said = {name: values.split("x") for name, values in window.items()}
    met = 1
    for axis, name in enumerate(sorted(set(out) - {"b", "f"})):
        stride, apart, gap = (
            int(said[key][axis]) if key in said else 1
            for key in ("stride", "lhs_dilate", "rhs_dilate")
        )
        before = int(said["pad"][axis].partition("_")[0]) if "pad" in said else 0
        places = (
            at * stride + element * gap - before
            for at in range(out[name])
            for element in range(kernel[name])
        )
        met *= sum(place % apart == 0 and 0 <= place // apart < left[name] for place in places)
    return 2 * out["b"] * out["f"] * kernel["i"] * met


def _contracted(sides: tuple[int, ...], dims: list[str]) -> int:
    return math.prod(sides[int(dim)] for dim in dims if dim != "")
