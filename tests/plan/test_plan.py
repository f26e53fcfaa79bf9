"""Plans: counted FLOPs against compiled ones, compiled HLO against what is written in the step."""

import dataclasses
import json
import re
import sys

import jax
import pytest
import tiny_families

from jaxbert import cli
from jaxbert.errors import InputError
from jaxbert.models import BertConfig, Compute, DebertaV2Config
from jaxbert.models.auto import FAMILIES, config_class
from jaxbert.plan import (
    DoesNotFit,
    Plan,
    Topology,
    fastest_meshes,
    largest_batch,
    make_plan,
    smallest_slice,
)
from jaxbert.plan import compile as module
from jaxbert.plan.costs import PARTS, REST
from jaxbert.plan.flops import training_flops
from jaxbert.plan.hardware import CHIPS, Chip, _target, open_topology, parse_topology
from jaxbert.training import TrainConfig

# Full heads, as the kernel wants them; one layer, for compiling is all the time.
SMALL = BertConfig(
    vocab_size=2048,  # so tall a table is looked up in its shards
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=256,
    max_position_embeddings=64,
)
TERA = dict.fromkeys(("float32", "bfloat16"), 1e12)
HERE = Chip("cpu", "this machine", 1e9, TERA, 1e10, 1e9, ("1",), "made up")


def here(devices):
    return Topology(f"cpu:{devices}", HERE, jax.devices()[:devices])


def settings(batch_size=16, **more):
    return TrainConfig(batch_size=batch_size, max_length=32, parallel="mesh", **more)


@pytest.fixture(scope="module")
def on_four():
    return make_plan(SMALL, here(4), settings(mesh="data=2,fsdp=2"), Compute())


def test_flops_are_those_of_the_compiled_step(on_four):
    assert on_four.model_flops == training_flops(SMALL, 16, 32) // 4
    # The last layer asks for one token a row: two of its six products have no sum, and become
    # multiplications.
    no_sum = 2 * (2 * 4 * 2 * 32 * 64)
    assert on_four.flops == on_four.model_flops - no_sum
    assert on_four.waste == pytest.approx(-no_sum / on_four.model_flops)


def test_flops_by_hand():
    """One layer of width 1: 2 tokens, of which the layer computes keys and values only, but 1."""
    one = BertConfig(
        vocab_size=8, hidden_size=1, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=3, num_labels=5,
    )  # fmt: skip
    query_and_output, keys_and_values, attention, feed_forward = 2, 4, 2 * 2, 2 * 3
    layer = query_and_output + keys_and_values + attention + feed_forward
    pooler_and_classifier = 1 + 5
    assert training_flops(one, 1, 2) == 3 * 2 * (layer + pooler_and_classifier)


def test_flops_with_distances_by_hand():
    """The same of DeBERTa: 2 tokens times 3 distances, and 4 rows of the table, in each term."""
    one = DebertaV2Config(
        vocab_size=8, hidden_size=1, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=3, num_labels=5, position_buckets=2,
    )  # fmt: skip
    layer = 2 + 4 + 2 * 2 + 2 * 3
    assert training_flops(one, 1, 2) == 3 * 2 * (layer + 2 * (2 * 3 + 4) + 1 + 5)


ROWS, LENGTH, WIDTH = 4, 32, SMALL.hidden_size
# Of the last layer's attention, where it is asked for one token a row: products that have no sum.
NO_SUM = -2 * 2 * ROWS * LENGTH * WIDTH
UNREAD = ROWS * (LENGTH - 1)
# What a family's step computes beyond what its model asks for.
BEYOND = dict.fromkeys(FAMILIES, NO_SUM) | {
    # Queries that nobody reads: theirs is one product with the keys and values.
    "modernbert": NO_SUM + 3 * 2 * UNREAD * WIDTH * WIDTH,
    # And their scores and mixing: by distance, the scores of all tokens are made at once.
    "deberta-v2": 3 * (2 * UNREAD * WIDTH * WIDTH + 2 * 2 * UNREAD * LENGTH * WIDTH),
}


# The two that are left out are told apart by nothing that is counted.
@pytest.mark.parametrize("family", sorted(BEYOND.keys() - {"bert", "xlm-roberta"}))
def test_flops_of_every_family_are_those_of_the_compiled_step(family):
    own = tiny_families.OWN.get(family, {}) | dict(num_hidden_layers=2, vocab_size=64)
    shape = {f.name: getattr(SMALL, f.name) for f in dataclasses.fields(SMALL)} | own
    known = {field.name for field in dataclasses.fields(config_class(family))}
    shape |= {"max_position_embeddings": LENGTH + 4}
    config = config_class(family)(**{k: v for k, v in shape.items() if k in known})
    if family == "modernbert":
        config = dataclasses.replace(config, classifier_pooling="cls")
    plan = make_plan(config, here(1), settings(ROWS), Compute())
    assert plan.model_flops == training_flops(config, ROWS, LENGTH)
    assert plan.flops == plan.model_flops + BEYOND[family]


