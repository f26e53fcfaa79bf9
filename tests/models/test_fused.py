"""Attention for accelerators equals the plain one; the kernels run as plain operations here."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lowered import for_cuda
from tolerance import assert_close

from jaxbert.models import Compute, Dropout, Visibility, dropout_key
from jaxbert.models import attention as module
from jaxbert.models.kernels import attention as attention_tpu
from jaxbert.models.kernels import attention_gpu
from jaxbert.models.kernels.attention import cudnn_takes, tpu_attention, tpu_takes
from jaxbert.models.kernels.attention_gpu import gpu_attention, gpu_takes

RATE, SITE = 0.3, 4
ROWS, LENGTH, HEADS = 2, 32, 4
MASK = np.arange(LENGTH) < np.array([[32], [11]])
SEGMENTS = np.array([[1] * 15 + [2] * 17, [1] * 9 + [2] * 13 + [0] * 10])
SEEN = {
    "all": {},
    "mask": {"attention_mask": jnp.asarray(MASK)},
    "segments": {"segment_ids": jnp.asarray(SEGMENTS)},
}
INDEX = jnp.arange(ROWS * LENGTH, dtype=jnp.uint32).reshape(ROWS, LENGTH)
STATE = Dropout(dropout_key(0, 1), INDEX)


def run(platform, arrays, seen, state, dtype):
    """(gradients of query, key, value and of their biases, output) in float32."""
    compute = Compute(dtype=dtype, platform=platform)
    query, key, value, weight = arrays
    biases = np.random.default_rng(1).normal(size=(3, HEADS * query.shape[-1]))

    def total(query, key, value, biases):
        out = module.attention(
            query,
            key,
            value,
            Visibility.of(**SEEN[seen]),
            biases=tuple(biases),
            rate=RATE,
            site=SITE,
            dropout=state,
            compute=compute,
        )
        assert out.dtype == compute.activation_dtype
        return (out.astype(jnp.float32) * weight).sum(), out

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True))
    found = gradient(query, key, value, jnp.float32(biases))
    return [np.float32(x) for x in jax.tree.leaves(found)]


def draw(width):
    arrays = np.random.default_rng(0).normal(size=(4, ROWS, LENGTH, HEADS, width))
    return jnp.asarray(arrays, jnp.bfloat16).astype(jnp.float32)


def interpreted(monkeypatch, name, kernel):
    """The calls of a kernel, from here on, which runs as plain operations."""
    called = []

    def run(*args, **kwargs):
        called.append(args)
        return kernel(*args, **kwargs, interpret=True)

    monkeypatch.setattr(module, name, run)
    return called


def assert_equals_plain(platform, width, seen, state):
    got = run(platform, draw(width), seen, state, "float32")
    for a, b in zip(got, run("cpu", draw(width), seen, state, "float32"), strict=True):
        assert_close(a, b, terms=3 * (2 * width + 2 * LENGTH))
    # bfloat16: the operands of six products, there and back, are rounded to 8 bits.
    got = run(platform, draw(width), seen, state, "bfloat16")
    for a, b in zip(got, run("cpu", draw(width), seen, state, "bfloat16"), strict=True):
        assert_close(a, b, terms=12, dtype="bfloat16")


# One register of lanes, two in one program, two in a program each.
@pytest.mark.parametrize(("width", "size"), [(32, 2**18), (64, 2**18), (64, 1)])
@pytest.mark.parametrize("state", [None, STATE], ids=["still", "dropout"])
@pytest.mark.parametrize("seen", SEEN)
def test_the_kernel_for_tpus(monkeypatch, seen, state, width, size):
    called = interpreted(monkeypatch, "tpu_attention", tpu_attention)
    monkeypatch.setattr(attention_tpu, "BLOCK_SIZE", size)
    assert_equals_plain("tpu", width, seen, state)
    assert called


@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("seen", SEEN)
def test_the_kernel_for_gpus(monkeypatch, seen, block):
    called = interpreted(monkeypatch, "gpu_attention", gpu_attention)
    # float32 too, though on a GPU its products are better left to others.
    monkeypatch.setattr(module, "gpu_takes", lambda shape, compute: compute.platform == "gpu")
    monkeypatch.setattr(attention_gpu, "BLOCK", block)
    assert_equals_plain("gpu", 32, seen, STATE)
    assert called


@pytest.mark.parametrize("block", [16, 32])
def test_a_query_that_sees_nothing_sees_all_equally_on_gpus_too(monkeypatch, block):
    monkeypatch.setattr(attention_gpu, "BLOCK", block)
    query, key, value, weight = draw(16)
    asking = jnp.where(jnp.arange(LENGTH) == 3, 7, 0)[None].repeat(ROWS, axis=0)
    segments = asking, jnp.zeros((ROWS, LENGTH), jnp.int32)
    compute = Compute(platform="gpu")

    def total(query, key, value):
        out = gpu_attention(
            query, key, value, segments, None, rate=0.0, compute=compute, interpret=True
        )
        return (out * weight).sum(), out

    grads, out = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(query, key, value)
    assert_close(out[:, 3], value.mean(axis=1), terms=LENGTH)
    assert not np.asarray(grads[0][:, 3]).any()
    scores = jnp.einsum("blnh,bmnh->bnlm", query, key)
    shares = jax.nn.softmax(scores, axis=-1).at[:, :, 3].set(1 / LENGTH)
    wanted = jnp.einsum("bnlm,blnh->bmnh", shares, weight)
    assert_close(grads[2], wanted, terms=3 * LENGTH)


@pytest.mark.parametrize("seen", SEEN)
def test_what_cudnn_is_asked(monkeypatch, seen):
    plain = jax.nn.dot_product_attention

    def same_by_xla(*args, implementation, **kwargs):
        assert implementation == "cudnn"
        return plain(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", same_by_xla)
    with jax.numpy_dtype_promotion("standard"):  # JAX's own code is not strict
        got = run("gpu", draw(64), seen, None, "bfloat16")
    for a, b in zip(got, run("cpu", draw(64), seen, None, "bfloat16"), strict=True):
        assert_close(a, b, terms=12, dtype="bfloat16")


def test_cudnn_is_not_asked_to_drop(monkeypatch):
    monkeypatch.setattr(module, "cudnn_attention", None)
    called = interpreted(monkeypatch, "gpu_attention", gpu_attention)
    run("gpu", draw(64), "segments", STATE, "bfloat16")
    assert called


def test_cudnn_is_asked_where_nothing_drops_after_all(monkeypatch):
    asked = []

    def cudnn(query, *rest):
        asked.append(rest)
        return query

    monkeypatch.setattr(module, "cudnn_attention", cudnn)
    query = draw(64)[0]
    compute = Compute(dtype="bfloat16", platform="gpu")
    module.attention(query, query, query, rate=0.0, dropout=STATE, compute=compute)
    assert len(asked) == 1


SHAPES = {
    "bert-base": ((8, 512, 12, 64), True),
    "bert-large": ((8, 128, 16, 64), True),
    "minilm": ((8, 96, 12, 32), True),
    "too long": ((1, 1024, 12, 64), False),
    "odd length": ((1, 100, 12, 64), False),
    "odd width": ((1, 128, 12, 48), False),
    "does not fill": ((1, 128, 3, 64), False),
}


@pytest.mark.parametrize(("shape", "taken"), SHAPES.values(), ids=SHAPES)
def test_where_the_kernel_is_used(shape, taken):
    assert tpu_takes(shape, Compute(platform="tpu")) == taken
    assert not tpu_takes(shape, Compute(platform="cpu"))


def test_a_program_has_as_many_lanes_as_are_soon_computed():
    assert attention_tpu._lanes(128, 768) == 768
    assert attention_tpu._lanes(256, 1024) == 1024
    assert attention_tpu._lanes(256, 1536) == 768  # half, for all would be too large
    assert attention_tpu._lanes(512, 768) == 128  # a head of a long row is work enough


def test_where_cudnn_is_used():
    takes = partial(cudnn_takes, (8, 128, 12, 64))
    assert takes(Compute(platform="gpu", dtype="bfloat16"))
    assert not takes(Compute(platform="gpu"))
    assert not takes(Compute(platform="cpu", dtype="bfloat16"))
    assert not cudnn_takes((8, 127, 12, 64), Compute(platform="gpu", dtype="bfloat16"))


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
def test_triton_takes_the_kernel_for_gpus():
    arrays = [x.astype(jnp.bfloat16) for x in draw(64)[:3]]
    segments = jnp.asarray(SEGMENTS), jnp.asarray(SEGMENTS)
    compute = Compute(dtype="bfloat16", platform="gpu")

    def total(*rows):
        out = gpu_attention(*rows, segments, (INDEX, INDEX), rate=RATE, compute=compute)
        return out.astype(jnp.float32).sum()

    text = for_cuda(jax.grad(total, argnums=(0, 1, 2)), *arrays)
    for name in ("forward", "backward"):
        assert f"attention_{name}_kernel" in text
    assert "triton" in text


def test_where_the_kernel_for_gpus_is_used():
    takes = partial(gpu_takes, (8, 96, 12, 64))
    assert takes(Compute(platform="gpu", dtype="bfloat16"))
    assert takes(Compute(platform="gpu", dtype="float16"))
    assert not takes(Compute(platform="gpu"))
    assert not takes(Compute(platform="tpu", dtype="bfloat16"))
    low = Compute(platform="gpu", dtype="bfloat16")
    assert not gpu_takes((8, 100, 12, 64), low)  # no whole blocks
    assert not gpu_takes((8, 128, 12, 48), low)  # Triton wants powers of two
    assert not gpu_takes((8, 128, 12, 256), low)
