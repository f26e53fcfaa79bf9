"""Loading and saving: the same bytes, every dtype, shards, and the key variants in the wild."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hf_files import (
    CONFIG,
    POSITIONS,
    TASKS,
    TYPES,
    C,
    assert_same,
    hf_tensors,
    parameters,
    with_copied_decoder,
    write,
)
from safetensors.numpy import load_file

import jaxbert.models as models
from jaxbert.models import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    split_model,
)
from jaxbert.weights.pretrained import load_pretrained
from jaxbert.weights.writer import write_checkpoint


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("task", TASKS)
def test_load_and_save_gives_the_same_bytes(tmp_path, task, dtype):
    tensors = hf_tensors(task, TYPES[dtype])
    source = write(tmp_path / "in", task, tensors)
    model, report = load_pretrained(getattr(models, task), source, param_dtype=dtype)
    assert (report.directory, report.initialized, report.unused) == (source, (), ())
    model.save_pretrained(tmp_path / "out")
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), tensors)
    hf = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (hf["architectures"], hf["dtype"], hf["model_type"]) == ([task], dtype, "bert")
    again = getattr(models, task).from_pretrained(tmp_path / "out", param_dtype=dtype)
    labels = 2 if task == "BertForQuestionAnswering" else C
    assert again.config == model.config == BertConfig.from_hf(CONFIG | {"num_labels": labels})


def test_a_kernel_is_the_transposed_weight_and_the_rest_is_as_stored(tmp_path):
    tensors = hf_tensors("BertForSequenceClassification")
    model = BertForSequenceClassification.from_pretrained(
        write(tmp_path, "BertForSequenceClassification", tensors)
    )
    ours = parameters(model)
    layer = "bert.encoder.layer.1"
    for path, name in {
        "encoder/layers/1/intermediate/kernel": f"{layer}.intermediate.dense.weight",
        "encoder/pooler/kernel": "bert.pooler.dense.weight",
        "head/classifier/kernel": "classifier.weight",
    }.items():
        np.testing.assert_array_equal(ours[path], tensors[name].T)
    words = tensors["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(ours["encoder/embeddings/word_embeddings/embedding"], words)


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("asked", [*TYPES, None])
def test_parameters_are_cast_to_param_dtype_or_else_to_float32(tmp_path, stored, asked):
    tensors = hf_tensors("BertModel", TYPES[stored])
    options, kept = ({"param_dtype": asked}, asked) if asked else ({}, "float32")
    ours = parameters(BertModel.from_pretrained(write(tmp_path, "BertModel", tensors), **options))
    assert {leaf.dtype.name for leaf in ours.values()} == {kept}
    words = tensors["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(
        ours["embeddings/word_embeddings/embedding"], words.astype(TYPES[kept])
    )


def test_newly_drawn_parameters_have_param_dtype_too(tmp_path):
    source = write(tmp_path, "BertModel")
    model = BertForMaskedLM.from_pretrained(source, param_dtype="bfloat16")
    assert {leaf.dtype.name for leaf in parameters(model).values()} == {"bfloat16"}


def test_float64_is_read(tmp_path):
    tensors = hf_tensors("BertModel", np.float64)
    model = BertModel.from_pretrained(write(tmp_path, "BertModel", tensors))
    wanted = tensors["pooler.dense.bias"].astype(np.float32)
    np.testing.assert_array_equal(parameters(model)["pooler/bias"], wanted)


def test_shards_load_as_the_whole(tmp_path):
    tensors = hf_tensors("BertForMaskedLM")
    whole = write(tmp_path / "whole", "BertForMaskedLM", tensors)
    parts = write(tmp_path / "parts", "BertForMaskedLM", tensors)
    write_checkpoint(parts, tensors, max_shard_bytes=600)
    assert len(list(parts.glob("model-*.safetensors"))) > 3
    assert_same(
        parameters(BertForMaskedLM.from_pretrained(parts)),
        parameters(BertForMaskedLM.from_pretrained(whole)),
    )


def test_a_saved_model_replaces_an_earlier_one_and_leaves_the_tokenizer(tmp_path):
    source = write(tmp_path, "BertForMaskedLM")
    (tmp_path / "vocab.txt").write_text("[PAD]")
    BertForSequenceClassification.from_pretrained(source).save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "model.safetensors", "vocab.txt"}
    assert "classifier.weight" in load_file(tmp_path / "model.safetensors")


def test_a_subclass_loads_and_saves_as_what_it_derives_from(tmp_path):
    class Mine(BertForSequenceClassification):
        pass

    source = write(tmp_path / "in", "BertForSequenceClassification")
    model, report = load_pretrained(Mine, source)
    assert (type(model), report.initialized) == (Mine, ())
    model.save_pretrained(tmp_path / "out")
    hf = json.loads((tmp_path / "out" / "config.json").read_text())
    assert hf["architectures"] == ["BertForSequenceClassification"]


def test_two_loads_compile_once(tmp_path):
    source = write(tmp_path, "BertModel", id2label={"0": "a", "1": "b"})
    traces = []

    @jax.jit
    def run(model):
        traces.append(1)
        return model(jnp.zeros((1, 4), jnp.int32)).pooler_output

    for _ in range(2):
        graphdef, params = split_model(BertModel.from_pretrained(source))
        hash(graphdef)
        run(nnx.merge(graphdef, params))
    assert len(traces) == 1


def test_nothing_changeable_hangs_on_the_model(tmp_path):
    model = BertModel.from_pretrained(write(tmp_path, "BertModel"))
    fresh = BertModel(model.config, rngs=nnx.Rngs(0))
    assert vars(model).keys() == vars(fresh).keys()
    assert split_model(model)[0] == split_model(fresh)[0]


def without_prefix(tensors):
    return {name.removeprefix("bert."): array for name, array in tensors.items()}


def old_norms(tensors):
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in tensors.items()
    }


def with_position_ids(tensors):
    return tensors | {"bert.embeddings.position_ids": np.arange(POSITIONS)[None]}


def with_moved_decoder_bias(tensors):
    tensors = with_copied_decoder(tensors)
    return {name: array for name, array in tensors.items() if name != "cls.predictions.bias"}


def all_at_once(tensors):
    return old_norms(without_prefix(with_position_ids(with_moved_decoder_bias(tensors))))


@pytest.mark.parametrize(
    "variant",
    [
        without_prefix, old_norms, with_position_ids, with_copied_decoder, with_moved_decoder_bias,
        all_at_once,
    ],
)  # fmt: skip
def test_key_variants_load_as_todays_names(tmp_path, variant):
    tensors = hf_tensors("BertForPreTraining")
    today = write(tmp_path / "today", "BertForPreTraining", tensors)
    old = write(tmp_path / "old", "BertForPreTraining", variant(tensors))
    model, report = load_pretrained(BertForPreTraining, old)
    assert (report.initialized, report.unused) == ((), ())
    assert_same(parameters(model), parameters(BertForPreTraining.from_pretrained(today)))
    model.save_pretrained(tmp_path / "saved")
    assert_same(load_file(tmp_path / "saved" / "model.safetensors"), tensors)


def test_the_base_model_takes_prefixed_names(tmp_path):
    tensors = {f"bert.{name}": array for name, array in hf_tensors("BertModel").items()}
    _, report = load_pretrained(BertModel, write(tmp_path, "BertModel", tensors))
    assert (report.initialized, report.unused) == ((), ())


def test_a_missing_pooler_is_drawn_and_reported(tmp_path, caplog):
    tensors = {n: x for n, x in hf_tensors("BertModel").items() if "pooler" not in n}
    model, report = load_pretrained(BertModel, write(tmp_path, "BertModel", tensors))
    assert report.initialized == ("pooler/bias", "pooler/kernel")
    (record,) = caplog.records
    assert record.getMessage() == (
        f"BertModel from {tmp_path}: newly initialized, train before use: "
        "pooler/bias, pooler/kernel"
    )
    assert 0 < parameters(model)["pooler/kernel"].std() < 0.05
