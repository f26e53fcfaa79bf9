"""Peers: whether a step is jaxbert's, what is counted of one that came as a file, the tables."""

import dataclasses
import json
import shutil
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from benchmarks import peer_program, peer_sides, peer_tables, peers
from benchmarks.compare import SideSpec
from benchmarks.jax_side import PaddedJaxSide
from benchmarks.side_jaxbert import JaxbertSide
from benchmarks.side_torch import TorchSide
from benchmarks.workload import WORKLOADS, prepare
from jaxbert.data import Batches, load_demo, load_tokenizer, tokenize
from jaxbert.data.packing import bucket, fit
from jaxbert.models import BertConfig
from jaxbert.plan import Topology
from jaxbert.plan.flops import training_flops
from jaxbert.plan.hardware import Chip
from jaxbert.tasks import load_examples

SMOKE = dataclasses.replace(WORKLOADS["smoke-ragged-float32"], padding="padded", dropout=0.0)
TERA = dict.fromkeys(("float32", "bfloat16"), 1e12)
HERE = Topology(
    "cpu:8", Chip("cpu", "this machine", 1e9, TERA, 1e10, 1e9, ("1",), "made up"), jax.devices()[:8]
)
CLIP, BETA1 = 0.01, 0.9


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A prepared workload, whose clipping shows, and the tensors of its checkpoint."""
    directory = tmp_path_factory.mktemp("peers")
    prepare(SMOKE, directory)
    path = directory / "optimizer.json"
    settings = json.loads(path.read_text()) | {"clip_norm": CLIP, "beta1": BETA1}
    path.write_text(json.dumps(settings))
    addresses = directory / "addresses"
    shutil.copytree(directory, addresses)
    sizes = peer_sides.write_addresses(addresses / "model" / "model.safetensors")
    return directory, addresses, sizes


def test_addresses_count_the_numbers_of_a_checkpoint(files):
    directory, addresses, sizes = files
    ours = load_file(directory / "model" / "model.safetensors")
    theirs = load_file(addresses / "model" / "model.safetensors")
    assert {name: array.shape for name, array in ours.items()} == {
        name: array.shape for name, array in theirs.items()
    }
    flat = np.concatenate([theirs[name].ravel() for name in sizes])
    np.testing.assert_array_equal(flat, np.arange(sum(sizes.values())))


@pytest.fixture(scope="module")
def moment(files):
    """jaxbert's, in the checkpoint's order."""
    directory, addresses, _ = files
    file = directory / "moment.npy"
    JaxbertSide(SMOKE, directory, "cpu").first_moment(str(addresses), str(file))
    return np.load(file)


def test_the_first_moment_is_pytorchs_clipped_gradient(files, moment):
    directory, _, sizes = files
    theirs = TorchSide(SMOKE, directory, "cpu", False)
    theirs._forward(**next(iter(theirs.batches()))).loss.backward()
    named = dict(theirs._model.named_parameters())
    norm = torch.nn.utils.clip_grad_norm_(named.values(), CLIP)
    assert norm > 10 * CLIP
    gradient = np.concatenate([named[name].grad.numpy().ravel() for name in sizes])
    assert peer_sides.distance((1 - BETA1) * gradient, moment, sizes) < 1e-4
    assert np.linalg.norm(moment) == pytest.approx((1 - BETA1) * CLIP, rel=1e-4)


def test_every_tensor_must_agree_but_for_rounding_alone(files, moment):
    _, _, sizes = files
    ends = dict(zip(sizes, np.cumsum([*sizes.values()]), strict=True))
    for name, changed in (("bert.pooler.dense.bias", 1.0), ("key.bias", 0.0)):
        other, (last,) = moment.copy(), [end for n, end in ends.items() if n.endswith(name)][:1]
        start = last - sizes[next(n for n in sizes if ends[n] == last)]
        other[start:last] *= 2
        assert peer_sides.distance(other, moment, sizes) == pytest.approx(changed)
    assert peer_sides.distance(np.full_like(moment, np.nan), moment, sizes) == np.inf


def test_weights_that_are_not_the_checkpoints_are_refused(files, monkeypatch):
    directory, addresses, _ = files
    weights = JaxbertSide._weights
    monkeypatch.setattr(JaxbertSide, "_weights", lambda self: weights(self)[1:])
    side = JaxbertSide(SMOKE, directory, "cpu")
    with pytest.raises(ValueError, match="each of them once"):
        side.first_moment(str(addresses), str(directory / "none.npy"))


def test_each_side_is_measured_against_jaxbert(monkeypatch, tmp_path):
    monkeypatch.setitem(peer_sides.SIDES, "twin", peer_sides.SIDES["jaxbert"])
    monkeypatch.setitem(peer_sides.SIDES, "broken", SideSpec("benchmarks.no_such_side", {}))
    twin, broken = peer_sides.agreements(["twin", "broken"], tmp_path)
    assert twin == {"side": "twin", "loss": 0.0, "gradient": 0.0}
    assert peer_sides.is_near(twin)
    assert not peer_sides.is_near(twin | {"gradient": np.nan})
    assert broken.keys() == {"side", "error"}
    assert "no_such_side" in broken["error"]


# --- programs


class Squares(PaddedJaxSide):
    """A side with one matrix [L, 4]; its loss is the mean square of the product with the ids."""

    def __init__(self, workload, directory, device):
        super().__init__(workload, directory)
        self._state = {"w": jnp.ones((workload.length, 4)), "step": 0}

        def update(state, batch):
            ids = batch["input_ids"].astype(jnp.float32)
            loss, gradient = jax.value_and_grad(lambda w: jnp.square(ids @ w).mean())(state["w"])
            return {"w": state["w"] - 0.1 * gradient, "step": state["step"] + 1}, loss

        self._update = jax.jit(update)


def test_a_program_from_a_file_is_counted(files, tmp_path):
    """By hand: 16 rows over 8 devices, a product with [16, 4] and its gradient's."""
    side = Squares(dataclasses.replace(SMOKE, batch=16), files[0], "cpu")
    file = tmp_path / "step"
    versions = side.export("cpu", str(file))
    assert versions["jax"] == jax.__version__
    case = peers.Case("bert-base-uncased", "cpu:8", 16, 16)
    found = peer_program.theirs(case, file, HERE)
    assert found["flops"] == 2 * (2 * 2 * 16 * 4)
    assert 16 * 4 * 4 <= found["sent"]["all-reduce"]["bytes"] <= 16 * 4 * 4 + 4  # and the loss
    assert found["launches"] >= 0
    assert found.keys() >= set(peer_program.KEPT)


