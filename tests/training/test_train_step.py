"""The step computes one thing however the batch is laid out, split up, or masked by dropout."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from tolerance import assert_close, assert_gradients_close, network_terms

from jaxbert.data import Batches, Tokenized
from jaxbert.models import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    Compute,
    split_model,
)
from jaxbert.optim import OptimizerConfig, RatePlan
from jaxbert.optim.layers import leaf_paths
from jaxbert.tasks import TEXT_CLASSIFICATION
from jaxbert.tasks.losses import token_classification
from jaxbert.training import step as module
from jaxbert.training.step import (
    _means,
    global_norm,
    init_state,
    make_eval_step,
    make_train_step,
)

BATCH = 8
RATES = (0.0, 0.3)


def network(rate, cls=BertForSequenceClassification, **config):
    shape = tiny.SHAPE | {"num_hidden_layers": 1}  # compiles in half the time of two
    config = BertConfig(
        **shape, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, **config
    )
    return split_model(cls(config, rngs=nnx.Rngs(0)))


TOKENS = dataclasses.replace(
    TEXT_CLASSIFICATION,
    loss=lambda outputs, batch, smoothing: token_classification(outputs.logits, batch["labels"]),
)


def one_step(split, tokenized, layout, *, parts=1, task=TEXT_CLASSIFICATION, optimizer=tiny.PLAIN):
    """(loss, count, gradient norm, parameters before minus after, new state) of the first batch."""
    graphdef, params = split
    plan = RatePlan.make(optimizer, params, 10, 2)
    step = make_train_step(graphdef, plan, task, accumulation=parts)
    batches = Batches(tokenized, BATCH, max_length=16, layout=layout, row_multiple=parts)
    batch = next(batches.epoch(0))
    if layout == "packed":
        assert batch["segment_starts"].shape[1] > 1  # rows are shared
    batch.pop("example_ids")
    state, values = jax.jit(step)(init_state(params, plan.optimizer, 3), batch)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), params, state.params)
    return float(values["loss"]), float(values["count"]), float(values["grad_norm"]), moved, state


def assert_same_step(first, second):
    """The gradient is what a step of plain SGD took off parameters near 1, rounded as they are."""
    config = BertConfig(**tiny.SHAPE | {"num_hidden_layers": 1})
    terms = network_terms(config, 16, gradient=True)
    assert first[1] == second[1]
    for i, what in ((0, "loss"), (2, "gradient norm")):
        assert_close(first[i], second[i], terms=terms, what=what)
    a, b = tiny.leaves(first[3]), tiny.leaves(second[3])
    assert max(np.abs(x).max() for x in a.values()) > 0.01  # there is a gradient to compare
    assert_gradients_close(a, b, terms=terms, floor=1.0)


@pytest.fixture(scope="module")
def padded(tokenized):
    """The reference for each dropout rate: padded rows, in one part."""
    return {rate: one_step(network(rate), tokenized, "padded") for rate in RATES}


# With dropout a wrong mask shows as well as a wrong sum; without it only the sums are left.
@pytest.mark.parametrize(
    ("rate", "layout", "parts"),
    [
        (0.3, "packed", 1),
        (0.3, "bucketed", 1),
        (0.3, "padded", 4),
        (0.3, "packed", 3),
        (0.0, "packed", 1),
        (0.0, "padded", 2),
    ],
)
def test_layout_and_accumulation_change_nothing(tokenized, padded, rate, layout, parts):
    assert_same_step(one_step(network(rate), tokenized, layout, parts=parts), padded[rate])


def test_dropout_does_something_and_changes_with_the_step(tokenized, padded):
    assert abs(padded[0.3][0] - padded[0.0][0]) > 1e-3
    graphdef, params = network(0.3)
    still = OptimizerConfig(**(vars(tiny.PLAIN) | {"learning_rate": 1e-30}))
    plan = RatePlan.make(still, params, 10, 2)
    step = make_train_step(graphdef, plan, TEXT_CLASSIFICATION)
    batch = next(Batches(tokenized, BATCH, max_length=16).epoch(0))
    batch.pop("example_ids")
    step = jax.jit(step)
    state, first = step(init_state(params, plan.optimizer, 3), batch)
    _, second = step(state, batch)
    _, other_seed = step(init_state(params, plan.optimizer, 4), batch)
    _, again = step(init_state(params, plan.optimizer, 3), batch)
    assert (int(state.step), int(state.seed)) == (1, 3)
    losses = [float(v["loss"]) for v in (first, second, other_seed)]
    assert len(set(losses)) == 3
    assert float(again["loss"]) == losses[0]


def test_norms_of_the_parts_make_the_whole(tokenized):
    graphdef, params = network(0.0)
    optimizer = OptimizerConfig(**(vars(tiny.PLAIN) | {"frozen": ["embeddings"]}))
    plan = RatePlan.make(optimizer, params, 10, 2)
    step = jax.jit(make_train_step(graphdef, plan, TEXT_CLASSIFICATION))
    batch = next(Batches(tokenized, BATCH, max_length=16).epoch(0))
    batch.pop("example_ids")
    before = init_state(params, plan.optimizer, 0)
    rates = {"embeddings": 0.0, "layer_0": 0.0, "pooler": 1.0, "head": 2.0}
    state, values = step(before, batch, rates)
    norms = {label: float(norm) for label, norm in values["grad_norms"].items()}
    assert list(norms) == ["head", "layer_0", "pooler"]  # the frozen have none
    whole = np.sqrt(sum(norm**2 for norm in norms.values()))
    assert float(values["grad_norm"]) == pytest.approx(whole, rel=1e-6)
    # Plain SGD: what a group moves by is its rate times its gradient.
    for label, name in [("layer_0", "encoder/l"), ("pooler", "encoder/p"), ("head", "head")]:
        moved = [
            np.square(leaf - tiny.leaves(state.params)[path]).sum()
            for path, leaf in tiny.leaves(params).items()
            if path.startswith(name)
        ]
        assert np.sqrt(sum(moved)) == pytest.approx(rates[label] * norms[label], rel=1e-4)


def test_token_tasks_too(tokenized):
    labels = (tokenized.input_ids % 3).astype(np.int32)
    labels[tokenized.offsets[:-1]] = -100
    data = Tokenized(
        tokenized.input_ids, tokenized.token_type_ids, tokenized.offsets, labels, "token"
    )
    split = network(0.3, BertForTokenClassification, num_labels=3)
    results = [
        one_step(split, data, layout, parts=parts, task=TOKENS)
        for layout, parts in (("padded", 1), ("packed", 2))
    ]
    ends = tokenized.offsets[BATCH]
    assert results[0][1] == (labels[:ends] >= 0).sum()
    assert_same_step(results[1], results[0])


def test_gradient_is_that_of_the_mean_loss(tokenized):
    """By differences, along the gradient itself."""
    graphdef, params = network(0.0)
    loss, count, norm, gradient, _ = one_step((graphdef, params), tokenized, "packed")
    assert count == BATCH
    assert norm == pytest.approx(
        np.sqrt(sum(np.square(g).sum() for g in tiny.leaves(gradient).values())), rel=1e-5
    )
    batch = next(Batches(tokenized, BATCH, max_length=16, layout="padded").epoch(0))
    batch.pop("example_ids")
    evaluate = jax.jit(make_eval_step(graphdef, TEXT_CLASSIFICATION))

    def mean_loss(distance):
        there = jax.tree.map(lambda p, g: p + distance * g / norm, params, gradient)
        out = evaluate(there, batch)
        return float(out["loss_sum"]) / float(out["count"])

    assert mean_loss(0.0) == pytest.approx(loss, abs=1e-6)
    slope = (mean_loss(0.01) - mean_loss(-0.01)) / 0.02
    assert slope == pytest.approx(norm, rel=1e-2)


def test_frozen_groups_rest_and_hold_no_moments(tokenized):
    frozen = OptimizerConfig(learning_rate=0.01, frozen=("embeddings",), schedule="constant")
    split = network(0.1)
    *_, norm, moved, state = one_step(split, tokenized, "packed", optimizer=frozen)
    for path, distance in tiny.leaves(moved).items():
        assert (not distance.any()) == path.startswith("encoder/embeddings/"), path
    tiny.assert_equal(split[1]["encoder"]["embeddings"], state.params["encoder"]["embeddings"])
    held = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    sizes = {path: leaf.size for path, leaf in tiny.leaves(split[1]).items()}
    moving = sum(n for path, n in sizes.items() if not path.startswith("encoder/embeddings/"))
    assert 2 * moving <= held < 2 * moving + 50  # two moments each, and a few counts
    everything = one_step(split, tokenized, "packed")
    assert norm < everything[2]  # the frozen gradient does not count


def test_evaluation_draws_no_dropout_and_ignores_absent_labels(tokenized):
    graphdef, params = network(0.3)
    evaluate = jax.jit(make_eval_step(graphdef, TEXT_CLASSIFICATION))
    batch = next(Batches(tokenized, BATCH, max_length=16).epoch(0))
    batch.pop("example_ids")
    out = evaluate(params, batch)
    plain = jax.jit(make_eval_step(network(0.0)[0], TEXT_CLASSIFICATION))(params, batch)
    np.testing.assert_array_equal(out["results"]["logits"], plain["results"]["logits"])
    assert float(out["count"]) == BATCH
    batch.pop("labels")
    assert set(evaluate(params, batch)) == {"results"}


def test_low_precision_parameters_have_float32_masters(tokenized):
    """A step of 1e-4 is smaller than what bfloat16 tells apart at 1: without them nothing moves."""
    config = BertConfig(**(tiny.SHAPE | {"num_hidden_layers": 1, "hidden_dropout_prob": 0.0,
                                         "attention_probs_dropout_prob": 0.0}))  # fmt: skip
    moved = {}
    for dtype in ("float32", "bfloat16"):
        graphdef, params = split_model(
            BertForSequenceClassification(
                config, rngs=nnx.Rngs(0), compute=Compute(param_dtype=dtype)
            )
        )
        optimizer = OptimizerConfig(learning_rate=1e-4, schedule="constant", layer_decay=1.0)
        plan = RatePlan.make(optimizer, params, 10, 2)
        step = jax.jit(make_train_step(graphdef, plan, TEXT_CLASSIFICATION, param_dtype=dtype))
        state = before = init_state(params, plan.optimizer, 3)
        batch = next(Batches(tokenized, BATCH, max_length=16).epoch(0))
        batch.pop("example_ids")
        for _ in range(4):
            state, _ = step(state, batch)
        scale = (
            tiny.leaves(s.params)["encoder/layers/0/output_norm/scale"] for s in (before, state)
        )
        start, end = scale
        assert end.dtype == np.float32
        moved[dtype] = end - start
    assert np.abs(moved["bfloat16"]).min() > 1e-4
    np.testing.assert_allclose(moved["bfloat16"], moved["float32"], atol=1e-4)


def test_means_of_little_and_of_nothing():
    sums = {"w": np.array([3.0, -1.0], np.float32)}
    half, nothing = (
        _means(jax.numpy.float32(total), jax.numpy.float32(count), sums)
        for total, count in ((1.0, 0.5), (0.0, 0.0))
    )
    assert [float(x) for x in half[:2]] == [2, 0.5]
    assert half[2]["w"].tolist() == [6, -2]
    assert [float(x) for x in nothing[:2]] == [0, 1]


def test_the_norm_sees_one_bad_number():
    assert global_norm({"a": np.array([[3.0]], np.float32), "b": np.array([0.0, 4])}) == 5
    params = split_model(tiny.model())[1]
    assert np.isfinite(global_norm(params))
    for bad in (np.nan, np.inf):
        params["head"]["classifier"]["bias"] = params["head"]["classifier"]["bias"].at[1].set(bad)
        assert not np.isfinite(global_norm(params))


def test_what_products_alone_read_is_gathered_in_their_dtype(tokenized):
    config = BertConfig(**tiny.SHAPE | {"num_hidden_layers": 1})
    model = BertForSequenceClassification(
        config, rngs=nnx.Rngs(0), compute=Compute(dtype="bfloat16")
    )
    graphdef, params = split_model(model)
    plan = RatePlan.make(tiny.PLAIN, params, 10, 2)
    given = {}

    def shard(function):
        def run(params, *rest):
            rows, (loss, count, grads) = function(params, *rest)
            for path, leaf, grad in zip(
                leaf_paths(params), jax.tree.leaves(params), jax.tree.leaves(grads), strict=True
            ):
                given[path] = leaf.dtype.name, grad.dtype.name
            return rows, (loss, count, grads)

        return run

    batch = next(Batches(tokenized, BATCH, max_length=16).epoch(0))
    batch.pop("example_ids")
    step = make_train_step(graphdef, plan, TEXT_CLASSIFICATION, shard=shard)
    jax.eval_shape(step, init_state(params, plan.optimizer, 3), batch)
    kernels = {path for path in given if path.endswith("/kernel")}
    assert {given[path] for path in kernels} == {("bfloat16", "float32")}
    assert {given[path] for path in given.keys() - kernels} == {("float32", "float32")}
    assert len(kernels) == 8  # six of the layer, pooler and classifier


@pytest.mark.parametrize(("count", "loops"), [(1, False), (2, True)])
def test_microbatches_are_a_loop_and_one_of_them_is_none(count, loops):
    """What a step holds at once is what it is split for, and the sum does not show that."""
    batch = {"x": jax.numpy.arange(4.0)}
    gradient = lambda rows: {"sum": rows["x"].sum()}  # noqa: E731
    run = lambda batch: module._accumulate(gradient, batch, count)  # noqa: E731
    assert run(batch)["sum"] == 6
    assert ("scan" in str(jax.make_jaxpr(run)(batch))) == loops
