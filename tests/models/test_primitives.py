"""Linear, LayerNorm, Embedding and GELU against plain formulas, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx
from tolerance import assert_close

from jaxbert.cpu import tiled_transpose
from jaxbert.models import Compute
from jaxbert.models.config import Spread
from jaxbert.models.primitives import Embedding, LayerNorm, gelu, product

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("on_cpu", [False, True])
def test_gelu_and_its_derivative(on_cpu):
    x = np.linspace(-8, 8, 1001)
    cdf = scipy.special.ndtr(x)
    density = np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)
    # erf is a quotient of two polynomials of 12 terms in all; its error is multiplied by x.
    assert_close(gelu(jnp.float32(x), on_cpu), x * cdf, terms=12, scale=np.maximum(np.abs(x), 1))
    slope = jax.vmap(jax.grad(gelu), (0, None))(jnp.float32(x), on_cpu)
    assert_close(slope, cdf + x * density, terms=12)


@pytest.mark.parametrize("shape", [(64, 64), (192, 128), (96, 40), (7, 5), (1, 3)])
def test_atiled_transpose_is_a_transpose(shape):
    x = RNG.normal(size=shape)
    np.testing.assert_array_equal(tiled_transpose(jnp.float32(x)), np.float32(x).T)


@pytest.mark.parametrize(
    ("spec", "a", "b"),
    [
        ("id,df->if", (64, 32), (32, 96)),
        ("id,df->if", (7, 5), (5, 3)),
        ("bnqh,bnkh->bnqk", (2, 3, 8, 4), (2, 3, 8, 4)),
        ("bnqk,bnkh->bnqh", (2, 3, 8, 8), (2, 3, 8, 4)),
        ("bld,vd->blv", (2, 5, 8), (11, 8)),
    ],
)
def test_low_precision_products_and_their_gradients_accumulate_in_float32(spec, a, b):
    """Exact but for the rounding of the operands: compared with float64 on rounded operands."""
    a, b = (np.asarray(jnp.asarray(RNG.normal(size=s), jnp.bfloat16), np.float64) for s in (a, b))
    weight = np.asarray(
        jnp.asarray(RNG.normal(size=np.einsum(spec, a, b).shape), jnp.bfloat16), np.float64
    )
    compute = Compute(dtype="bfloat16").resolved()

    def total(a, b):
        return (product(spec, a, b, compute) * jnp.float32(weight)).sum()

    out = product(spec, jnp.float32(a), jnp.float32(b), compute)
    longest = max(a.shape + b.shape)  # of the sums
    assert_close(out, np.einsum(spec, a, b), terms=longest)
    grads = jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.float32(a), jnp.float32(b))
    (in_a, in_b), result = spec.split("->")[0].split(","), spec.split("->")[1]
    wanted = (
        np.einsum(f"{result},{in_b}->{in_a}", weight, b),
        np.einsum(f"{in_a},{result}->{in_b}", a, weight),
    )
    for got, want in zip(grads, wanted, strict=True):
        assert got.dtype == jnp.float32
        assert_close(got, want, terms=longest)


def test_layer_norm_keeps_its_digits_far_from_zero():
    """E[x^2] - mean^2 would lose the variance of numbers near 1000 in float32."""
    x = 1000 + RNG.normal(size=(4, 64)).astype(np.float32)
    got = LayerNorm(64, epsilon=1e-12, compute=Compute())(jnp.asarray(x))
    exact = x.astype(np.float64)
    want = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    assert_close(got, want, terms=64, scale=1000)  # the mean is one of numbers near 1000


def test_the_padding_row_gets_no_gradient():
    table = Embedding(5, 3, scale=Spread(1.0), compute=Compute(), rngs=nnx.Rngs(0), padding_index=2)
    graphdef, state = nnx.split(table)
    index = jnp.array([[0, 2, 2, 4]])
    grads = jax.grad(lambda s: nnx.merge(graphdef, s)(index).sum())(nnx.to_pure_dict(state))
    np.testing.assert_array_equal(grads["embedding"].sum(axis=1), [3, 0, 0, 0, 3])
