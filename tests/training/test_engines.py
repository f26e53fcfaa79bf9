"""One training, one evaluation, whatever the engine and the number of devices; on eight of them."""

import re
import threading
import time

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from tolerance import assert_close, assert_losses_alike, assert_trained_alike, network_terms

from jaxbert.cpu import TemporaryBlock
from jaxbert.data import Batches
from jaxbert.models import BertConfig, BertForSequenceClassification, split_model
from jaxbert.optim import OptimizerConfig, RatePlan
from jaxbert.tasks import TEXT_CLASSIFICATION
from jaxbert.training.embedding import embed
from jaxbert.training.engines import Compiled, Engine, make_engine
from jaxbert.training.predictor import run_batches
from jaxbert.training.step import init_state, make_eval_step, make_train_step

STEPS, BATCH = 20, 8
# One layer: compiling is nearly all the time, and a second is the same again. So many words that
# their table is one that a mesh looks up in its shards.
SHAPE = tiny.SHAPE | {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64,
                      "vocab_size": 600}  # fmt: skip
OPTIMIZERS = {
    "sgd": OptimizerConfig(optimizer="sgd", learning_rate=0.03, schedule="constant"),
    "adamw": OptimizerConfig(learning_rate=1e-3, schedule="constant"),
}
TERMS, TERMS_BACK = (network_terms(BertConfig(**SHAPE), 16, back) for back in (False, True))
MESHES = ("data=8,fsdp=1", "data=4,fsdp=2", "data=1,fsdp=8")
ENGINES = [("pmap", 2), ("pmap", 4), ("pmap", 8), *(("mesh", mesh) for mesh in MESHES)]


def engine(name="jit", what=None):
    if name == "pmap":
        return make_engine(name, devices=jax.devices()[:what])
    return make_engine(name, what)


@pytest.fixture(scope="module")
def network():
    rates = dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    config = BertConfig(**SHAPE, **rates, num_labels=2)
    return split_model(BertForSequenceClassification(config, rngs=nnx.Rngs(0)))


_compiled = {}  # tests share what compiles to the same


def start(network, optimizer, chosen, accumulation=1):
    """(the compiled step, the state before the first)."""
    graphdef, params = network
    plan = RatePlan.make(optimizer, params, STEPS, 2)
    step = make_train_step(
        graphdef, plan, TEXT_CLASSIFICATION, accumulation=accumulation, shard=chosen.shard
    )
    state = init_state(jax.tree.map(jax.numpy.copy, params), plan.optimizer, 3)
    compiled = Compiled(step, chosen, donate=True)
    key = (optimizer, str(chosen.sharding((8, 8))), accumulation)
    return _compiled.setdefault(key, compiled), chosen.put_state(state)


def batches(tokenized, rows, layout="packed"):
    """Of 8 and 5 examples, so that the last of each epoch is filled up."""
    return Batches(
        tokenized, BATCH, max_length=16, layout=layout, shuffle=True, seed=1, row_multiple=rows
    )


