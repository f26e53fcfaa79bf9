"""Paths to labels, labels to multipliers, the weight-decay mask."""

import re

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxbert.errors import InputError
from jaxbert.optim import layers
from jaxbert.optim.layers import (
    decays_weight,
    depth_multipliers,
    first_matches,
    leaf_labels,
    reinitialized_paths,
    unfreezing_epochs,
)


def label_by_hand(path):
    """What the contract says, by the words of the path."""
    words = path.removeprefix("encoder/").split("/")
    return f"layer_{words[1]}" if words[0] == "layers" else words[0]


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"layers": 12},
        {"head": None},
        {"head": None, "pooler": False, "final_norm": True},
        {"final_norm": True},
        {"head": "qa_outputs", "pooler": False},
        {"head": "predictions", "pooler": False},
        {"head": "seq_relationship", "int_keys": True},
    ],
)
def test_every_path_of_the_contract_has_its_label(make_params, shape):
    labels = leaf_labels(make_params(**shape))
    assert labels == {path: label_by_hand(path) for path in labels}
    assert len(labels) == len(jax.tree.leaves(make_params(**shape)))
    wanted = {"embeddings"} | {f"layer_{i}" for i in range(shape.get("layers", 2))}
    wanted |= {"pooler"} if shape.get("pooler", True) else set()
    wanted |= {"final_norm"} if shape.get("final_norm") else set()
    wanted |= {"head"} if shape.get("head", "classifier") else set()
    assert set(labels.values()) == wanted


def test_labels_need_shapes_only(params):
    shapes = jax.eval_shape(lambda: params)
    assert leaf_labels(shapes) == leaf_labels(params)


def test_the_labels_know_no_family():
    assert not re.search("bert|electra|mpnet", repr(layers.LABELS), flags=re.I)


def test_a_leaf_without_a_label_is_named(params):
    params["adapter"] = {"kernel": 1.0, "bias": 2.0}
    params["encoder"]["extra"] = {"scale": 1.0}
    # An encoder's head is a name like any other, and so are layers without a number.
    params["encoder"]["head"] = {"bias": 1.0}
    params["encoder"]["layers"]["top"] = {"bias": 1.0}
    message = (
        r"do not: adapter/bias \(none\), adapter/kernel \(none\), encoder/extra/scale \(none\), "
        r"encoder/head/bias \(none\), encoder/layers/top/bias \(none\)$"
    )
    with pytest.raises(InputError, match=message):
        leaf_labels(params)


def test_a_leaf_with_two_labels_is_named(params, monkeypatch):
    monkeypatch.setattr(layers, "LABELS", (*layers.LABELS, ("norms", r".*/layer_norm/.*")))
    message = r"layer_norm/bias \(embeddings and norms\), .*/scale \(embeddings and norms\)$"
    with pytest.raises(InputError, match=message):
        leaf_labels(params)


def test_a_gap_in_the_layers_is_an_error(make_params):
    params = make_params(4)
    del params["encoder"]["layers"]["0"], params["encoder"]["layers"]["2"]
    with pytest.raises(InputError, match=r"layers up to 3 but none for \[0, 2\]"):
        leaf_labels(params)


# DESIGN, "Depth conventions", for n = 3 and d = 0.5, worked out on paper.
BY_CONVENTION = {
    "standard": {"embeddings": 1 / 16, "layer_0": 1 / 8, "layer_1": 1 / 4, "layer_2": 1 / 2},
    "sun2019": {"embeddings": 1 / 8, "layer_0": 1 / 4, "layer_1": 1 / 2, "layer_2": 1},
    "electra": {"embeddings": 1 / 32, "layer_0": 1 / 16, "layer_1": 1 / 8, "layer_2": 1 / 4},
}


