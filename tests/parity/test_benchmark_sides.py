"""The benchmark's sides do the same work: same losses, same updates, same batches; its results."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
import torch

from benchmarks import compare, speed_tables
from benchmarks.compare import Comparison, Disagreement, format_table, ratio_to
from benchmarks.protocol import SideError
from benchmarks.results import read_results
from benchmarks.side_jaxbert import JaxbertSide
from benchmarks.side_torch import TorchSide
from benchmarks.workload import FAMILIES, TINY, WORKLOADS, Workload, prepare
from jaxbert.models.auto import FAMILIES as FAMILY_ROWS
from jaxbert.models.auto import presets

KEYS = {
    "side", "workload", "command", "platform", "device", "threads", "loss", "compile_seconds",
    "step_seconds", "median_step_seconds", "peak_memory_bytes", "time", "versions", "machine",
    "allocator",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Directories of prepared workloads, by name."""
    made = {}

    def get(workload):
        if workload.name not in made:
            made[workload.name] = tmp_path_factory.mktemp("workload")
            prepare(workload, made[workload.name])
        return made[workload.name]

    return get


def load(workload, directory):
    return JaxbertSide(workload, directory, "cpu"), TorchSide(workload, directory, "cpu", False)


def smoke(kind, **changes):
    return dataclasses.replace(WORKLOADS[f"smoke-{kind}"], **changes)


