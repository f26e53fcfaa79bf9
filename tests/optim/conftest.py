"""A parameter tree with a real model's paths and next to no numbers."""

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


def _make_params(
    layers=2, *, head="classifier", prefix="bert", pooler=True, int_keys=False, attention=ATTENTION
):
    rng = np.random.default_rng(0)
    tables = {"word_embeddings": V, "position_embeddings": 4, "token_type_embeddings": 2}
    encoder = {
        "embeddings": {name: {"embedding": rng.normal(size=(n, D))} for name, n in tables.items()}
        | {"layer_norm": _norm(rng)},
        "encoder": {
            "layers": {i if int_keys else str(i): _layer(rng, attention) for i in range(layers)}
        },
    }
    if pooler:
        encoder["pooler"] = _dense(rng, D, D)
    params = {prefix: encoder} if prefix else encoder
    if head == "predictions":
        params["predictions"] = {
            "transform": _dense(rng, D, D),
            "layer_norm": _norm(rng),
            "bias": rng.normal(size=V),
        }
    elif head:
        params[head] = _dense(rng, D, C)

    def to_float32(tree):
        if isinstance(tree, dict):
            return {key: to_float32(value) for key, value in tree.items()}
        return np.asarray(tree, np.float32)

    return to_float32(params)


@pytest.fixture
def make_params():
    """(layers=2, *, head, prefix, pooler, int_keys, attention) -> nested dict of float32 arrays."""
    return _make_params


@pytest.fixture
def params():
    """A sequence classifier with two layers."""
    return _make_params()


@pytest.fixture
def lean_params():
    """The same with one matrix for the whole of attention: fewer leaves, so faster to compile."""
    return _make_params(attention=("key",))