@pytest.mark.parametrize("convention", BY_CONVENTION)
def test_multipliers_by_convention(convention):
    labels = ["head", "layer_2", "layer_0", "layer_1", "embeddings", "pooler", "head", "final_norm"]
    got = depth_multipliers(labels, 0.5, convention, head_multiplier=3)
    assert got == BY_CONVENTION[convention] | {"final_norm": 1.0, "pooler": 1.0, "head": 3.0}
    order = ["embeddings", "layer_0", "layer_1", "layer_2", "final_norm", "pooler", "head"]
    assert list(got) == order


def test_labels_sort_by_number_not_by_text():
    labels = [f"layer_{i}" for i in range(12)]
    assert list(depth_multipliers(sorted(labels), 0.9)) == labels


@given(
    n=st.integers(1, 24),
    decay=st.floats(0.1, 1),
    convention=st.sampled_from(list(layers.CONVENTIONS)),
)
def test_multipliers_never_rise_towards_the_input(n, decay, convention):
    labels = ["embeddings", *(f"layer_{i}" for i in range(n)), "final_norm", "pooler", "head"]
    values = list(depth_multipliers(labels, decay, convention).values())
    assert values == sorted(values)
    assert values[0] > 0
    assert values[-1] == 1
    # Neighbouring layers, and layer 0 and the embeddings, differ by the decay, exactly once.
    assert values[:n] == pytest.approx([v * decay for v in values[1 : n + 1]])


def test_unfreezing_goes_from_the_top_down():
    labels = ["embeddings", "layer_0", "layer_1", "layer_2", "final_norm", "pooler", "head"]
    wanted = {"layer_2": 0.5, "layer_1": 1, "layer_0": 1.5, "embeddings": 2}
    wanted |= {"head": 0, "pooler": 0, "final_norm": 0}
    assert unfreezing_epochs(labels, 0.5) == wanted
    assert set(unfreezing_epochs(labels, 0).values()) == {0}


@pytest.mark.parametrize("head", ["classifier", "predictions"])
def test_weight_decay_skips_biases_and_layer_norm(make_params, head):
    paths = leaf_labels(make_params(head=head))
    assert {p for p in paths if decays_weight(p)} == {
        p for p in paths if "norm" not in p and not p.endswith("bias")
    }
    assert {p.rsplit("/")[-1] for p in paths if decays_weight(p)} == {"kernel", "embedding"}


def test_the_first_matching_row_wins(make_params):
    labels = leaf_labels(make_params(12))
    rows = ["layer_1", ".*/layers/1[01]/.*", "head|pooler", ".*/bias"]
    taken = first_matches("multipliers", rows, labels)
    for path, label in labels.items():
        wanted = {"layer_1": 0, "layer_10": 1, "layer_11": 1, "head": 2, "pooler": 2}.get(
            label, 3 if path.endswith("bias") else None
        )
        assert taken.get(path) == wanted, path


def test_rows_that_decide_nothing_are_named(params):
    labels = leaf_labels(params)
    message = r"frozen: nothing matches 'layer_7', 'encoder/embeddings', .*\(embeddings, layer_0, "
    with pytest.raises(InputError, match=message):
        first_matches("frozen", ["layer_7", "layer_0", "encoder/embeddings"], labels)
    with pytest.raises(InputError, match="'layer_0', or only what an earlier row took"):
        first_matches("frozen", ["layer_[01]", "layer_0"], labels)


def test_reinitialized_paths(make_params):
    params = make_params(3, final_norm=True)
    labels = leaf_labels(params)
    assert reinitialized_paths(params, 0) == ()
    for count, top in [(1, {"layer_2"}), (3, {"layer_0", "layer_1", "layer_2"})]:
        wanted = top | {"pooler", "final_norm"}
        got = reinitialized_paths(params, count)
        assert got == tuple(path for path, label in labels.items() if label in wanted)
    with pytest.raises(InputError, match="reinitialize_layers=4, but the model has 3 layers"):
        reinitialized_paths(params, 4)
    lean = reinitialized_paths(make_params(pooler=False), 1)
    assert {leaf_labels(make_params())[path] for path in lean} == {"layer_1"}
