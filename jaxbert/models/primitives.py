"""The primitives of BERT with its exact numerics: Linear, LayerNorm, Embedding, activations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from jaxbert import cpu
from jaxbert.models.compute import Compute
from jaxbert.models.config import Spread

Scalar = Array | float


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: Array, on_cpu: bool = False) -> Array:
    """x * Phi(x) by erf, as in Hugging Face's "gelu" (Google's original code: the tanh form).

    on_cpu: whether the program is written for one. The result is the same.
    """
    if not on_cpu:
        return x * _normal_cdf(x, *_CDF_TERMS)
    x, *terms = cpu.apart(x, *(jnp.asarray(term, x.dtype) for term in _CDF_TERMS))
    return x * _normal_cdf(x, *terms)


_CDF_TERMS = (0.5, 1.0, 2**-0.5)


def _normal_cdf(x: Array, half: Scalar, one: Scalar, root: Scalar) -> Array:
    # erf, not erfc as in jax.nn.gelu: one rational polynomial instead of two branches and an exp.
    # Its absolute error, 1e-7, is PyTorch's.
    return half * (one + lax.erf(x * root))


def _gelu_forward(x: Array, on_cpu: bool) -> tuple[Array, Array]:
    return gelu(x, on_cpu), x


def _gelu_backward(on_cpu: bool, x: Array, g: Array) -> tuple[Array]:
    # From x alone: reading one array and computing erf again is cheaper than storing the terms.
    density = jnp.exp(-0.5 * x * x) * (2 * jnp.pi) ** -0.5
    return ((_normal_cdf(x, *_CDF_TERMS) + x * density) * g,)


gelu.defvjp(_gelu_forward, _gelu_backward)


ACTIVATION_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def activation_function(name: str, compute: Compute) -> Callable[[Array], Array]:
    """Hugging Face's `hidden_act` of that name; one object a name, as models compare by theirs."""
    return _gelu_on_cpu if name == "gelu" and compute.on_cpu else ACTIVATION_FUNCTIONS[name]


def _gelu_on_cpu(x: Array) -> Array:
    return gelu(x, True)


def product(spec: str, a: Array, b: Array, compute: Compute) -> Array:
    """einsum(spec, a, b): operands in `compute.dtype`, accumulated in float32, both passes.

    Returns `compute.activation_dtype`. Every index must stand in two of the three places, as it
    does in any product without a plain sum, so that the gradients are products of the same kind.
    """
    if compute.operand_dtype == jnp.float32:
        # float32 means float32: accelerators would otherwise round the operands.
        a, b = (x.astype(jnp.float32) for x in (a, b))
        return jnp.einsum(spec, a, b, precision=lax.Precision.HIGHEST)
    return _product(spec, compute, a, b).astype(compute.activation_dtype)


_LINEAR = "id,df->if"


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(spec: str, compute: Compute, a: Array, b: Array) -> Array:
    low = (x.astype(compute.operand_dtype) for x in (a, b))
    return jnp.einsum(spec, *low, preferred_element_type=jnp.float32)


def _product_forward(spec: str, compute: Compute, a: Array, b: Array) -> tuple[Array, Any]:
    low_a, low_b = a.astype(compute.operand_dtype), b.astype(compute.operand_dtype)
    # The empty arrays carry the dtypes the gradients must have.
    like = jnp.zeros((0,), a.dtype), jnp.zeros((0,), b.dtype)
    return _product(spec, compute, low_a, low_b), (low_a, low_b, *like)


def _product_backward(spec: str, compute: Compute, residuals: Any, g: Array) -> tuple[Array, Array]:
    # Written out because JAX's own transpose would multiply float32 by bfloat16 and round the
    # result to bfloat16, which is slow on CPUs and loses the accumulated bits everywhere.
    a, b, like_a, like_b = residuals
    (in_a, in_b), out = spec.split("->")[0].split(","), spec.split("->")[1]
    grad_a = _product(f"{out},{in_b}->{in_a}", compute, g, b)
    if spec == _LINEAR and compute.on_cpu:
        rounded = g.astype(compute.operand_dtype)
        grad_b = _product("di,if->df", compute, cpu.tiled_transpose(a), rounded)
    else:
        grad_b = _product(f"{in_a},{out}->{in_b}", compute, a, g)
    return grad_a.astype(like_a.dtype), grad_b.astype(like_b.dtype)


_product.defvjp(_product_forward, _product_backward)


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], scale: Spread, compute: Compute) -> nnx.Param:
    # Drawn in float32 whatever the dtype, so that a seed names one initialization.
    key, cutoff, std = rngs.params(), scale.cutoff, float(scale.std)
    if cutoff is None:
        draw = std * jax.random.normal(key, shape, jnp.float32)
    else:
        draw = std * jax.random.truncated_normal(key, -cutoff, cutoff, shape, jnp.float32)
    return nnx.Param(draw.astype(compute.param_dtype))


def _constant(value: float, shape: tuple[int, ...], compute: Compute) -> nnx.Param:
    return nnx.Param(jnp.full(shape, value, jnp.dtype(compute.param_dtype)))


