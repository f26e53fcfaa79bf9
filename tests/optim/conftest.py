"""A parameter tree with a real model's paths and next to no numbers."""

import chex
import numpy as np
import pytest

D, F, V, C = 3, 5, 7, 2


def _dense(rng, fan_in, fan_out):
    return {"kernel": rng.normal(size=(fan_in, fan_out)), "bias": rng.normal(size=fan_out)}


def _norm(rng):
    return {"scale": 1 + 0.1 * rng.normal(size=D), "bias": rng.normal(size=D)}


def _layer(rng, attention):
    return {
        "attention": {name: _dense(rng, D, D) for name in attention},
        "attention_norm": _norm(rng),
        "intermediate": _dense(rng, D, F),
        "output": _dense(rng, F, D),
        "output_norm": _norm(rng),
    }


ATTENTION = ("query", "key", "value", "output")


def _head(rng, name):
    if name == "predictions":
        norm, transform = _norm(rng), _dense(rng, D, D)
        return {"transform": transform, "layer_norm": norm, "bias": rng.normal(size=V)}
    return _dense(rng, D, C)


def _make_params(
    layers=2, *, head="classifier", pooler=True, final_norm=False, int_keys=False,
    attention=ATTENTION,
):  # fmt: skip
    rng = np.random.default_rng(0)
    tables = {"word_embeddings": V, "position_embeddings": 4, "token_type_embeddings": 2}
    params = {
        "embeddings": {name: {"embedding": rng.normal(size=(n, D))} for name, n in tables.items()}
        | {"layer_norm": _norm(rng)},
        "layers": {i if int_keys else str(i): _layer(rng, attention) for i in range(layers)},
    }
    if pooler:
        params["pooler"] = _dense(rng, D, D)
    if final_norm:
        params["final_norm"] = _norm(rng)
    if head:
        params = {"encoder": params, "head": {head: _head(rng, head)}}

    def to_float32(tree):
        if isinstance(tree, dict):
            return {key: to_float32(value) for key, value in tree.items()}
        return np.asarray(tree, np.float32)

    return to_float32(params)


@pytest.fixture(autouse=True)
def _fresh_trace_counts():
    """chex counts by a function's code, which a parametrized test defines again and again."""
    chex.clear_trace_counter()


@pytest.fixture
def make_params():
    """(layers=2, *, head, pooler, final_norm, int_keys, attention) -> nested dict of float32.

    A task model; with head=None an encoder alone.
    """
    return _make_params


@pytest.fixture
def params():
    """A sequence classifier with two layers."""
    return _make_params()


@pytest.fixture
def lean_params():
    """The same with one matrix for the whole of attention: fewer leaves, so faster to compile."""
    return _make_params(attention=("key",))
