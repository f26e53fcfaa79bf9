"""Drift and similarity against closed forms, and against a model whose change is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_families
from flax import nnx

from jaxbert.data import Batches, load_tokenizer, tokenize
from jaxbert.lab.drift import Probe, linear_cka, neighbour_overlap, rsa, weight_drift
from jaxbert.models import split_model
from jaxbert.models.auto import model_class
from jaxbert.training.engines import JitEngine


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def rotation(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def test_cka_sees_neither_rotation_nor_scale_nor_shift(rng):
    x = rng.normal(size=(50, 4))
    assert linear_cka(x, 3 * x @ rotation(rng, 4) + 7) == pytest.approx(1, abs=1e-9)
    stretched = x * [1, 1, 1, 9]  # no rotation: that it must see
    assert linear_cka(x, stretched) < 0.9


def test_cka_by_hand(rng):
    # Orthonormal columns u, v: X = (u, v), Y = (u) share one of X's two directions:
    # ||Y'X||^2 = 1, ||X'X|| = sqrt 2, ||Y'Y|| = 1.
    u, v = np.array([1, -1, 0, 0]) / 2**0.5, np.array([0, 0, 1, -1]) / 2**0.5
    x, y = np.stack([u, v], axis=1), u[:, None]
    assert linear_cka(x, y) == pytest.approx(2**-0.5)
    assert linear_cka(x, np.ones((4, 1))) == 0  # nothing left after centring


def test_cka_of_unrelated_features_falls_with_the_number_of_rows(rng):
    unrelated = [linear_cka(rng.normal(size=(n, 8)), rng.normal(size=(n, 8))) for n in (16, 2000)]
    assert unrelated[1] < 0.02 < unrelated[0]


def test_rsa_by_hand(rng):
    # Angles of 0, 60 and 90 degrees: cosines (1/2, 0, sqrt 3/2) of the three pairs.
    angles = np.radians([0, 60, 90])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    y = np.eye(3)
    y[1, 0] = 1  # cosines (1/sqrt 2, 0, 0)
    wanted = np.corrcoef([0.5, 0, 3**0.5 / 2], [2**-0.5, 0, 0])[0, 1]
    assert rsa(x, y) == pytest.approx(wanted)
    wide = rng.normal(size=(30, 6))
    assert rsa(wide, 5 * wide @ rotation(rng, 6)) == pytest.approx(1)
    assert rsa(wide, np.ones((30, 6))) == 0


def test_neighbour_overlap_by_hand():
    # On a circle at these angles the nearest of each: 0 -> 1, 1 -> 0, 2 -> 3, 3 -> 2.
    circle = lambda *degrees: np.stack(  # noqa: E731
        [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1
    )
    x = circle(0, 10, 90, 105)
    assert neighbour_overlap(x, 2 * x, k=1) == 1
    moved = circle(0, 40, 50, 105)  # 1 -> 2, 2 -> 1, 3 -> 2; 0 -> 1 and 3 -> 2 stay
    assert neighbour_overlap(x, moved, k=1) == pytest.approx(2 / 4)
    assert neighbour_overlap(x, moved, k=3) == 1
    with pytest.raises(ValueError, match="k=4 neighbours among 4 rows: want 1 to 3"):
        neighbour_overlap(x, x, k=4)


def test_weight_drift_by_hand():
    params = split_model(tiny.model())[1]
    moved = jax.tree.map(lambda leaf: leaf, params)
    layer = moved["encoder"]["layers"][1]
    layer["output"]["kernel"] = layer["output"]["kernel"] + 0.01
    moved["encoder"]["pooler"] = jax.tree.map(lambda leaf: 1.5 * leaf, moved["encoder"]["pooler"])
    found = weight_drift(moved, params)
    leaves = jax.tree.leaves(params["encoder"]["layers"][1])
    size = np.sqrt(sum(float(jnp.square(leaf).sum()) for leaf in leaves))
    assert found["layer_1"] == pytest.approx(0.01 * np.sqrt(24 * 16) / size, rel=1e-4)
    assert found["pooler"] == pytest.approx(0.5)
    assert found["layer_0"] == found["embeddings"] == 0
    assert "head" not in found


@pytest.mark.parametrize("family", tiny_families.OWN)
def test_every_familys_layers_are_told_apart(tmp_path, family):
    """The layer that changes drifts, and from it on, and nowhere below, similarity falls."""
    config = tiny_families.config(family, num_hidden_layers=3)
    if family == "albert":
        config = dataclasses.replace(config, num_hidden_groups=2)
    model = model_class(family, "ForSequenceClassification")(config, rngs=nnx.Rngs(0))
    graphdef, params = split_model(model)
    (tmp_path / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    tokenized = tokenize(tiny.CLASSES, load_tokenizer(tmp_path), 16)
    probe = Probe(graphdef, params, Batches(tokenized, 4, max_length=16), JitEngine())
    moved = jax.tree.map(lambda leaf: leaf, params)
    layer = moved["encoder"]["layers"][1]
    layer["output"]["kernel"] = layer["output"]["kernel"][::-1]

    drift = weight_drift(moved, params)
    groups = {f"layer_{config.layer_group(i)}" for i in range(3)}
    assert drift.keys() - {"pooler", "final_norm"} == {"embeddings", *groups}
    assert [label for label, value in drift.items() if value] == ["layer_1"]
    for values in probe.compare(moved)["similarity"].values():
        assert list(values) == ["embeddings", "layer_0", "layer_1", "layer_2"]
        changed = [f"layer_{i}" for i in range(3) if config.layer_group(i) >= 1]
        assert max(values.pop(name) for name in changed) < 0.999
        assert min(values.values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_probe_sees_the_changed_layer_and_those_above(tmp_path, layout):
    (tmp_path / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    tokenized = tokenize(tiny.CLASSES, load_tokenizer(tmp_path), 16)
    batches = Batches(tokenized, 4, max_length=16, layout=layout)
    graphdef, params = split_model(tiny.model())
    probe = Probe(graphdef, params, batches, JitEngine())

    same = probe.compare(params)
    assert all(
        value == pytest.approx(1) for kind in same["similarity"].values() for value in kind.values()
    )
    assert same["neighbour_overlap"] == 1

    changed = jax.tree.map(lambda leaf: leaf, params)
    layer = changed["encoder"]["layers"][1]
    fresh = split_model(tiny.model(seed=1))[1]["encoder"]["layers"][1]
    changed["encoder"]["layers"][1] = jax.tree.map(lambda _, new: 3 * new, layer, fresh)
    found = probe.compare(changed)
    for kind in ("cka", "rsa"):
        values = found["similarity"][kind]
        assert list(values) == ["embeddings", "layer_0", "layer_1"]
        assert values["embeddings"] == pytest.approx(1)
        assert values["layer_0"] == pytest.approx(1)
        assert values["layer_1"] < 0.9
    assert found["neighbour_overlap"] < 1
