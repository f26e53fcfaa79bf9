"""The smallest files of weights, one for each way of writing them."""

import json
from unittest import mock

import flax.serialization
import ml_dtypes
import numpy as np
import tf_files
import torch_files

from jaxbert.weights.readers import open_checkpoint
from jaxbert.weights.writer import write_checkpoint


def some_arrays():
    rng = np.random.default_rng(0)
    return {
        "a/kernel": rng.normal(size=(3, 4)).astype(np.float32),
        "a/bias": rng.normal(size=4).astype(np.float32),
        "half": rng.normal(size=5).astype(np.float16),
        "brain": rng.normal(size=6).astype(ml_dtypes.bfloat16),
        "whole": np.arange(7),
        "empty": np.zeros((0, 3), np.float32),
    }


def safetensors(directory):
    write_checkpoint(directory, some_arrays())


def safetensors_shards(directory):
    write_checkpoint(directory, some_arrays(), max_shard_bytes=40)


def torch_zip(directory):
    (directory / "pytorch_model.bin").write_bytes(torch_files.state_dict(some_arrays()))


def torch_zip_shards(directory):
    weight_map = {}
    for i, (name, array) in enumerate(some_arrays().items()):
        file = weight_map[name] = f"pytorch_model-{i}.bin"
        (directory / file).write_bytes(torch_files.state_dict({name: array}))
    index = directory / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def msgpack(directory):
    content = flax.serialization.msgpack_serialize({"scope": some_arrays(), "b": np.float32(2)})
    (directory / "flax_model.msgpack").write_bytes(content)


def msgpack_chunks(directory):
    with mock.patch.object(flax.serialization, "MAX_CHUNK_SIZE", 12):
        msgpack(directory)


def tensorflow(directory):
    tf_files.write(directory, some_arrays())


def tensorflow_snappy_shards(directory):
    tf_files.write(directory, some_arrays(), shards=3, snappy=True)


# Writer -> whether all of the file is under checksums.
WRITERS = {
    safetensors: False,
    safetensors_shards: False,
    torch_zip: True,
    torch_zip_shards: False,  # the index is not
    msgpack: False,
    msgpack_chunks: False,
    tensorflow: True,
    tensorflow_snappy_shards: True,
}


def read_all(directory):
    return {tensor.name: tensor.read() for tensor in open_checkpoint(directory).values()}
