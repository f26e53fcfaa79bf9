"""One model of PyTorch in every format that is read: the same logits, whoever wrote the file."""

import json

import flax.serialization
import jax.numpy as jnp
import numpy as np
import pytest
import tf_files
import torch
import transformers

import jaxbert.models as models
from jaxbert.weights.pretrained import load_pretrained

SHAPE = dict(
    vocab_size=30,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=9,
)
IDS = np.arange(14).reshape(2, 7) + 5
TASKS = [
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForMultipleChoice",
    "BertForQuestionAnswering",
    "BertModel",
]


def torch_model(task):
    torch.manual_seed(0)
    model = getattr(transformers, task)(transformers.BertConfig(**SHAPE)).eval()
    with torch.no_grad():  # all different: equal biases or scales would hide a swap
        for name, parameter in model.named_parameters():
            parameter.normal_(float(name.endswith("LayerNorm.weight")), 0.3)
    return model


def leaves(model):
    """(module's name, module, leaf, array), once each, without buffers."""
    for name, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if "predictions.decoder" not in name:
                yield name, module, leaf, parameter.detach().numpy()


def turned(module, leaf, array):
    linear = isinstance(module, torch.nn.Linear) and leaf == "weight"
    return np.ascontiguousarray(array.T) if linear else array


def write_torch(directory, model):
    torch.save(model.state_dict(), directory / "pytorch_model.bin")


def write_torch_shards(directory, model):
    state = model.state_dict()
    files = {name: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, name in enumerate(state)}
    for file in set(files.values()):
        torch.save({n: x for n, x in state.items() if files[n] == file}, directory / file)
    index = {"metadata": {}, "weight_map": files}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def write_flax(directory, model):
    """As modeling_flax_bert.py names them."""
    names = {
        torch.nn.Linear: "kernel",
        torch.nn.Embedding: "embedding",
        torch.nn.LayerNorm: "scale",
    }
    tree = {}
    for name, module, leaf, array in leaves(model):
        place = tree
        for part in name.split("."):
            place = place.setdefault(part, {})
        place[names[type(module)] if leaf == "weight" else leaf] = turned(module, leaf, array)
    (directory / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))


def write_tensorflow(directory, model):
    """As Google's modeling.py and its scripts name them."""
    held = {}
    for name, module, leaf, array in leaves(model):
        path = name.replace(".", "/").replace("encoder/layer/", "encoder/layer_")
        if isinstance(module, torch.nn.LayerNorm):
            leaf = {"weight": "gamma", "bias": "beta"}[leaf]
        elif path in ("cls/seq_relationship", "classifier", "qa_outputs", "cls/predictions"):
            path = {"classifier": "", "qa_outputs": "cls/squad"}.get(path, path)
            leaf = {"weight": "output_weights", "bias": "output_bias"}[leaf]
        elif isinstance(module, torch.nn.Linear):
            leaf, array = {"weight": "kernel"}.get(leaf, leaf), turned(module, leaf, array)
        elif isinstance(module, torch.nn.Embedding):
            leaf = ""
        held[f"{path}/{leaf}".strip("/")] = array
    tf_files.write(directory, held, shards=2)


def outputs(ours, theirs):
    """The numbers that both give, by name."""
    ids = IDS[:, None] if "MultipleChoice" in type(theirs).__name__ else IDS
    with torch.no_grad():
        wanted = theirs(torch.tensor(ids))
    got = ours(jnp.asarray(ids))._asdict()
    names = ("logits", "start_logits", "end_logits", "prediction_logits",
             "seq_relationship_logits", "last_hidden_state", "pooler_output")  # fmt: skip
    return {name: (np.asarray(got[name]), wanted[name].numpy()) for name in names if name in wanted}


WRITERS = [write_torch, write_torch_shards, write_flax, write_tensorflow]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_format_gives_pytorchs_numbers(tmp_path, write, task):
    theirs = torch_model(task)
    theirs.config.save_pretrained(tmp_path)
    write(tmp_path, theirs)
    ours, report = load_pretrained(getattr(models, task), tmp_path)
    assert (report.initialized, report.unused) == ((), ())
    found = outputs(ours, theirs)
    assert found
    for name, (got, wanted) in found.items():
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_a_torch_file_is_whole_parameters_unless_asked_otherwise(tmp_path, dtype):
    theirs = torch_model("BertModel").to(getattr(torch, dtype))
    theirs.config.save_pretrained(tmp_path)
    write_torch(tmp_path, theirs)
    ours = models.BertModel.from_pretrained(tmp_path)
    wanted = theirs.state_dict()["pooler.dense.weight"].float().numpy().T
    assert ours.pooler.kernel[...].dtype == jnp.float32
    np.testing.assert_array_equal(ours.pooler.kernel[...], wanted)
    ours = models.BertModel.from_pretrained(tmp_path, param_dtype=dtype)
    assert ours.pooler.kernel[...].dtype == dtype
