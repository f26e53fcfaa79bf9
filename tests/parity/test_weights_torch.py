"""Files that `transformers` in PyTorch writes and we read, and the other way round."""

import json
import re

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

import jaxbert.models as models
from jaxbert.models import BertConfig, split_model
from jaxbert.weights.pretrained import load_pretrained
from jaxbert.weights.readers import open_checkpoint
from jaxbert.weights.writer import write_checkpoint

SHAPE = dict(
    vocab_size=30,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=9,
    type_vocab_size=3,
)
LABELS = {0: "bad", 1: "so so", 2: "good"}
TASKS = [
    "BertModel",
    "BertForSequenceClassification",
    "BertForMaskedLM",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
]
DTYPES = ["float32", "float16", "bfloat16"]


def labels_of(task):
    """Question answering has two outputs, and in transformers two labels therefore."""
    return {0: "from", 1: "to"} if task == "BertForQuestionAnswering" else LABELS


def our_config(task):
    labels = tuple(labels_of(task).values())
    return BertConfig(**SHAPE, num_labels=len(labels), id2label=labels)


def torch_model(task, dtype="float32"):
    torch.manual_seed(0)
    labels = labels_of(task)
    label2id = {name: i for i, name in labels.items()}
    config = transformers.BertConfig(**SHAPE, id2label=labels, label2id=label2id)
    model = getattr(transformers, task)(config).to(getattr(torch, dtype))
    with torch.no_grad():  # all different: equal biases or scales would hide a swap
        for parameter in model.parameters():
            parameter.normal_()
    return model


def load_torch(task, directory, **options):
    """The model, which must find its tensors in the directory, all and no others."""
    load = getattr(transformers, task).from_pretrained
    model, info = load(directory, output_loading_info=True, **options)
    assert not any(info.values()), info
    return model


