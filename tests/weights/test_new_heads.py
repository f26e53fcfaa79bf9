"""Any checkpoint into any model: what is taken, what is newly drawn, and what is reported."""

import logging

import numpy as np
import pytest
from flax import nnx
from hf_files import HEADS, NO_POOLER, TASKS, C, D, hf_tensors, parameters, write
from safetensors.numpy import load_file

import jaxbert.models as models
from jaxbert.models import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from jaxbert.weights import pretrained
from jaxbert.weights.pretrained import load_pretrained


@pytest.mark.parametrize("task", TASKS[1:])
def test_an_encoder_loads_into_every_task(tmp_path, task, caplog):
    source = write(tmp_path / "in", "BertModel")
    model, report = load_pretrained(getattr(models, task), source, num_labels=C)
    head = {path for path in parameters(model) if not path.startswith("encoder/")}
    assert set(report.initialized) == head
    unused = ("pooler.dense.bias", "pooler.dense.weight") if task in NO_POOLER else ()
    assert report.unused == unused
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("jaxbert", logging.WARNING)
    assert f"{task} from {source}: newly initialized" in record.getMessage()
    assert all(name in record.getMessage() for name in (*report.initialized, *unused))
    model.save_pretrained(tmp_path / "out")
    saved = load_file(tmp_path / "out" / "model.safetensors")
    for name, array in hf_tensors("BertModel").items():
        if name not in unused:
            np.testing.assert_array_equal(saved[f"bert.{name}"], array)


@pytest.mark.parametrize("task", TASKS[1:])
def test_every_task_loads_into_the_encoder(tmp_path, task, caplog):
    caplog.set_level(logging.INFO)
    tensors = hf_tensors(task)
    model, report = load_pretrained(BertModel, write(tmp_path, task, tensors))
    pooler = ("pooler/bias", "pooler/kernel") if task in NO_POOLER else ()
    assert report.initialized == pooler
    assert report.unused == tuple(sorted(HEADS[task]))
    assert "unused from the checkpoint: " + ", ".join(report.unused) in caplog.text
    wanted = tensors["bert.encoder.layer.1.output.dense.weight"].T
    np.testing.assert_array_equal(parameters(model)["layers/1/output/kernel"], wanted)


def test_only_an_initialized_parameter_is_worth_a_warning(tmp_path, caplog):
    load_pretrained(BertModel, write(tmp_path, "BertForSequenceClassification"))
    assert not caplog.records


def test_heads_shared_by_two_tasks_are_taken(tmp_path):
    _, report = load_pretrained(BertForMaskedLM, write(tmp_path, "BertForPreTraining"))
    assert report.initialized == ()
    assert "cls.seq_relationship.weight" in report.unused
    _, report = load_pretrained(BertForPreTraining, write(tmp_path, "BertForMaskedLM"))
    assert report.initialized == (
        "encoder/pooler/bias",
        "encoder/pooler/kernel",
        "head/seq_relationship/bias",
        "head/seq_relationship/kernel",
    )


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ("BertForTokenClassification", BertForSequenceClassification),
        ("BertForMultipleChoice", BertForSequenceClassification),
        ("BertForSequenceClassification", BertForTokenClassification),
        ("BertForSequenceClassification", BertForMultipleChoice),
    ],
)
def test_a_classifier_of_another_task_is_not_taken_for_ones_own(tmp_path, saved, loaded):
    _, report = load_pretrained(loaded, write(tmp_path, saved))
    assert {"head/classifier/bias", "head/classifier/kernel"} <= set(report.initialized)
    assert {"classifier.bias", "classifier.weight"} <= set(report.unused)


@pytest.mark.parametrize("architectures", [None, [], ["SomebodysBert"], "BertModel", 5])
def test_without_a_known_architecture_names_decide(tmp_path, architectures):
    source = write(tmp_path, "BertForSequenceClassification", architectures=architectures)
    assert load_pretrained(BertForSequenceClassification, source)[1].initialized == ()


