"""Writes tests/golden/<format>/ with the library that a format is of.

Each needs an environment of its own, for none of these is a dependency:

    flax        transformers==4.57.6, flax and the JAX of its time (benchmarks/environments)
    tensorflow  tensorflow-cpu==2.21.0

    python scripts/make_format_golden.py flax

A tensor's values follow from its name, `values`, so that a test knows them without another file.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
SHAPE = dict(
    vocab_size=12,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
    type_vocab_size=2,
)


def values(name, shape):
    """Random ones of their own for every name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.normal(size=shape).astype(np.float32)


def flax():
    """flax_model.msgpack, in one file and in shards, of transformers' Flax class."""
    import jax
    from transformers import BertConfig, FlaxBertForPreTraining

    model = FlaxBertForPreTraining(BertConfig(**SHAPE))
    name = jax.tree_util.keystr
    model.params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: values(name(path, simple=True, separator="/"), leaf.shape), model.params
    )
    model.save_pretrained(GOLDEN / "flax", safe_serialization=False)
    model.save_pretrained(GOLDEN / "flax_shards", safe_serialization=False, max_shard_size="3KB")


def variables():
    """{name: shape} of Google's run_pretraining.py, without the optimizer's."""
    width, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    norm = {"LayerNorm/gamma": (width,), "LayerNorm/beta": (width,)}

    def dense(inputs, outputs):
        return {"kernel": (inputs, outputs), "bias": (outputs,)}

    parts = {"bert/embeddings": norm}
    for name, rows in (
        ("word", "vocab_size"),
        ("position", "max_position_embeddings"),
        ("token_type", "type_vocab_size"),
    ):
        parts[f"bert/embeddings/{name}_embeddings"] = {"": (SHAPE[rows], width)}
    for i in range(SHAPE["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{i}"
        for name in ("query", "key", "value"):
            parts[f"{layer}/attention/self/{name}"] = dense(width, width)
        parts[f"{layer}/attention/output/dense"] = dense(width, width)
        parts[f"{layer}/attention/output"] = norm
        parts[f"{layer}/intermediate/dense"] = dense(width, inner)
        parts[f"{layer}/output/dense"] = dense(inner, width)
        parts[f"{layer}/output"] = norm
    parts["bert/pooler/dense"] = dense(width, width)
    parts["cls/predictions/transform/dense"] = dense(width, width)
    parts["cls/predictions/transform"] = norm
    parts["cls/predictions"] = {"output_bias": (SHAPE["vocab_size"],)}
    parts["cls/seq_relationship"] = {"output_weights": (2, width), "output_bias": (2,)}
    return {
        f"{scope}/{leaf}".rstrip("/"): shape
        for scope, leaves in parts.items()
        for leaf, shape in leaves.items()
    }


def tensorflow():
    """bert_model.ckpt with the slots of the optimizer, as the Saver of TensorFlow 1 writes it."""
    import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    directory = GOLDEN / "tensorflow"
    directory.mkdir(exist_ok=True)
    held = {name: values(name, shape) for name, shape in variables().items()}
    slots = {f"{name}/adam_{kind}": array for name, array in held.items() for kind in "mv"}
    for name, array in (held | slots | {"global_step": np.int64(7)}).items():
        tf.Variable(array, name=name)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver()
        saver.save(session, str(directory / "bert_model.ckpt"), write_meta_graph=False)
    (directory / "checkpoint").unlink()
    (directory / "bert_config.json").write_text(json.dumps(SHAPE, indent=2) + "\n")


if __name__ == "__main__":
    {"flax": flax, "tensorflow": tensorflow}[sys.argv[1]]()