def test_memory_is_that_of_the_arrays(on_four):
    shapes = {"matrices": 0, "vectors": 0}
    for leaf in jax.tree.leaves(module._step(*_step_of(4))[1].params):
        shapes["matrices" if leaf.ndim > 1 else "vectors"] += leaf.size * 4
    assert on_four.params == shapes["matrices"] // 2 + shapes["vectors"]
    assert 2 * on_four.params < on_four.optimizer_state < 2.01 * on_four.params
    assert on_four.peak > on_four.params + on_four.optimizer_state + on_four.activations
    assert on_four.fits == (on_four.peak <= 1e9)


def _step_of(devices):
    engine = module.make_engine("mesh", "data=2,fsdp=2", jax.devices()[:devices])
    return SMALL, module.Compute(), settings(), engine


def test_what_is_sent_is_what_the_mesh_must(on_four):
    params = module._step(*_step_of(4))[1].params
    matrices = sum(leaf.size * 4 for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    # But the table of words: of it the indices go to all, and each gets its rows.
    matrices -= SMALL.vocab_size * SMALL.hidden_size * 4
    words = on_four.batch_size * LENGTH // 2
    gathered = matrices + words * 4
    assert on_four.sent["all-gather"]["bytes"] == gathered
    assert on_four.sent["reduce-scatter"]["bytes"] == matrices
    # There and, of gradients, back.
    looked_up = on_four.sent["all-to-all"]
    assert (looked_up["count"], looked_up["bytes"]) == (2, 2 * words // 2 * SMALL.hidden_size * 4)
    assert on_four.sent["all-gather"]["seconds"] == pytest.approx(gathered * (1 / 2) / HERE.link)
    assert set(on_four.sent) == {"all-gather", "reduce-scatter", "all-reduce", "all-to-all"}


def test_the_model_is_a_roofline_where_the_compiler_says_nothing(on_four):
    sending = sum(sent["seconds"] for sent in on_four.sent.values())
    working = sum(cost.seconds for cost in on_four.parts.values())
    assert 0 <= on_four.hidden_seconds < sending
    # What is sent is read and written too, in the time that it takes to send.
    moving = on_four.hbm_bytes / HERE.bandwidth
    assert on_four.modelled_seconds == pytest.approx(max(working + sending, moving))
    assert working == sum(cost.roofline_seconds for cost in on_four.parts.values())
    assert working > max(on_four.flops / 1e12, 0.8 * moving)
    assert on_four.bounds == {"products": on_four.flops / 1e12}
    possible = on_four.modelled_seconds * 1e12
    assert on_four.utilisation == pytest.approx(on_four.model_flops / possible)


def test_every_part_of_the_model_is_there(on_four):
    assert set(PARTS) - {REST} <= set(on_four.parts)
    assert sum(cost.flops for cost in on_four.parts.values()) == on_four.flops
    assert on_four.vmem_bytes == 0
    # Of a layer's six kernels four are attention's, but two are twice as large.
    layers = on_four.parts["attention"].flops, on_four.parts["feed-forward"].flops
    assert layers[0] > layers[1] > 0


def test_accumulation_counts_every_part(on_four):
    """The same products in two parts, the parameters read twice, and as much sent, once."""
    parts = make_plan(SMALL, here(4), settings(mesh="data=2,fsdp=2", accumulation=2), Compute())
    assert parts.accumulation == 2
    assert parts.model_flops == on_four.model_flops
    assert parts.flops == on_four.flops
    assert parts.hbm_bytes > on_four.hbm_bytes
    for field in ("count", "bytes"):
        assert parts.sent["reduce-scatter"][field] == on_four.sent["reduce-scatter"][field]


def test_what_cannot_be_planned():
    with pytest.raises(ValueError, match="batch_size=6 does not divide by 4"):
        make_plan(SMALL, here(4), settings(6))
    with pytest.raises(ValueError, match="batch_size=4 does not divide by 8"):
        make_plan(SMALL, here(4), settings(4, accumulation=2))
    with pytest.raises(ValueError, match="dtype='float16': this machine can be planned for in"):
        make_plan(SMALL, here(1), settings(), Compute(dtype="float16"))
    with pytest.raises(ValueError, match="max_length=128 is more than the model's 64"):
        make_plan(SMALL, here(1), TrainConfig(max_length=128))


BAD = ("v9:2x2", "v5e", "v5e:", "v5e:2", "v5e:0x4", "v5p:2x2", "h100:2x4", "h100:x")


@pytest.mark.parametrize("name", BAD)
def test_topologies_that_cannot_be(name):
    with pytest.raises(ValueError, match="topology="):
        parse_topology(name)


def test_topologies():
    assert parse_topology("v5e:2x4") == (CHIPS["v5e"], "2x4", 8)
    assert parse_topology("v5p:2x2x4")[2] == 16
    assert parse_topology("h100:8")[2] == 8
    for chip in CHIPS.values():
        counts = [parse_topology(f"{k}:{s}")[2] for k, c in CHIPS.items() if c is chip
                  for s in chip.slices]  # fmt: skip
        assert counts == sorted(counts)
    assert 'device_description_str: "NVIDIA H100 80GB HBM3"' in _target(CHIPS["h100"])


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x4", "tpu"), ("h100:8", "cuda12")])
def test_missing_packages_are_named(monkeypatch, name, extra):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'jaxbert\[{extra}\]'"):
        open_topology(name)


@dataclasses.dataclass
class Fake:
    batch_size: int
    peak: float
    memory: float = 1000.0
    topology: str = ""
    modelled_seconds: float = 1.0

    @property
    def fits(self):
        return self.peak <= self.memory


@pytest.mark.parametrize(
    "peak",
    [
        lambda n: 100 + 3 * n,
        lambda n: 1 * n,
        lambda n: 100 + 3.3 * n - 0.001 * n * n,
        lambda n: 100 + 0.01 * n * n,
    ],
    ids=["line", "exact", "bent", "steep"],
)
def test_the_largest_batch(peak):
    asked = []

    def plan(n):
        asked.append(n)
        if peak(n) > 2000:
            raise DoesNotFit("compiler")
        return Fake(n, peak(n))

    found = largest_batch(plan, 8).batch_size
    largest = max(n for n in range(8, 2000, 8) if peak(n) <= 1000)
    assert largest * 15 / 16 - 8 <= found <= largest
    assert len(asked) <= 9


def test_nothing_fits():
    with pytest.raises(DoesNotFit, match=r"2\.0 GB of 1 GB"):
        largest_batch(lambda n: Fake(n, 2e9, 1e9), 8)
    with pytest.raises(DoesNotFit, match=r"a batch of 4 fits none of v5e:1x1, v5e:2x2$"):
        smallest_slice(lambda name: Fake(4, 2000), "v5e", 4)


def test_the_smallest_slice():
    def plan(name):
        return Fake(8, 4000 / parse_topology(name)[2], topology=name)

    assert smallest_slice(plan, "v5e", 8).topology == "v5e:2x2"
    # Eight rows in two parts divide over four devices, four over two.
    with pytest.raises(DoesNotFit, match=r"v5e:1x1, v5e:2x2$"):
        smallest_slice(lambda name: Fake(8, 2000), "v5e", 8, accumulation=2)


def test_the_fastest_mesh_of_those_that_hold_the_batch():
    asked = []

    def plan(mesh):
        asked.append(mesh)
        fsdp = int(mesh.rpartition("=")[2])
        if fsdp == 2:
            raise DoesNotFit("compiler")
        return Fake(8, 4000 / fsdp, topology=mesh, modelled_seconds={1: 0.1, 4: 0.3, 8: 0.2}[fsdp])

    # One device's share is too large where nothing is split.
    assert [p.topology for p in fastest_meshes(plan, 8)] == ["data=1,fsdp=8", "data=2,fsdp=4"]
    assert asked == ["data=8,fsdp=1", "data=4,fsdp=2", "data=2,fsdp=4", "data=1,fsdp=8"]
    with pytest.raises(DoesNotFit, match="compiler"):
        fastest_meshes(lambda mesh: plan("fsdp=2"), 6)


def test_the_command(monkeypatch, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_hf()))
    monkeypatch.setattr("jaxbert.plan.open_topology", lambda name: here(8))
    lines = tmp_path / "plans.jsonl"
    words = ["plan", "--topology", "v5e:2x4", "--model", str(tmp_path), "--batch-size", "16"]
    words += ["--max-length", "32", "--dtype", "float32", "--mesh", "data=8"]
    assert cli.main([*words, "--json", str(lines)]) == 0
    out = capsys.readouterr().out
    for wanted in ("16 x 32 tokens", "-0.0% of what the model asks for", ": fits", "all-reduce"):
        assert wanted in out
    # Every time says what it is.
    kinds = ("a bound", "modelled", "of it", "measured")
    times = [line for line in out.splitlines() if re.search(r"\d m?s\b", line)]
    assert len(times) >= 4
    assert all(any(kind in line for kind in kinds) for line in times)
    assert "at most" not in out
    assert re.search(r"^  +feed-forward +[\d.]+ +[\d.]+ +[\d.]+ ", out, re.MULTILINE)
    (line,) = map(json.loads, lines.read_text().splitlines())
    assert line["fits"]
    assert line["mesh"] == "data=8"
    assert line["axes"] == {"data": 8, "fsdp": 1}
    assert line["parts"]["attention"]["flops"] > 0
    assert cli.main([*words, "--batch-size", "9"]) == InputError.status
    assert "nearest sizes" in capsys.readouterr().err


MADE_UP = Plan(
    topology="v5e:2x4", mesh={}, batch_size=1, max_length=32, segments=1, accumulation=1,
    dtype="bfloat16", params=1, optimizer_state=1, activations=1, peak=1, memory=1000, flops=1,
    model_flops=1, hbm_bytes=1, vmem_bytes=1, sent={}, hidden_seconds=0, bounds={},
    modelled_seconds=1, utilisation=1, parts={}, kernels={}, launches=1, compile_seconds=1,
)  # fmt: skip


def test_the_command_searches_meshes_batches_and_slices(monkeypatch, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_hf()))
    asked = []

    def plan(config, topology, training, compute):
        asked.append((topology, training.mesh, training.batch_size))
        sizes = dict(pair.split("=") for pair in training.mesh.split(","))
        fsdp = int(sizes["fsdp"])
        # As if a larger batch than 32 did not fit, and fsdp=2 were the fastest.
        return dataclasses.replace(
            MADE_UP,
            mesh={"data": 8 // fsdp, "fsdp": fsdp},
            batch_size=training.batch_size,
            peak=1000 * training.batch_size // 32,
            modelled_seconds=abs(fsdp - 2.5),
        )

    monkeypatch.setattr("jaxbert.plan.open_topology", lambda name: name)
    monkeypatch.setattr("jaxbert.plan.make_plan", plan)
    words = ["plan", "--topology", "v5e:2x4", "--model", str(tmp_path), "--batch-size", "16"]
    assert cli.main([*words, "--max-length", "32", "--search"]) == 0
    out = capsys.readouterr().out
    assert [mesh for _, mesh, _ in asked[:4]] == [
        "data=8,fsdp=1", "data=4,fsdp=2", "data=2,fsdp=4", "data=1,fsdp=8",
    ]  # fmt: skip
    assert out.index("fastest mesh:") < out.index("(data 4, fsdp 2)") < out.index("slower")
    largest = out[out.index("largest batch:") : out.index("smallest slice:")]
    assert "32 x 32 tokens" in largest
    assert "(data 4, fsdp 2)" in largest
    assert {mesh for topology, mesh, size in asked if size > 16} == {"data=4,fsdp=2"}
    asked.clear()
    assert cli.main([*words, "--max-length", "32", "--search", "--mesh", "data=2,fsdp=4"]) == 0
    assert asked[0] == ("v5e:2x4", "data=2,fsdp=4", 8)  # a mesh that is given is not searched


@pytest.mark.skipif(sys.platform != "linux", reason="libtpu is for Linux")
def test_a_tpu_computes_attention_in_the_kernel():
    one = dataclasses.replace(SMALL, num_hidden_layers=2)
    plan = make_plan(one, open_topology("v5e:2x4"), settings(mesh="fsdp=8"))
    # The first layer's, forward and backward; the last computes single tokens.
    assert plan.kernels == {"tpu_custom_call": 2}
    assert 0 <= plan.waste < 0.1
    kinds = {"all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute"}
    assert set(plan.sent) <= kinds
    assert plan.fits
    # Its compiler puts arrays on the chip, and says how long most operations take.
    assert plan.vmem_bytes > 0
    assert set(PARTS) - {REST} <= set(plan.parts)
    modelled = sum(cost.seconds - cost.roofline_seconds for cost in plan.parts.values())
    kernels = plan.parts["attention"].roofline_seconds
    assert modelled > 10 * kernels > 0
    assert max(plan.bounds.values()) < plan.modelled_seconds < 1e-2
    assert set(plan.bounds) == {"products", "memory", "links"}
