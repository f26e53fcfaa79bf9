"""What `from_pretrained` refuses, and what it says; the hub, which here is never reached."""

import huggingface_hub
import numpy as np
import pytest
from hf_files import CONFIG, LAYERS, C, D, V, hf_tensors, with_copied_decoder, write

from jaxbert.errors import InputError
from jaxbert.models import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from jaxbert.weights.pretrained import load_pretrained, model_directory


def test_all_misfits_stand_in_one_error_with_both_shapes(tmp_path):
    tensors = hf_tensors("BertForSequenceClassification")
    del tensors["bert.encoder.layer.0.output.dense.weight"]
    del tensors["bert.embeddings.LayerNorm.bias"]
    tensors["bert.encoder.layer.2.output.dense.bias"] = np.zeros(D, np.float32)
    tensors["bert.embeddings.word_embeddings.weight"] = np.zeros((V + 1, D), np.float32)
    tensors["classifier.weight"] = np.zeros((C, D + 1), np.float32)
    tensors["bert.pooler.dense.weight"] = np.zeros((D, D), np.int8)
    source = write(tmp_path, "BertForSequenceClassification", tensors)
    with pytest.raises(ValueError, match="do not fit") as error:
        BertForSequenceClassification.from_pretrained(source)
    head, *lines = str(error.value).splitlines()
    assert head == (
        f"{source}: the tensors do not fit BertForSequenceClassification of config.json:"
    )
    assert lines == [
        "  misshapen  bert.embeddings.word_embeddings.weight, got [21, 8], wanted [20, 8]",
        "  misshapen  classifier.weight, got [3, 9], wanted [3, 8]",
        "  missing    bert.embeddings.LayerNorm.bias, wanted [8]",
        "  missing    bert.encoder.layer.0.output.dense.weight, wanted [8, 12]",
        "  quantized  bert.pooler.dense.weight, got I8, wanted F64, F32, F16 or BF16",
        "  unexpected bert.encoder.layer.2.output.dense.bias, got [8]",
    ]


def test_a_wrong_head_is_an_error_unless_its_labels_are_chosen(tmp_path):
    source = write(tmp_path, "BertForSequenceClassification", num_labels=2)
    with pytest.raises(ValueError, match=r"misshapen +classifier.bias, got \[3\], wanted \[2\]"):
        BertForSequenceClassification.from_pretrained(source)
    assert BertForSequenceClassification.from_pretrained(source, num_labels=2)


def test_too_few_layers_in_the_file(tmp_path):
    source = write(tmp_path, "BertModel", num_hidden_layers=LAYERS + 1)
    with pytest.raises(ValueError, match="do not fit") as error:
        BertModel.from_pretrained(source)
    assert str(error.value).count("missing    bert.encoder.layer.2.") == 16


def test_a_directory_that_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no model: it has no config.json; give a dir"):
        BertModel.from_pretrained(tmp_path)
    write(tmp_path, "BertModel")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights: none of model.safetensors, "):
        BertModel.from_pretrained(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"config.json is a file: give the directory"):
        BertModel.from_pretrained(tmp_path / "config.json")


def test_a_config_that_is_no_json(tmp_path):
    (write(tmp_path, "BertModel") / "config.json").write_text("model_type: bert")
    with pytest.raises(ValueError, match=r"config.json is not valid JSON"):
        BertModel.from_pretrained(tmp_path)


def test_another_kind_of_model_is_refused_by_name(tmp_path):
    source = write(tmp_path, "BertModel", model_type="gpt2")
    with pytest.raises(ValueError, match="model_type='gpt2'"):
        BertModel.from_pretrained(source)


def test_an_unknown_compute_option_is_refused(tmp_path):
    with pytest.raises(TypeError, match="dtipe"):
        BertModel.from_pretrained(write(tmp_path, "BertModel"), dtipe="bfloat16")