@pytest.mark.parametrize("layout", ["grouped", "padded"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses_agree_whatever_the_layout(files, dtype, layout):
    workload = smoke(f"ragged-{dtype}", padding=layout)
    ours, theirs = load(workload, files(workload))
    assert ours.loss() == pytest.approx(theirs.loss(), rel=1e-6 if dtype == "float32" else 2e-3)


# Of each family's base-size model, beside what makes any of them tiny.
TINY_OF = {
    "roberta-base": {},
    "distilbert-base-uncased": {},
    "electra-base-discriminator": dict(embedding_size=16),
    "modernbert-base": dict(pad_token_id=0, num_hidden_layers=4, local_attention=8),
    "deberta-v3-base": dict(position_buckets=8),
    "mpnet-base": {},
    "albert-base-v2": dict(embedding_size=16, num_hidden_layers=4, num_hidden_groups=2),
}


def test_every_family_has_its_rows():
    assert TINY_OF.keys() == {work.preset for work in FAMILIES}
    others = FAMILY_ROWS.keys() - {"bert", "xlm-roberta"}  # the latter is RoBERTa, but for words
    assert {presets()[preset] for preset in TINY_OF} == others
    assert len(FAMILIES) == 4 * len(TINY_OF)


@pytest.mark.parametrize("preset", [WORKLOADS["smoke-train-float32"].preset, *TINY_OF])
def test_training_makes_the_same_updates(files, preset):
    """A pass without dropout, at a rate that shows: groups, clipping, schedule and AdamW agree."""
    shape = dict(TINY) | dict(max_position_embeddings=24) | TINY_OF.get(preset, {})
    workload = smoke("train-float32", name=f"updates-{preset}", preset=preset, dropout=0.0,
                     examples=24, shape=tuple(shape.items()))  # fmt: skip
    directory = files(workload)
    path = directory / "optimizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"learning_rate": 1.0}))
    ours, theirs = load(workload, directory)
    before = theirs.loss()
    for side in (ours, theirs):
        side.round()
    # Their model has moved by 6 steps of the warm-up; ours holds the result in its state.
    ours._params = ours._state.params
    assert abs(theirs.loss() - before) > 1e-3
    assert ours.loss() == pytest.approx(theirs.loss(), rel=1e-4)


def test_every_example_is_in_a_pass_once(files):
    workload = smoke("ragged-float32")
    ours, theirs = load(workload, files(workload))
    packed, grouped = list(ours.batches()), list(theirs.batches())
    assert len(packed) == len(grouped) == workload.examples / workload.batch
    tokens = sum(int((batch["segment_ids"] > 0).sum()) for batch in packed)
    assert tokens == sum(int(batch["attention_mask"].sum()) for batch in grouped)
    assert sum(batch["weights"].sum() for batch in packed) == workload.examples
    assert sum(len(batch["labels"]) for batch in grouped) == workload.examples
    widths = [batch["input_ids"].shape[1] for batch in grouped]
    assert widths == sorted(widths, reverse=True)  # the longest first


def test_dropout_is_on_in_training_and_off_in_the_check(files):
    workload = smoke("train-float32")
    theirs = TorchSide(workload, files(workload), "cpu", False)
    assert theirs.loss() == theirs.loss()
    batch = next(iter(theirs.batches()))
    with torch.no_grad():
        assert theirs._forward(**batch).loss != theirs._forward(**batch).loss
    rates = {module.p for module in theirs._model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {workload.dropout}


def test_compare_measures_and_keeps(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # the tests' eight devices
    flags = ["--rounds", "2", "--sides", "jaxbert,torch-eager", "--results", str(tmp_path)]
    assert compare.main(["--only", "smoke-infer-float32", *flags]) == 0
    rows = read_results("speed", tmp_path)
    assert [row["side"] for row in rows] == ["jaxbert", "torch-eager"]
    for row, own in zip(rows, ({"jax": jax.__version__}, {}), strict=True):
        assert row.keys() == KEYS | own.keys()
        assert own.items() <= row.items()
        assert Workload.from_dict(row["workload"]) == WORKLOADS["smoke-infer-float32"]
        assert len(row["step_seconds"]) == 2
        assert row["median_step_seconds"] == np.median(row["step_seconds"]) > 0
        assert row["peak_memory_bytes"] > 2**26
    assert rows[0]["allocator"] == rows[1]["allocator"] is not None
    assert "jaxbert" in (table := capsys.readouterr().out)
    assert f"{ratio_to('torch', {row['side']: row for row in rows}):.2f}x" in table


def test_two_versions_of_jax_beside_pytorch_are_a_row(monkeypatch):
    machine = {"processor": "a processor", "cores": 2}
    about = {"workload": {"name": "demo-infer-float32"}, "time": "now", "machine": machine,
             "platform": "cpu", "command": "compare"}  # fmt: skip
    rows = [
        about | {"side": side, "jax": version, "step_seconds": [seconds, seconds],
                 "median_step_seconds": seconds, "peak_memory_bytes": gib * 2**30}
        for side, version, seconds, gib in (
            ("jaxbert", "1.0", 0.2, 1), ("jaxbert-newer", "2.0", 0.1, 2),
            ("torch-eager", None, 0.3, 3), ("torch-compiled", None, 0.15, 3),
        )
    ]  # fmt: skip
    monkeypatch.setattr(speed_tables, "read_results", lambda name: rows)
    row = speed_tables.by_jax().splitlines()[2]
    assert "| 1.0: 200 (200 - 200); 2.0: 100 (100 - 100) | 0.75x; 1.50x | 1.00; 2.00 |" in row
    rows.pop(1)
    assert speed_tables.by_jax().startswith("Not measured yet")


def test_a_side_that_fails_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(Comparison, "_prepare", lambda self: None)  # so no side finds its files
    workload = WORKLOADS["smoke-infer-float32"]
    results = Comparison(workload, ["torch-eager"], "cpu", tmp_path).run(1)
    assert results.keys() == {"torch-eager"}
    assert "FileNotFoundError" in results["torch-eager"]["error"]
    assert "failed: load: FileNotFoundError" in format_table(workload, results)
    assert ratio_to("torch", results) is None


def test_a_side_without_its_environment_is_refused(monkeypatch, capsys):
    lost = compare.SideSpec("benchmarks.side_torch", {}, "no-such-environment")
    monkeypatch.setitem(compare.SIDES, "lost", lost)
    with pytest.raises(SystemExit):
        compare.main(["--sides", "jaxbert,lost"])
    assert "lost: no environment yet" in capsys.readouterr().err


def test_a_second_precision_is_for_the_other_only():
    side = compare.SIDES["hf-flax-float32"]
    assert side.serves(WORKLOADS["smoke-train-bfloat16"], "cpu")
    assert not side.serves(WORKLOADS["smoke-train-float32"], "cpu")


def test_what_is_compared_by_default_on_a_gpu():
    args = compare.parser().parse_args(["--device", "gpu"])
    assert "torch-flash" in args.sides
    chosen = compare._chosen(args)
    assert {work.name.rpartition("-train-")[0] for work in chosen} == {
        "base-64x128", "base-16x512", "large-16x512",
    }  # fmt: skip
    assert {work.dtype for work in chosen} == {"bfloat16"}
    assert compare.SIDES["torch-flash"].serves(chosen[0], "gpu")
    assert not compare.SIDES["torch-flash"].serves(chosen[0], "cpu")


def test_a_side_that_dies_is_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(compare.SIDES, "broken", compare.SideSpec("benchmarks.no_such_side", {}))
    comparison = Comparison(WORKLOADS["smoke-infer-float32"], ["broken"], "cpu", tmp_path)
    monkeypatch.setattr(comparison, "_prepare", lambda: None)
    assert "no_such_side" in comparison.run(1)["broken"]["error"]


@pytest.mark.parametrize("other", [0.7001, math.nan])
def test_different_losses_stop_the_comparison(tmp_path, other):
    sides = ["jaxbert", "torch-eager"]
    comparison = Comparison(WORKLOADS["smoke-infer-float32"], sides, "cpu", tmp_path)
    comparison.results = {"jaxbert": {"loss": 0.7}, "torch-eager": {"loss": 0.70001}}
    comparison._check_losses()
    comparison.results["torch-eager"]["loss"] = other
    with pytest.raises(Disagreement, match=r"differ by more than 0\.0001"):
        comparison._check_losses()


def test_files_that_cannot_be_made_are_an_error(tmp_path):
    workload = smoke("infer-float32", preset="bert-nonesuch")
    with pytest.raises(SideError, match="bert-nonesuch"):
        Comparison(workload, ["jaxbert"], "cpu", tmp_path).run(1)
