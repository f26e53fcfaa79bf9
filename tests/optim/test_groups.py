"""Groups, and what becomes of them under overrides."""

import pytest

from jaxbert.errors import InputError
from jaxbert.optim import OptimizerConfig, leaf_labels
from jaxbert.optim.groups import make_groups


@pytest.fixture
def labels(params):
    return leaf_labels(params)


def test_without_overrides_the_groups_are_the_labels(labels):
    groups = make_groups(OptimizerConfig(layer_decay=0.5, head_multiplier=3), labels)
    assert {name: g.multiplier for name, g in groups.items()} == {
        "embeddings": 1 / 8,
        "layer_0": 1 / 4,
        "layer_1": 1 / 2,
        "pooler": 1,
        "head": 3,
    }
    by_path = {path: g.label for g in groups.values() for path in g.paths}
    assert by_path == labels
    assert all(g.name == g.label and not g.patterns and not g.frozen for g in groups.values())


def test_a_label_override_changes_the_group(labels):
    config = OptimizerConfig(layer_decay=0.5, multipliers={"layer_1": 7, "embeddings|pooler": 9})
    got = {name: g.multiplier for name, g in make_groups(config, labels).items()}
    assert got == {"embeddings": 9, "layer_0": 1 / 4, "layer_1": 7, "pooler": 9, "head": 1}


def test_a_path_override_splits_the_group(labels):
    config = OptimizerConfig(
        layer_decay=0.5,
        multipliers=[(".*/0/attention/.*", 5), ("layer_1", 7), (".*/bias", 9)],
        unfreezing={"encoder/layers/0/output/.*": 2},
        frozen=[".*/pooler/bias"],
    )
    groups = make_groups(config, labels)
    got = {n: (g.patterns, g.multiplier, g.epoch, g.frozen) for n, g in groups.items()}
    bias, attention = ".*/bias", ".*/0/attention/.*"
    output = "encoder/layers/0/output/.*"
    assert got == {
        "embeddings": ((), 1 / 8, 0, False),
        "embeddings.1": ((bias,), 9, 0, False),
        "layer_0": ((), 1 / 4, 0, False),
        "layer_0.1": ((attention,), 5, 0, False),
        "layer_0.2": ((bias,), 9, 0, False),
        "layer_0.3": ((output,), 1 / 4, 2, False),
        "layer_0.4": ((bias, output), 9, 2, False),
        "layer_1": ((), 7, 0, False),  # its row comes before that of the biases
        "pooler": ((), 1, 0, False),
        "pooler.1": ((bias, ".*/pooler/bias"), 9, 0, True),
        "head": ((), 1, 0, False),
        "head.1": ((bias,), 9, 0, False),
    }
    members = [path for g in groups.values() for path in g.paths]
    assert sorted(members) == sorted(labels)  # each leaf in one group
    assert groups["layer_0.4"].paths == ("encoder/layers/0/output/bias",)
    assert set(groups["head"].paths) == {"head/classifier/kernel"}


@pytest.mark.parametrize("argument", ["multipliers", "frozen", "unfreezing"])
def test_an_override_that_matches_nothing_is_an_error(labels, argument):
    value = ["layer_9"] if argument == "frozen" else {"layer_9": 1}
    with pytest.raises(InputError, match=f"^{argument}: nothing matches 'layer_9'"):
        make_groups(OptimizerConfig(**{argument: value}), labels)


def test_freezing_everything_is_an_error(labels):
    with pytest.raises(InputError, match="freezes every parameter"):
        make_groups(OptimizerConfig(frozen=[".*"]), labels)


def test_a_final_norm_counts_like_the_pooler(make_params):
    labels = leaf_labels(make_params(final_norm=True))
    groups = make_groups(OptimizerConfig(layer_decay=0.5, unfreezing=1), labels)
    assert list(groups) == ["embeddings", "layer_0", "layer_1", "final_norm", "pooler", "head"]
    norm, pooler = groups["final_norm"], groups["pooler"]
    assert (norm.multiplier, norm.epoch) == (pooler.multiplier, pooler.epoch) == (1, 0)


@pytest.mark.parametrize(("epoch", "steps", "first"), [(0, 7, 0), (1, 7, 7), (0.25, 6, 2)])
def test_the_first_step_is_the_nearest_whole_one(epoch, steps, first, labels):
    group = make_groups(OptimizerConfig(unfreezing={"layer_1": epoch}), labels)["layer_1"]
    assert group.first_step(steps) == first  # a quarter of 6 steps is 1.5, which rounds to 2