def test_the_same_tensor_twice_is_refused(tmp_path):
    tensors = hf_tensors("BertModel")
    tensors["bert.pooler.dense.bias"] = tensors["pooler.dense.bias"]
    source = write(tmp_path, "BertModel", tensors)
    with pytest.raises(
        ValueError, match=r"there twice: (bert.)?pooler.dense.bias = (bert.)?pooler"
    ):
        BertModel.from_pretrained(source)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_decoder_of_its_own_is_refused(tmp_path, part):
    tensors = with_copied_decoder(hf_tensors("BertForMaskedLM"))
    tensors[f"cls.predictions.decoder.{part}"] = tensors[f"cls.predictions.decoder.{part}"] + 1
    source = write(tmp_path, "BertForMaskedLM", tensors)
    with pytest.raises(ValueError, match=rf"untied +cls.predictions.decoder.{part} \[20.* differs"):
        BertForMaskedLM.from_pretrained(source)
    _, report = load_pretrained(BertModel, source)  # which has no decoder
    assert f"cls.predictions.decoder.{part}" in report.unused


@pytest.mark.parametrize("source", ["somebody/no-such-model", "no such dir", "a/b/c", "../missing"])
def test_without_directory_or_hub_it_says_what_to_do(source):
    with pytest.raises(
        OSError, match=r"is no directory here, and did not come from the .* hub"
    ) as e:
        BertModel.from_pretrained(source)
    assert source in str(e.value)
    assert "give the path of a model directory" in str(e.value)
    assert "\n" not in str(e.value)


def test_a_hub_id_fetches_safetensors_where_there_are_any(tmp_path, monkeypatch):
    source, calls = write(tmp_path, "BertModel"), []

    def snapshot_download(repo, *, revision, allow_patterns):
        calls.append((repo, revision))
        files = [
            "config.json",
            "model.safetensors",
            "model-00001-of-00002.safetensors",
            "vocab.txt",
        ]
        files += ["model.safetensors.index.json", "tokenizer.json"]
        for refused in ("pytorch_model.bin", "tf_model.h5", "onnx/model.safetensors"):
            assert list(huggingface_hub.utils.filter_repo_objects(
                [*files, refused], allow_patterns=allow_patterns)) == files  # fmt: skip
        return str(source)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model = BertModel.from_pretrained("somebody/model-there", revision="v2")
    assert calls == [("somebody/model-there", "v2")]
    assert model.config == BertConfig.from_hf(CONFIG)


def test_of_a_hub_repository_one_format_is_fetched_the_first_that_is_there(tmp_path, monkeypatch):
    there = ["config.json", "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5"]
    fetched = []

    def snapshot_download(repo, *, revision, allow_patterns):
        new = huggingface_hub.utils.filter_repo_objects(there, allow_patterns=allow_patterns)
        for name in new:
            (tmp_path / name).touch()
            fetched.append(name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert model_directory("somebody/model-there") == tmp_path
    assert fetched == ["config.json", "config.json", "pytorch_model.bin"]


def test_a_revision_of_a_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"revision='main' is for the hub, and .* is a directory"):
        model_directory(tmp_path, "main")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named_by_their_tensor(tmp_path, bad):
    tensors = hf_tensors("BertModel")
    tensors["encoder.layer.1.output.dense.weight"][3, 2:4] = bad
    source = write(tmp_path, "BertModel", tensors)
    with pytest.raises(InputError, match=r"2 of the 96 numbers of encoder\.layer\.1\.output\.den"):
        BertModel.from_pretrained(source)


def test_so_are_numbers_that_the_chosen_type_cannot_hold(tmp_path):
    tensors = hf_tensors("BertModel")
    tensors["pooler.dense.bias"][0] = 1e5
    source = write(tmp_path, "BertModel", tensors)
    assert float(BertModel.from_pretrained(source).pooler.bias[...][0]) == 1e5
    with pytest.raises(InputError, match=r"pooler\.dense\.bias, as float16, .*param_dtype='float3"):
        BertModel.from_pretrained(source, param_dtype="float16")


def test_a_tensor_that_nobody_uses_may_hold_anything(tmp_path):
    tensors = hf_tensors("BertModel") | {"cls.predictions.bias": np.full(V, np.nan, np.float32)}
    BertModel.from_pretrained(write(tmp_path, "BertModel", tensors))
