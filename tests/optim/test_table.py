"""The table of `jaxbert lr`: every number by hand, and the text."""

import jax
import numpy as np
import pytest

from jaxbert.optim import OptimizerConfig, RatePlan, format_group_table, group_table

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
    rows = {
        row.group: row for row in group_table(RatePlan.make(TABLE_CONFIG, shapes, 20, 15), shapes)
    }
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
    text = format_group_table(group_table(RatePlan.make(TABLE_CONFIG, params, 20, 15), params))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["group", "parameters", "multiplier", "start", "peak", "end", "weight",
                        "decay", "trains"]  # fmt: skip
    assert lines[2][:4] == ["embeddings.1", "(.*/layer_norm/.*)", "6", "4"]
    assert lines[3] == ["layer_0", "98", "0", "0", "0", "0", "no", "never"]
    assert lines[4] == ["layer_1", "98", "0.5", "0", "0.0003", "0.0001", "yes", "(67.3%)", "from",
                        "epoch", "1"]  # fmt: skip
    assert text.splitlines()[-1] == "261 parameters, 163 of them trainable"
    assert len({len(line) for line in text.splitlines()[:-1]}) == 1  # columns line up


def test_the_text_leaves_out_a_column_that_says_nothing(params):
    plan = RatePlan.make(OptimizerConfig(weight_decay=0), params, 10, 5)
    text = format_group_table(group_table(plan, params))
    assert text.splitlines()[0].endswith("weight decay")
    assert text.splitlines()[1].endswith("no")


def test_a_group_trains_if_it_wakes_before_the_last_update(params):
    config = OptimizerConfig(
        learning_rate=0.5, schedule="constant", unfreezing={"layer_0": 0.75, "layer_1": 1}
    )
    rows = group_table(RatePlan.make(config, params, total_steps=4, steps_per_epoch=4), params)
    by_group = {row.group: (row.start, row.peak, row.end) for row in rows}
    assert by_group["layer_0"] == (0, 0.5, 0.5)  # of updates 0 to 3, the last
    assert by_group["layer_1"] == (0, 0, 0.5)  # none
    assert by_group["head"] == (0.5, 0.5, 0.5)
    assert format_group_table(rows).endswith("261 parameters, 163 of them trainable")


def test_the_table_says_where_decay_leads(params):
    plan = RatePlan.make(OptimizerConfig(anchor_decay=2.0, frozen=["embeddings"]), params, 10, 5)
    lines = format_group_table(group_table(plan, params)).splitlines()
    by_group = {line.split()[0]: line for line in lines[1:-1]}
    assert "  no  " in by_group["embeddings"]
    assert "  to start (100.0%)" in by_group["layer_0"]
    assert "  yes (75.0%)" in by_group["head"]