def parameters(model):
    flat, _ = jax.tree_util.tree_flatten_with_path(split_model(model)[1])
    name = jax.tree_util.keystr
    return {name(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in flat}


def torch_parameters(model):
    """By our paths. The way from attribute to path is written apart from models/families."""
    found = {}
    for module_name, module in model.named_modules():
        path = module_name.replace("encoder.layer.", "layers.")
        for old, new in (
            ("attention.output.LayerNorm", "attention_norm"),
            ("output.LayerNorm", "output_norm"),
            ("predictions.transform.LayerNorm", "predictions.layer_norm"),
            ("LayerNorm", "layer_norm"),
            ("attention.self", "attention"),
            (".dense", ""),
            ("cls.", "head."),
        ):
            path = path.replace(old, new)
        path = re.sub(r"^bert\b", "encoder", re.sub(r"^(classifier|qa_outputs)", r"head.\1", path))
        for name, parameter in module.named_parameters(recurse=False):
            array = parameter.detach().float().numpy()
            if isinstance(module, torch.nn.Linear) and name == "weight":
                name, array = "kernel", array.T
            elif isinstance(module, torch.nn.LayerNorm) and name == "weight":
                name = "scale"
            elif isinstance(module, torch.nn.Embedding):
                name = "embedding"
            found[f"{path}.{name}".replace(".", "/")] = array
    return {path: array for path, array in found.items() if "/decoder/" not in path}


def assert_same_state(got, wanted):
    got, wanted = got.state_dict(), wanted.state_dict()
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize("task", TASKS)
def test_every_tensor_of_theirs_is_in_its_place_in_ours(tmp_path, task):
    theirs = torch_model(task)
    theirs.save_pretrained(tmp_path)
    ours, report = load_pretrained(getattr(models, task), tmp_path)
    assert (report.initialized, report.unused) == ((), ())
    assert ours.config == our_config(task)
    got, wanted = parameters(ours), torch_parameters(theirs)
    assert got.keys() == wanted.keys()
    for path, array in wanted.items():
        np.testing.assert_array_equal(got[path], array, err_msg=path)


@pytest.mark.parametrize("task", TASKS)
def test_every_tensor_of_ours_is_in_its_place_in_theirs(tmp_path, task):
    ours = getattr(models, task)(our_config(task), rngs=nnx.Rngs(0))
    ours.save_pretrained(tmp_path)
    theirs = load_torch(task, tmp_path)
    assert (theirs.config.id2label, theirs.config.architectures) == (labels_of(task), [task])
    wanted, got = parameters(ours), torch_parameters(theirs)
    assert got.keys() == wanted.keys()
    for path, array in wanted.items():
        np.testing.assert_array_equal(got[path], array, err_msg=path)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("task", TASKS)
def test_their_file_comes_back_byte_for_byte(tmp_path, task, dtype):
    theirs = torch_model(task, dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = getattr(models, task).from_pretrained(tmp_path / "theirs", param_dtype=dtype)
    ours.save_pretrained(tmp_path / "ours")
    wanted, got = (open_checkpoint(tmp_path / name) for name in ("theirs", "ours"))
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape), name
        assert got[name].read().tobytes() == tensor.read().tobytes(), name
    assert_same_state(load_torch(task, tmp_path / "ours"), theirs)


def test_their_config_comes_back(tmp_path):
    theirs = torch_model("BertForSequenceClassification")
    theirs.save_pretrained(tmp_path / "theirs")
    ours = models.BertForSequenceClassification.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    wanted, got = (
        transformers.AutoConfig.from_pretrained(tmp_path / name).to_dict()
        for name in ("theirs", "ours")
    )
    differing = {key for key in wanted | got if wanted.get(key) != got.get(key)}
    assert differing <= {"_name_or_path", "transformers_version"}


def test_our_directory_is_all_that_their_pipeline_needs_of_a_model(tmp_path):
    config = BertConfig(**SHAPE, num_labels=3)
    models.BertForTokenClassification(config, rngs=nnx.Rngs(0)).save_pretrained(tmp_path)
    load = transformers.AutoModelForTokenClassification.from_pretrained
    assert type(load(tmp_path)).__name__ == "BertForTokenClassification"


def test_their_shards(tmp_path):
    theirs = torch_model("BertForPreTraining")
    theirs.save_pretrained(tmp_path, max_shard_size="2KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    got, wanted = (
        parameters(models.BertForPreTraining.from_pretrained(tmp_path)),
        torch_parameters(theirs),
    )
    assert all(np.array_equal(got[path], array) for path, array in wanted.items())


def test_our_shards(tmp_path):
    theirs = torch_model("BertForPreTraining")
    theirs.save_pretrained(tmp_path)
    tensors = {name: tensor.read() for name, tensor in open_checkpoint(tmp_path).items()}
    write_checkpoint(tmp_path, tensors, max_shard_bytes=2000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    assert_same_state(load_torch("BertForPreTraining", tmp_path), theirs)


@pytest.mark.parametrize("task", TASKS[1:])
def test_our_encoder_in_each_of_their_tasks_and_theirs_in_ours(tmp_path, task):
    theirs = torch_model("BertModel")
    theirs.save_pretrained(tmp_path / "theirs")
    ours = getattr(models, task).from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    encoder = load_torch(task, tmp_path / "ours").bert.state_dict()
    assert all(torch.equal(encoder[name], theirs.state_dict()[name]) for name in encoder)


def test_question_answering_from_a_model_with_other_labels(tmp_path):
    torch_model("BertForSequenceClassification").save_pretrained(tmp_path)
    models.BertForQuestionAnswering.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert load_torch("BertForQuestionAnswering", tmp_path).config.num_labels == 2


def test_the_copies_of_an_old_save_are_folded(tmp_path):
    """Older versions wrote tied tensors, position ids and the bias of the decoder."""
    theirs = torch_model("BertForMaskedLM")
    theirs.save_pretrained(tmp_path)
    state = {name: tensor.clone().numpy() for name, tensor in theirs.state_dict().items()}
    assert "cls.predictions.decoder.weight" in state
    state["bert.embeddings.position_ids"] = np.arange(9)[None]
    write_checkpoint(tmp_path, state)
    ours, report = load_pretrained(models.BertForMaskedLM, tmp_path)
    assert (report.initialized, report.unused) == ((), ())
    ours.save_pretrained(tmp_path)
    assert_same_state(load_torch("BertForMaskedLM", tmp_path), theirs)


@pytest.mark.parametrize("task", ["BertModel", "BertForMaskedLM", "BertForSequenceClassification"])
def test_a_resized_vocabulary_loads_in_pytorch(tmp_path, task):
    model = getattr(models, task)(our_config(task), rngs=nnx.Rngs(0)).resize_token_embeddings(37)
    model.save_pretrained(tmp_path)
    theirs = getattr(transformers, task).from_pretrained(tmp_path).eval()
    assert theirs.get_input_embeddings().weight.shape == (37, 12)
    ids = np.array([[1, 36, 30, 2]])
    with torch.no_grad():
        wanted = theirs(torch.tensor(ids))[0].numpy()
    np.testing.assert_allclose(jax.tree.leaves(model(ids))[0], wanted, atol=1e-5)
