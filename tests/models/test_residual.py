"""The kernel of bias, dropout, residual sum and norm equals the plain form, on any device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from lowered import for_cuda
from tolerance import PROMISE, assert_close

from jaxbert.models import BertConfig, BertModel, Compute, Dropout, dropout_key
from jaxbert.models import attention as attention_module
from jaxbert.models import residual as module
from jaxbert.models.kernels import norm_gpu
from jaxbert.models.kernels.norm import BLOCK_ROWS, tpu_norm_takes
from jaxbert.models.kernels.norm_gpu import gpu_add_and_norm, gpu_norm_takes
from jaxbert.models.primitives import LayerNorm

RATE, SITE, WIDTH = 0.3, 2, 128
# GPUs take any width, powers of two or not.
WIDTHS = {"tpu": 128, "gpu": 104}
# Rows [B, L]: less than a chunk, one block with an odd end, three blocks of which the last has one.
SHAPES = {"few": (1, 5), "odd": (3, 7), "blocks": (3, BLOCK_ROWS - 85)}


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    for owner, name in (
        (module, "tpu_add_and_norm"),
        (module, "gpu_add_and_norm"),
        (attention_module, "tpu_attention"),
        (attention_module, "gpu_attention"),
    ):
        monkeypatch.setattr(owner, name, partial(getattr(owner, name), interpret=True))


def draw(shape, width=WIDTH):
    """(x, branch, what the output is weighted with), (bias, scale, shift)."""
    rng = np.random.default_rng(0)
    arrays = jnp.asarray(rng.normal(size=(3, *shape, width)), jnp.bfloat16).astype(jnp.float32)
    return tuple(arrays), tuple(jnp.float32(rng.normal(size=(3, width))))


def state_of(shape, first=0):
    # As packing leaves them: tokens in any order.
    index = np.random.default_rng(1).permutation(np.prod(shape)).reshape(shape) + first
    return Dropout(dropout_key(0, 1), jnp.asarray(index, jnp.uint32))


def total(platform, state, dtype, arrays, vectors):
    """The weighted output's sum, and the output."""
    compute = Compute(dtype=dtype, platform=platform)
    x, branch, weight = arrays
    bias, scale, shift = vectors
    norm = LayerNorm(len(bias), epsilon=1e-12, compute=compute)
    norm.scale, norm.bias = nnx.Param(scale), nnx.Param(shift)
    x, branch = (a.astype(compute.activation_dtype) for a in (x, branch))
    out = module.add_and_norm(x, module.Branch(branch, nnx.Param(bias), RATE, SITE, state), norm)
    assert out.dtype == compute.activation_dtype
    return (out.astype(jnp.float32) * weight).sum(), out


def run(platform, shape, state, dtype="float32", width=WIDTH):
    """Gradients of the arrays and of the vectors, and the output."""
    arrays, vectors = draw(shape, width)
    gradient = jax.grad(total, argnums=(3, 4), has_aux=True)
    found = jax.jit(partial(gradient, platform, state, dtype))(arrays, vectors)
    return {
        name: np.float32(leaf)
        for name, leaf in zip(
            ("x", "branch", "weight", "bias", "scale", "shift", "out"),
            jax.tree.leaves(found),
            strict=True,
        )
    }


