"""Tiny Hugging Face directories, made from names and shapes written out here."""

import json

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from jaxbert.models import split_model

V, D, F, POSITIONS, LAYERS, C = 20, 8, 12, 10, 2, 3
CONFIG = dict(
    model_type="bert",
    vocab_size=V,
    hidden_size=D,
    intermediate_size=F,
    max_position_embeddings=POSITIONS,
    num_hidden_layers=LAYERS,
    num_attention_heads=2,
    num_labels=C,
)
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
NO_POOLER = {"BertForMaskedLM", "BertForTokenClassification", "BertForQuestionAnswering"}
TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name):
    return {f"{name}.weight": (D,), f"{name}.bias": (D,)}


def encoder_shapes():
    shapes = norm("embeddings.LayerNorm")
    for name, rows in (("word", V), ("position", POSITIONS), ("token_type", 2)):
        shapes[f"embeddings.{name}_embeddings.weight"] = (rows, D)
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= linear(f"{layer}.attention.{name}", D, D)
        shapes |= norm(f"{layer}.attention.output.LayerNorm") | norm(f"{layer}.output.LayerNorm")
        shapes |= linear(f"{layer}.intermediate.dense", F, D)
        shapes |= linear(f"{layer}.output.dense", D, F)
    return shapes


PREDICTIONS = {
    **linear("cls.predictions.transform.dense", D, D),
    **norm("cls.predictions.transform.LayerNorm"),
    "cls.predictions.bias": (V,),
}
HEADS = {
    "BertForSequenceClassification": linear("classifier", C, D),
    "BertForTokenClassification": linear("classifier", C, D),
    "BertForMultipleChoice": linear("classifier", 1, D),
    "BertForQuestionAnswering": linear("qa_outputs", 2, D),
    "BertForNextSentencePrediction": linear("cls.seq_relationship", 2, D),
    "BertForMaskedLM": PREDICTIONS,
    "BertForPreTraining": PREDICTIONS | linear("cls.seq_relationship", 2, D),
}


def hf_tensors(task, dtype=np.float32):
    """Random tensors as `transformers` saves them for this class."""
    pooler = {} if task in NO_POOLER else linear("pooler.dense", D, D)
    prefix = "" if task == "BertModel" else "bert."
    shapes = {prefix + name: shape for name, shape in (encoder_shapes() | pooler).items()}
    rng = np.random.default_rng(1)
    shapes |= HEADS.get(task, {})
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def write(directory, task, tensors=None, **config):
    """A Hugging Face directory."""
    directory.mkdir(exist_ok=True)
    config = CONFIG | {"architectures": [task]} | config
    (directory / "config.json").write_text(json.dumps(config))
    save_file(hf_tensors(task) if tensors is None else tensors, directory / "model.safetensors")
    return directory


def parameters(model):
    flat, _ = jax.tree_util.tree_flatten_with_path(split_model(model)[1])
    name = jax.tree_util.keystr
    return {name(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in flat}


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tobytes() == array.tobytes(), name


def with_copied_decoder(tensors):
    return tensors | {
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
    }