def test_jaxberts_own_is_that_of_the_plan_packed_too():
    small = BertConfig(
        vocab_size=64, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=256, max_position_embeddings=64,
    )  # fmt: skip
    found = peer_program.ours(peers.Case("", "cpu:8", 16, 32, segments=4), small, HERE)
    assert found["segments"] == 4
    assert found["model_flops"] == training_flops(small, 16, 32, 4) // 8
    assert found["flops"] == pytest.approx(found["model_flops"], rel=0.02)
    assert found.keys() >= set(peer_program.KEPT)


def test_a_side_that_fails_has_its_error_for_a_row(monkeypatch, tmp_path):
    monkeypatch.setitem(peers.SIDES, "broken", SideSpec("benchmarks.no_such_side", {}))
    row = peers.make_program("broken", peers.FULL[0], tmp_path)
    assert "no_such_side" in row["error"]


def test_a_side_without_its_environment_has_one_line(monkeypatch, capsys):
    monkeypatch.setitem(peers.SIDES, "lost", SideSpec("benchmarks.side_torch", {}, "nowhere"))
    assert peers.main(["--sides", "lost"]) == 1
    said = "lost: no environment yet, make it with: make peer-environments\n"
    assert capsys.readouterr().out == said


def test_the_film_sentences_are_packed_as_the_case_says():
    """Most batches of three epochs have its shape, and most are as long as the others' rows."""
    demo = load_demo()
    examples = load_examples(demo.train, label_column="label")
    tokenized = tokenize(examples, load_tokenizer(demo.model), 128)
    batches = Batches(
        tokenized, peers.SENTENCES, max_length=128, shuffle=True, row_multiple=8, epochs=3
    )
    lengths = [np.diff(tokenized.offsets)[members] for members in batches._members(0)]
    shapes = Counter(fit(found, batches.shapes)[0] for found in lengths)
    assert {tuple(shapes.most_common(1)[0][0])} == {
        (case.batch_size, case.max_length, case.segments) for case in peers.PACKED
    }
    longest = Counter(bucket(int(found.max()), 128) for found in lengths)
    assert longest.most_common(1)[0][0] == peers.LONGEST


# --- tables