def train(network, tokenized, optimizer, chosen, *, accumulation=1, layout="packed", steps=STEPS):
    """(losses [T], counts [T], parameters {path: array})."""
    step, state = start(network, optimizer, chosen, accumulation)
    data = batches(tokenized, chosen.parts * accumulation, layout)
    losses, counts = [], []
    while len(losses) < steps:
        for batch in data.epoch(len(losses) // 2):
            state, values = step(state, chosen.put_batch(batch))
            losses.append(float(values["loss"]))
            counts.append(float(values["count"]))
    assert int(state.step) == steps
    return np.array(losses), counts, tiny.leaves(chosen.gather(state.params))


@pytest.fixture(scope="module")
def alone(network, tokenized):
    """The runs on one device."""
    return {n: train(network, tokenized, o, engine()) for n, o in OPTIMIZERS.items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("name", "what"), ENGINES, ids=lambda value: str(value))
def test_engines_train_alike(network, tokenized, alone, optimizer, name, what):
    losses, counts, params = alone[optimizer]
    found = train(network, tokenized, OPTIMIZERS[optimizer], engine(name, what))
    assert found[1] == counts == [8, 5] * (STEPS // 2)
    rate = OPTIMIZERS[optimizer].learning_rate if optimizer == "adamw" else None
    assert_losses_alike(found[0], losses, terms=TERMS_BACK, adam=rate is not None)
    before = tiny.leaves(network[1])
    assert_trained_alike(found[2], params, before, terms=TERMS_BACK, steps=STEPS, adam_rate=rate)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(("name", "what"), [("pmap", 4), ("mesh", "data=2,fsdp=4")])
def test_with_accumulation_too(network, tokenized, alone, name, what, layout):
    chosen = engine(name, what)
    settings = dict(accumulation=8 // chosen.parts, layout=layout, steps=4)
    losses, _, _ = train(network, tokenized, OPTIMIZERS["sgd"], chosen, **settings)
    assert_losses_alike(losses, alone["sgd"][0][:4], terms=TERMS_BACK)


@pytest.mark.parametrize(("name", "what"), [("jit", None), ("pmap", 4), ("mesh", MESHES[1])])
def test_evaluation_counts_each_example_once(network, tokenized, name, what):
    graphdef, params = network
    chosen = engine(name, what)
    step = make_eval_step(graphdef, TEXT_CLASSIFICATION, shard=chosen.shard)
    data = Batches(tokenized, 5, max_length=16, row_multiple=chosen.parts)
    found, loss = run_batches(Compiled(step, chosen), chosen.put_state(params), data)
    model = jax.jit(make_eval_step(graphdef, TEXT_CLASSIFICATION))
    (batch,) = Batches(tokenized, 13, max_length=16, layout="padded").epoch(0)
    whole = model(params, engine().put_batch(batch))
    assert_close(found["logits"], whole["results"]["logits"][:, 0], terms=TERMS)
    assert_close(loss, float(whole["loss_sum"]) / 13, terms=TERMS)


@pytest.mark.parametrize(("name", "mesh"), [("pmap", None), ("mesh", "fsdp=2")])
def test_embeddings_come_in_the_order_of_the_texts(tokenizer, name, mesh):
    settings = dict(max_length=16, batch_size=5)
    model = tiny.encoder()
    alone = embed(model, tokenizer, tiny.TEXTS, **settings)
    found = embed(model, tokenizer, tiny.TEXTS, parallel=name, mesh=mesh, **settings)
    assert_close(found, alone, terms=network_terms(model.config, 16))


def compiled_on(network, tokenized, mesh):
    """The program of a training step with AdamW."""
    chosen = engine("mesh", mesh)
    step, state = start(network, OPTIMIZERS["adamw"], chosen)
    step(state, chosen.put_batch(next(batches(tokenized, chosen.parts).epoch(0))))
    ((program, _),) = step.programs.values()
    return program


COLLECTIVE = re.compile(
    r"= (\S+|\(.*?\)) (all-to-all|all-\w+|reduce-scatter|collective-\w+)(?:-start)?\("
)


def collectives(program):
    """{operation: sizes of its results, largest first} of the compiled step."""
    found = {}
    for shapes, operation in COLLECTIVE.findall(program.as_text()):
        sizes = [np.prod([int(n) for n in shape.split(",") if n]) for shape in
                 re.findall(r"\[([\d,]*)\]", shapes)]  # fmt: skip
        found[operation] = sorted([*found.get(operation, []), *map(int, sizes)], reverse=True)
    return found


def test_a_mesh_sends_what_it_must_and_no_more(network, tokenized):
    matrices = sorted((p.size for p in jax.tree.leaves(network[1]) if p.ndim > 1), reverse=True)
    vectors = sorted(p.size for p in jax.tree.leaves(network[1]) if p.ndim == 1)
    sums = 100  # at most, of single numbers: the loss, its count, squares for the norms

    def sent(mesh):
        return collectives(compiled_on(network, tokenized, mesh))

    data = sent("data=8,fsdp=1")
    assert set(data) == {"all-reduce"}
    assert [n for n in data["all-reduce"] if n > 1] == sorted(matrices + vectors, reverse=True)
    for mesh, parts in (("data=4,fsdp=2", 2), ("data=1,fsdp=8", 8)):
        found = sent(mesh)
        assert set(found) == {"all-gather", "all-to-all", "reduce-scatter", "all-reduce"}
        # Of the table nobody sends more than indices of words, and what is looked up of them.
        tokens = (BATCH // 8) * parts * 16
        own = [n // parts for n in matrices]
        assert found["all-gather"] == sorted([*matrices[1:], tokens], reverse=True)
        assert found["reduce-scatter"] == own[1:]
        between = [n for n in found["all-reduce"] if n > 1]
        assert between == sorted(vectors + (own if parts < 8 else []), reverse=True)
        assert len(found["all-reduce"]) - len(between) < sums


def test_memory_falls_with_fsdp(network, tokenized):
    """Of parameters and of both moments, a device holds one part in `fsdp`."""
    matrices = sum(leaf.nbytes for leaf in jax.tree.leaves(network[1]) if leaf.ndim > 1)
    held = {}
    for mesh, parts in zip(MESHES, (1, 2, 8), strict=True):
        program = compiled_on(network, tokenized, mesh)
        held[parts] = program.memory_analysis().argument_size_in_bytes
    assert held[1] - held[2] == 3 * (matrices - matrices // 2)
    assert held[1] - held[8] == 3 * (matrices - matrices // 8)


def test_batches_that_do_not_divide_are_refused():
    eight = engine("pmap", 8)
    eight.check(16, 2)
    with pytest.raises(ValueError, match=r"batch_size=30 does not divide by 16 .*are 16 and 32"):
        eight.check(30, 2)
    with pytest.raises(ValueError, match=r"batch_size=5 .* are 8 and 16"):
        eight.check(5, 1)


AXES = {None: (1, 8), "data=2": (2, 4), "fsdp=2": (4, 2)}


@pytest.mark.parametrize(("text", "sizes"), AXES.items())
def test_axes_that_are_left_out_take_the_devices_that_remain(text, sizes):
    assert tuple(engine("mesh", text).mesh.shape.values()) == sizes


BAD_ENGINES = {
    "name": (("tpu", None), "parallel='tpu' must be one of jit, pmap, mesh"),
    "mesh without": (("pmap", "data=8"), "mesh='data=8' is for parallel='mesh'"),
    "too few": (("mesh", "data=2,fsdp=2"), "data=2 times fsdp=2 is 4, there are 8 devices"),
    "does not divide": (("mesh", "fsdp=3"), "data=2 times fsdp=3 is 6, there are 8 devices"),
    "axis": (("mesh", "tensor=8"), "mesh='tensor=8': want data=N,fsdp=M"),
    "number": (("mesh", "data=x"), "want data=N"),
    "twice": (("mesh", "data=8,data=1"), "want data=N"),
}


@pytest.mark.parametrize(("what", "message"), BAD_ENGINES.values(), ids=BAD_ENGINES)
def test_engines_that_cannot_be(what, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_engine(*what)


def test_an_engine_knows_its_platform_from_its_devices():
    class Chip:
        platform = "cuda"

    class Elsewhere(Engine):
        sharding = gather = shard = compile = _put_rows = None

    assert {engine(*what).platform for what in (("jit",), ("pmap", 2), ("mesh",))} == {"cpu"}
    assert Elsewhere([Chip()], None).platform == "gpu"


def test_an_engine_that_lacks_something_cannot_be_made():
    class Half(Engine):
        def sharding(self, shape):
            return self.rows

    for abstract in (Engine, Half):
        with pytest.raises(TypeError, match="abstract"):
            abstract(jax.devices()[:1], None)


@pytest.mark.parametrize("name", ["jit", "pmap", "mesh"])
def test_the_host_keeps_which_example_is_which(tokenized, name):
    chosen = engine(name, 8 if name == "pmap" else None)
    batch = next(batches(tokenized, 8).epoch(0))
    arrays = chosen.put_batch(batch)
    assert set(arrays) == set(batch) - {"example_ids"}
    for key, rows in arrays.items():
        np.testing.assert_array_equal(np.asarray(rows).reshape(batch[key].shape), batch[key])


@pytest.mark.parametrize(("name", "what"), [("jit", None), ("pmap", 4), ("mesh", "fsdp=8")])
def test_what_is_put_is_gathered(name, what):
    chosen = engine(name, what)
    tree = {"matrix": np.arange(64.0, dtype=np.float32).reshape(8, 8), "step": np.int32(3)}
    placed = chosen.put_state(tree)
    assert placed["matrix"].sharding == chosen.sharding((8, 8))
    assert chosen.put_state(placed)["matrix"] is placed["matrix"]
    tiny.assert_equal(chosen.gather(placed), tree)


def test_idle_devices_are_named(caplog):
    caplog.set_level("INFO", "jaxbert")
    engine("mesh").log_idle_devices()
    assert not caplog.records
    engine().log_idle_devices()
    assert "1 of 8 devices are used" in caplog.text


def test_steps_that_are_the_same_compile_once():
    programs = {}
    batch = {"input_ids": np.ones((2, 3), np.int32)}
    first, second = (
        Compiled(lambda state, batch: state + batch["input_ids"].sum(), programs=programs)
        for _ in range(2)
    )
    assert int(first(np.int32(1), batch)) == int(second(np.int32(1), batch)) == 7
    assert first.seconds > 0
    assert second.seconds == 0
    assert first.shapes == second.shapes == [(2, 3)]
    assert Compiled(lambda state, batch: state).programs == {}


@pytest.mark.parametrize(("platform", "waits"), [("cpu", True), ("gpu", False), ("tpu", False)])
def test_only_on_cpus_a_call_waits_for_the_one_before(monkeypatch, platform, waits):
    reused = []
    monkeypatch.setattr(TemporaryBlock, "reuse", lambda self: reused.append(self._size))
    chosen = engine()
    chosen.platform = platform
    step = Compiled(lambda state, batch: state + batch["input_ids"].sum(), chosen)
    step(np.int32(1), {"input_ids": np.ones((2, 3), np.int32)})
    assert bool(reused) is waits


def test_a_program_that_is_prepared_is_waited_for_and_compiled_once(monkeypatch):
    made = []
    compile_one = Compiled._compile
    monkeypatch.setattr(
        Compiled, "_compile", lambda self, *args: made.append(args) or compile_one(self, *args)
    )
    step = Compiled(lambda state, batch: state + batch["input_ids"].sum())
    batches = [{"input_ids": np.ones((rows, 3), np.int32)} for rows in (2, 4, 5)]
    for batch in [*batches, *batches[:2]]:
        step.prepare(np.int32(1), batch)
    assert [int(step(np.int32(1), batch)) for batch in batches] == [7, 13, 16]
    assert len(made) == 3
    assert step.shapes == [(2, 3), (4, 3), (5, 3)]


def test_what_is_prepared_and_not_begun_can_be_forgotten(monkeypatch):
    begin = threading.Event()
    monkeypatch.setattr(Compiled, "_compile", lambda self, *args: begin.wait())
    step = Compiled(lambda state, batch: state)
    for rows in (1, 2):
        step.prepare(np.int32(1), {"input_ids": np.ones((rows, 3), np.int32)})
    first, second = step._coming.values()
    while not first.running():
        time.sleep(0.001)
    step.forget()
    begin.set()
    assert second.cancelled()
    assert first.result()


def test_a_failure_to_compile_is_told_to_the_call_that_wants_it():
    step = Compiled(lambda state, batch: state + batch["labels"])
    batch = {"input_ids": np.ones((2, 3), np.int32)}
    step.prepare(np.int32(1), batch)
    with pytest.raises(KeyError, match="labels"):
        step(np.int32(1), batch)