class Linear(nnx.Module):
    """x [..., in] -> x @ kernel + bias [..., out]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        scale: Spread,
        compute: Compute,
        rngs: nnx.Rngs,
        bias: bool = True,
    ):
        self.kernel = _normal(rngs, (inputs, outputs), scale, compute)
        self.bias = _constant(0.0, (outputs,), compute) if bias else None
        self.compute = compute

    @jax.named_scope("linear")
    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        return biased(self.unbiased(x), self.bias)

    @jax.named_scope("linear")
    def unbiased(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        """The product alone, for whoever adds `bias` together with something else."""
        return linear(x, self.kernel[...], self.compute)


def linear(
    x: Float[Array, "... inputs"], kernel: Float[Array, "inputs outputs"], compute: Compute
) -> Float[Array, "... outputs"]:
    """x @ kernel, as `product` computes it."""
    rows = x.reshape(-1, x.shape[-1])
    return product(_LINEAR, rows, kernel, compute).reshape(*x.shape[:-1], -1)


def biased(y: Float[Array, "... D"], bias: nnx.Param | Array | None) -> Float[Array, "... D"]:
    """y + bias, in the dtype of y; y where there is none."""
    if bias is None:
        return y
    rows = y.reshape(-1, y.shape[-1]) + bias[...].astype(y.dtype)[None]
    return rows.reshape(y.shape)


class LayerNorm(nnx.Module):
    """Normalizes x [..., D] over D, with the variance as E[(x - mean)^2], in float32."""

    def __init__(self, width: int, *, epsilon: float, compute: Compute, bias: bool = True):
        self.scale = _constant(1.0, (width,), compute)
        self.bias = _constant(0.0, (width,), compute) if bias else None
        self.epsilon = epsilon
        self.compute = compute

    @jax.named_scope("layer_norm")
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        x = x.astype(jnp.float32)
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        y = centred * lax.rsqrt(variance + self.epsilon) * _along_rows(self.scale, x)
        if self.bias is not None:
            y = y + _along_rows(self.bias, x)
        return y.astype(self.compute.activation_dtype)


def _along_rows(leaf: nnx.Param, x: Array) -> Array:
    """[D] -> [1, ..., D], in float32."""
    return jnp.expand_dims(leaf[...].astype(jnp.float32), range(x.ndim - 1))


WORD_TABLE = "word_embeddings/embedding"  # how the path of an encoder's ends

_columns_over: ContextVar[str | None] = ContextVar("columns_over", default=None)


@contextlib.contextmanager
def tables_in_columns(axis: str) -> Iterator[None]:
    """Within, a table of fewer columns than its `Embedding` is wide is a shard of it.

    Args:
      axis: of the mesh, whose devices have the other columns, in their order.
    """
    before = _columns_over.set(axis)
    try:
        yield
    finally:
        _columns_over.reset(before)


class Embedding(nnx.Module):
    """Rows of a table [size, D] by their index.

    Looking up row `padding_index` gives that row no gradient, as in `torch.nn.Embedding`.
    """

    def __init__(
        self,
        size: int,
        width: int,
        *,
        scale: Spread,
        compute: Compute,
        rngs: nnx.Rngs,
        padding_index: int | None = None,
    ):
        self.embedding = _normal(rngs, (size, width), scale, compute)
        self.width = width
        self.padding_index = padding_index

    @jax.named_scope("embedding")
    def __call__(self, index: Int[Array, "..."]) -> Float[Array, "... D"]:
        axis = self._axis
        if axis is None:
            rows = _rows(self.embedding[...], index)
        else:
            # The indices are sent, and not the table: everybody's go to everybody, who looks up its
            # columns for all. Backwards the same, so that their gradient is summed where it stays.
            everyone = lax.all_gather(index, axis, tiled=True)
            columns = _rows(self.embedding[...], everyone)
            rows = lax.all_to_all(columns, axis, 0, columns.ndim - 1, tiled=True)
            # Else TPUs compute on with rows in as many pieces as they came in, each padded.
            rows = lax.optimization_barrier(rows)
        if self.padding_index is None:
            return rows
        is_padding = (index == self.padding_index)[..., None]
        return jnp.where(is_padding, lax.stop_gradient(rows), rows)

    def table(self) -> Float[Array, "size D"]:
        """All of it, for what reads more than a few rows."""
        table = self.embedding[...]
        axis = self._axis
        return table if axis is None else lax.all_gather(table, axis, axis=1, tiled=True)

    @property
    def _axis(self) -> str | None:
        """Over which the columns are sharded; None where they are all here."""
        return None if self.embedding.shape[1] == self.width else _columns_over.get()


def _rows(table: Float[Array, "size D"], index: Int[Array, "..."]) -> Float[Array, "... D"]:
    # Out of range indices would be clamped and train silently on the wrong row: make them NaN.
    return jnp.take(table, index, axis=0, mode="fill", fill_value=jnp.nan)