def row(side, case, seconds, **more):
    return {
        "what": "program", "side": side, **case._asdict(),
        "mesh": peers.mesh_of(side), "flops": 2_000e9, "model_flops": 1_600e9,
        "hbm_bytes": 8e9 * seconds, "peak": 3e9, "launches": 1234, "modelled_seconds": seconds,
        "roofline_seconds": 0.25, "sent": {"all-reduce": {"bytes": 4e8}}, **more,
    }  # fmt: skip


def test_the_tables_by_hand(monkeypatch):
    full, packed, padded = peers.FULL[0], peers.PACKED[0], peers.PADDED[0]
    versions = {"keras": "3", "keras-hub": "1", "jax": "0.10.2", "torch": "2"}
    rows = [
        row("jaxbert", full, 9.0),  # of these the newer counts
        row("jaxbert", full, 0.5, hidden_seconds=0.1),
        row("keras-hub", full, 1.0, side_versions=versions, hidden_seconds=0.2),
        row("torchax", full, 0.0) | {"error": "no memory / at all"},
        row("jaxbert", full, 9.0) | {"mesh": "data=8"},  # not as the plans divide it
        row("jaxbert", packed, 0.1),
        row("keras-hub", padded, 0.4),
        {"what": "agreement", "side": "keras-hub", "loss": 2e-9, "gradient": 3e-7},
    ]
    planned = {
        "model": full.model, "topology": full.topology, "batch_size": full.batch_size,
        "max_length": full.max_length, "mesh": "fsdp=8", "dtype": "bfloat16", "accumulation": 1,
        "optimizer": "adamw", "attention_dropout": None, "parts": {"a": {"roofline_seconds": 7}},
    }  # fmt: skip
    lines = {"peers": rows, "plans": []}
    monkeypatch.setattr(peers, "read_results", lines.get)
    step = f"| {full.model}, {full.topology}, {full.batch_size} x {full.max_length} |"
    table = peer_tables.peers().splitlines()
    both = "2,000 (+25%) | {} | 3.0 | 0.40 | 1,234 | {} | 250.0 | {} | {} |"
    assert f"{step} jaxbert | {both.format('4.0', '500.0', '', '100.0')}  |  |  |" in table
    theirs = both.format("8.0", "1000.0", "", "200.0")
    assert f"{step} KerasHub | {theirs} 2.00 | 2.00 | 2.00 |" in table
    (failed,) = [line for line in table if "not compiled: no memory" in line]
    assert failed.count("|") == table[0].count("|")
    assert f"Not compiled yet, at least for one: {full.name}, " in table[-1]
    assert packed.name not in table[-1]
    film = peer_tables.film().splitlines()
    assert f"| {full.topology} | jaxbert | 112 x 64 | 0.8 | 100.0 |  |  |  |  |" in film
    assert f"| {full.topology} | KerasHub | 256 x 64 | 3.2 | 400.0 |  | 4.00 | 4.00 |  |" in film
    assert (
        f"| {full.topology} | KerasHub | 256 x 128 | 8.0 | 1000.0 |  | 10.00 | 10.00 |  |" in film
    )
    # Where its kernels' code is counted, that time is compared.
    rows[1]["kernels"] = {"tpu_custom_call": 22}
    monkeypatch.setattr(
        peer_tables, "with_kernels", lambda row, peaks: row["modelled_seconds"] + peaks
    )
    table = peer_tables.peers().splitlines()
    assert f"{step} jaxbert | {both.format('4.0', '500.0', '750.0', '100.0')}  |  |  |" in table
    assert f"{step} KerasHub | {theirs} 2.00 | 1.33 | 1.23 |" in table
    said = "| KerasHub | 2e-09 | 3e-07 | keras-hub 1, keras 3, jax 0.10.2 |"
    assert said in peer_tables.agreement().splitlines()
    # Where jaxbert's step is among the plans, that counts.
    lines["plans"][:] = [planned, planned | {"attention_dropout": 0.0}]
    assert peers.read_programs()[full]["jaxbert"] == planned | {
        "side": "jaxbert",
        "roofline_seconds": 7,
    }
    del rows[:2]  # the third of jaxbert's was never counted
    lines["plans"][:] = [planned | {"attention_dropout": 0.0}, planned | {"scan_layers": True}]
    assert "jaxbert" not in peers.read_programs()[full]
    rows.clear()
    for make in peer_tables.TABLES.values():
        assert "yet: `python -m benchmarks.peers`" in make()
