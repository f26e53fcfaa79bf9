"""Groups under overrides, their learning rates, and the table of `jaxbert lr`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbert.optim import (
    OptimizerConfig,
    format_group_table,
    group_table,
    learning_rates,
    make_groups,
    peak_rates,
    trainable_mask,
)
from jaxbert.optim.layers import leaf_labels


def test_without_overrides_the_groups_are_the_labels(params):
    groups = make_groups(OptimizerConfig(layer_decay=0.5, head_multiplier=3), params)
    assert {name: g.multiplier for name, g in groups.items()} == {
        "embeddings": 1 / 8,
        "layer_0": 1 / 4,
        "layer_1": 1 / 2,
        "pooler": 1,
        "head": 3,
    }
    by_path = {path: g.label for g in groups.values() for path in g.paths}
    assert by_path == leaf_labels(params)
    assert all(g.name == g.label and not g.patterns and not g.frozen for g in groups.values())


def test_a_label_override_changes_the_group(params):
    config = OptimizerConfig(layer_decay=0.5, multipliers={"layer_1": 7, "embeddings|pooler": 9})
    got = {name: g.multiplier for name, g in make_groups(config, params).items()}
    assert got == {"embeddings": 9, "layer_0": 1 / 4, "layer_1": 7, "pooler": 9, "head": 1}


def test_a_path_override_splits_the_group(params):
    config = OptimizerConfig(
        layer_decay=0.5,
        multipliers=[(".*/0/attention/.*", 5), ("layer_1", 7), (".*/bias", 9)],
        unfreezing={"bert/encoder/layers/0/output/.*": 2},
        frozen=[".*/pooler/bias"],
    )
    groups = make_groups(config, params)
    got = {n: (g.patterns, g.multiplier, g.epoch, g.frozen) for n, g in groups.items()}
    bias, attention = ".*/bias", ".*/0/attention/.*"
    output = "bert/encoder/layers/0/output/.*"
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
    assert sorted(members) == sorted(leaf_labels(params))  # each leaf in one group
    assert groups["layer_0.4"].paths == ("bert/encoder/layers/0/output/bias",)
    assert set(groups["head"].paths) == {"classifier/kernel"}


@pytest.mark.parametrize("argument", ["multipliers", "frozen", "unfreezing"])
def test_an_override_that_matches_nothing_is_an_error(params, argument):
    value = ["layer_9"] if argument == "frozen" else {"layer_9": 1}
    with pytest.raises(ValueError, match=f"^{argument}: nothing matches 'layer_9'"):
        make_groups(OptimizerConfig(**{argument: value}), params)


def test_freezing_everything_is_an_error(params):
    with pytest.raises(ValueError, match="freezes every parameter"):
        make_groups(OptimizerConfig(frozen=[".*"]), params)


def test_trainable_mask(make_params):
    params = make_params(int_keys=True)
    mask = trainable_mask(OptimizerConfig(frozen=["embeddings", ".*/0/.*/bias"]), params)
    assert mask["bert"]["embeddings"]["layer_norm"] == {"bias": False, "scale": False}
    assert mask["bert"]["encoder"]["layers"][0]["output"] == {"bias": False, "kernel": True}
    assert mask["bert"]["encoder"]["layers"][1]["output"] == {"bias": True, "kernel": True}
    assert jax.tree.structure(mask) == jax.tree.structure(params)


def test_learning_rates_by_hand(params):
    config = OptimizerConfig(
        learning_rate=0.1,
        layer_decay=0.5,
        warmup=4,
        unfreezing=[("layer_0", 1), ("pooler", 0.25)],
        frozen=["embeddings"],
    )
    rates = learning_rates(config, params, total_steps=20, steps_per_epoch=6)
    assert list(rates) == ["embeddings", "layer_0", "layer_1", "pooler", "head"]
    factor = [t / 4 if t < 4 else (20 - t) / 16 for t in range(21)]
    # A quarter of 6 steps is 1.5, which rounds to 2.
    first = {"layer_0": 6, "layer_1": 0, "pooler": 2, "head": 0}
    peak = {"layer_0": 0.025, "layer_1": 0.05, "pooler": 0.1, "head": 0.1}
    for name, at in first.items():
        wanted = [peak[name] * f * (t >= at) for t, f in enumerate(factor)]
        got = np.asarray(rates[name](jnp.arange(21)))
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
        assert (got[:at] == 0).all()
        assert float(rates[name](7)) == got[7]
    assert not np.any(rates["embeddings"](jnp.arange(21)))
    assert peak_rates(config, params) == peak | {"embeddings": 0}


TABLE_CONFIG = OptimizerConfig(
    learning_rate=1e-3,
    layer_decay=0.5,
    schedule="triangular",
    schedule_options={"cycles": 1, "base": 0.2},
    multipliers={".*/layer_norm/.*": 4},
    unfreezing={"layer_1": 1},
    frozen=["layer_0"],
)


def test_group_table_by_hand(params):
    shapes = jax.eval_shape(lambda: params)
    rows = {row.group: row for row in group_table(TABLE_CONFIG, shapes, 20, 15)}
    # Parameters: D = 3, F = 5. A layer: 4 (9 + 3) + 6 + (15 + 5) + (15 + 3) + 6 = 98, of which
    # 36 + 15 + 15 = 66 decay. Embeddings: 3 (7 + 4 + 2) = 39, and 6 of LayerNorm.
    norm = "embeddings.1 (.*/layer_norm/.*)"
    assert {name: row.parameters for name, row in rows.items()} == {
        "embeddings": 39, norm: 6, "layer_0": 98, "layer_1": 98, "pooler": 12, "head": 8,
    }  # fmt: skip
    assert {name: row.decayed for name, row in rows.items()} == pytest.approx({
        "embeddings": 1, norm: 0, "layer_0": 0, "layer_1": 66 / 98, "pooler": 9 / 12, "head": 6 / 8,
    })  # fmt: skip
    assert {name: row.epoch for name, row in rows.items()} == {
        "embeddings": 0, norm: 0, "layer_0": None, "layer_1": 1, "pooler": 0, "head": 0,
    }  # fmt: skip
    # The triangle: .2 at 0, 1 at 10, .2 at 20, so .6 at 15, where layer_1 (half the peak) wakes.
    for name, multiplier in {"embeddings": 1 / 8, norm: 4, "pooler": 1, "head": 1}.items():
        row = rows[name]
        assert row.multiplier == multiplier
        wanted = np.array([0.2, 1, 0.2]) * multiplier * 1e-3
        np.testing.assert_allclose([row.start, row.peak, row.end], wanted, rtol=1e-6)
    late, still = rows["layer_1"], rows["layer_0"]
    np.testing.assert_allclose([late.start, late.peak, late.end], [0, 3e-4, 1e-4], rtol=1e-6)
    assert (still.multiplier, still.start, still.peak, still.end) == (0, 0, 0, 0)


def test_the_table_as_text(params):
    text = format_group_table(group_table(TABLE_CONFIG, params, 20, 15))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["group", "parameters", "multiplier", "start", "peak", "end", "weight",
                        "decay", "moves"]  # fmt: skip
    assert lines[2][:4] == ["embeddings.1", "(.*/layer_norm/.*)", "6", "4"]
    assert lines[3] == ["layer_0", "98", "0", "0", "0", "0", "no", "never"]
    assert lines[4] == ["layer_1", "98", "0.5", "0", "0.0003", "0.0001", "yes", "(67.3%)", "from",
                        "epoch", "1"]  # fmt: skip
    assert text.splitlines()[-1] == "261 parameters, 163 of them move"
    assert len({len(line) for line in text.splitlines()[:-1]}) == 1  # columns line up


def test_the_text_leaves_out_a_column_that_says_nothing(params):
    text = format_group_table(group_table(OptimizerConfig(weight_decay=0), params, 10, 5))
    assert text.splitlines()[0].endswith("weight decay")
    assert text.splitlines()[1].endswith("no")
