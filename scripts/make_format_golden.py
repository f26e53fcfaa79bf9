"""Writes tests/golden/<format>/ with the library that a format is of.

Each needs an environment of its own, for none of these is a dependency:

    flax        transformers==4.57.6, flax and the JAX of its time (benchmarks/environments)

    python scripts/make_format_golden.py flax

A tensor's values follow from its name, `values`, so that a test knows them without another file.
"""

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


if __name__ == "__main__":
    {"flax": flax}[sys.argv[1]]()