NAMED = {"id2label": {"0": "bad", "1": "so so", "2": "good"}}


@pytest.mark.parametrize(
    ("stored", "asked", "kept", "names"),
    [
        ({}, {}, True, None),
        ({}, dict(num_labels=3), True, None),
        ({}, dict(num_labels=2), False, None),
        ({}, dict(labels=["a", "b", "c"]), True, ("a", "b", "c")),
        ({}, dict(labels=("a", "b")), False, ("a", "b")),
        (NAMED, {}, True, ("bad", "so so", "good")),
        (NAMED, dict(num_labels=3), True, ("bad", "so so", "good")),
        (NAMED, dict(num_labels=4), False, None),
        (NAMED, dict(labels=["bad", "so so", "good"]), True, ("bad", "so so", "good")),
        (NAMED, dict(labels=["a", "b", "c"], num_labels=3), False, ("a", "b", "c")),
        (NAMED, dict(labels=["good", "so so", "bad"]), False, ("good", "so so", "bad")),
        ({"num_labels": 2}, dict(num_labels=3), True, None),  # the tensors decide, not config.json
    ],
)
def test_a_head_is_kept_if_it_has_the_labels_asked_for(tmp_path, stored, asked, kept, names):
    task = "BertForSequenceClassification"
    source = write(tmp_path, task, problem_type="single_label_classification", **stored)
    model, report = load_pretrained(BertForSequenceClassification, source, **asked)
    count = asked.get("num_labels") or len(names or "abc")
    assert (model.config.num_labels, model.config.id2label) == (count, names)
    head = parameters(model)["head/classifier/kernel"]
    assert head.shape == (D, count)
    assert kept == (report.initialized == ())
    assert kept == (model.config.problem_type is not None)
    if kept:
        np.testing.assert_array_equal(head, hf_tensors(task)["classifier.weight"].T)
    else:
        assert report.initialized == ("head/classifier/bias", "head/classifier/kernel")
        assert report.unused == ("classifier.bias", "classifier.weight")


def test_labels_do_not_touch_a_head_that_has_none(tmp_path):
    source = write(tmp_path, "BertForQuestionAnswering")
    assert load_pretrained(BertForQuestionAnswering, source, num_labels=7)[1].initialized == ()
    source = write(tmp_path, "BertForMultipleChoice")
    assert load_pretrained(BertForMultipleChoice, source, num_labels=7)[1].initialized == ()


def test_names_and_number_of_labels_must_agree(tmp_path):
    source = write(tmp_path, "BertModel")
    with pytest.raises(ValueError, match="num_labels=2 but labels has 3 names: give one of them"):
        BertForTokenClassification.from_pretrained(source, num_labels=2, labels=["a", "b", "c"])


def test_half_a_head_is_completed_and_reported(tmp_path):
    tensors = hf_tensors("BertForSequenceClassification")
    del tensors["classifier.bias"]
    source = write(tmp_path, "BertForSequenceClassification", tensors)
    _, report = load_pretrained(BertForSequenceClassification, source)
    assert report.initialized == ("head/classifier/bias",)


def test_what_is_missing_is_as_the_constructor_draws_it(tmp_path):
    source = write(tmp_path, "BertModel")
    model, report = load_pretrained(BertForPreTraining, source, seed=5)
    programs = pretrained._draw._cache_size()
    fresh = parameters(BertForPreTraining(model.config, rngs=nnx.Rngs(5)))
    other = parameters(BertForPreTraining.from_pretrained(source, seed=6))
    assert pretrained._draw._cache_size() == programs  # one for every seed
    for path, leaf in parameters(model).items():
        if path not in report.initialized:
            np.testing.assert_array_equal(leaf, other[path])
            continue
        np.testing.assert_allclose(leaf, fresh[path], rtol=1e-6, atol=0)
        assert path.endswith("kernel") == bool(np.any(leaf != other[path]))