@pytest.mark.parametrize("drops", [False, True], ids=["still", "dropout"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("platform", WIDTHS)
def test_it_is_the_plain_form(monkeypatch, platform, shape, drops):
    monkeypatch.setattr(norm_gpu, "PROGRAMS", 40)  # so that 513 rows are 13 for each
    width = WIDTHS[platform]
    state = state_of(shape) if drops else None
    got, want = (run(p, shape, state, width=width) for p in (platform, "cpu"))
    for name, value in want.items():
        # A vector's gradient is a sum over the rows.
        terms = np.prod(shape) if name in ("bias", "scale", "shift") else 6 * width
        limit = PROMISE * np.abs(value).max()
        assert_close(got[name], value, terms=terms, limit=limit, what=name)
    dropped = (want["branch"] == 0).mean()
    assert abs(dropped - RATE * drops) < 0.1
    np.testing.assert_array_equal(got["branch"] == 0, want["branch"] == 0)


@pytest.mark.parametrize("platform", WIDTHS)
def test_in_bfloat16_only_what_is_written_is_rounded(platform):
    shape = SHAPES["odd"]
    got, want = (run(p, shape, state_of(shape), "bfloat16") for p in (platform, "cpu"))
    for name, value in want.items():
        # Of the inputs, their sum, the output, its gradient and theirs.
        assert_close(got[name], value, terms=5, dtype="bfloat16", what=name)


@pytest.mark.parametrize("platform", WIDTHS)
def test_alike_on_one_device_under_pmap_and_on_a_mesh(platform):
    rows, shape = (4, 9), (2, 9)
    arrays, vectors = draw(rows)
    state = state_of(rows)
    gradient = jax.grad(total, argnums=(3, 4), has_aux=True)

    def of(state, arrays, vectors):
        (d_arrays, d_vectors), out = gradient(platform, state, "float32", arrays, vectors)
        return d_arrays, out, d_vectors

    def summed(state, arrays, vectors):
        *by_row, d_vectors = of(state, arrays, vectors)
        return *by_row, jax.lax.psum(d_vectors, "data")

    want = jax.tree.leaves(jax.jit(of)(state, arrays, vectors))

    split = jax.tree.map(lambda a: a.reshape(2, *shape, *a.shape[2:]), (state.token_index, arrays))
    by_device = jax.pmap(
        lambda index, *more: summed(state._replace(token_index=index), *more),
        "data", in_axes=(0, 0, None), out_axes=(0, 0, None), devices=jax.devices()[:2],
    )  # fmt: skip
    *d_arrays, d_vectors = by_device(*split, vectors)
    joined = jax.tree.map(lambda a: a.reshape(*rows, *a.shape[3:]), tuple(d_arrays))
    for a, b in zip(jax.tree.leaves((joined, d_vectors)), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

    by_rows, whole = PartitionSpec("data"), PartitionSpec()
    on_mesh = jax.shard_map(
        lambda index, *more: summed(state._replace(token_index=index), *more),
        mesh=Mesh(np.array(jax.devices()[:2]), "data"), in_specs=(by_rows, by_rows, whole),
        out_specs=(by_rows, by_rows, whole), check_vma=False,
    )  # fmt: skip
    found = jax.jit(on_mesh)(state.token_index, arrays, vectors)
    for a, b in zip(jax.tree.leaves(found), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_packed_model_is_the_same_with_all_kernels():
    config = BertConfig(
        vocab_size=40, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32, hidden_dropout_prob=RATE,
        attention_probs_dropout_prob=RATE,
    )  # fmt: skip
    shape = 2, 32
    ids = jnp.asarray(np.random.default_rng(0).integers(1, 40, shape))
    segments = jnp.asarray(np.repeat([[1, 2, 0], [1, 2, 3]], [12, 9, 11], axis=1))
    weight = jnp.float32(np.random.default_rng(1).normal(size=(*shape, WIDTH)))
    found = {}
    for platform in ("cpu", *WIDTHS):
        compute = Compute(platform=platform)
        graphdef, params = nnx.split(BertModel(config, rngs=nnx.Rngs(0), compute=compute))

        def loss(params, graphdef=graphdef):
            model = nnx.merge(graphdef, params)
            out = model(ids, segment_ids=segments, dropout=state_of(shape)).last_hidden_state
            real = jnp.where(segments[..., None] > 0, out, 0)
            return (real * weight).sum(), real

        found[platform] = jax.tree.leaves(jax.jit(jax.grad(loss, has_aux=True))(params))
    for platform in WIDTHS:
        for a, b in zip(found[platform], found["cpu"], strict=True):
            assert_close(a, b, terms=3000, scale=max(np.abs(b).max(), 1.0))


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("width", [768, 1024])
def test_triton_takes_the_kernel_for_gpus(monkeypatch, width):
    monkeypatch.setattr(module, "gpu_add_and_norm", gpu_add_and_norm)  # not interpreted
    gradient = jax.grad(total, argnums=(3, 4), has_aux=True)
    state = state_of(SHAPES["odd"])
    drawn = draw(SHAPES["odd"], width)
    text = for_cuda(partial(gradient, "gpu", state, "bfloat16"), *drawn)
    for name in ("forward_norm", "backward_norm"):
        assert name in text
    assert "triton" in text


def test_where_it_is_used():
    assert tpu_norm_takes(768, Compute(platform="tpu"))
    assert tpu_norm_takes(1024, Compute(platform="tpu", dtype="bfloat16"))
    assert not tpu_norm_takes(1024, Compute(platform="tpu", dtype="float16"))
    assert not tpu_norm_takes(1024, Compute(platform="gpu"))
    for width in (312, 768, 1024):
        assert gpu_norm_takes(width, Compute(platform="gpu", dtype="float16"))
        assert not gpu_norm_takes(width, Compute(platform="tpu"))
    for width in (300, 8192):
        assert not gpu_norm_takes(width, Compute(platform="gpu"))
    for width in (312, 8192):
        assert not tpu_norm_takes(width, Compute(platform="tpu"))
