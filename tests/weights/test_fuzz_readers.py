"""Files with a few bytes changed: an error that is expected, or what the format cannot tell.

JAXBERT_FUZZ says how many mutations of each file are tried.
"""

import contextlib
import json
import os
from pathlib import Path

import flax.serialization
import ml_dtypes
import numpy as np
import pyarrow
import pytest
import tf_files
import torch_files

from jaxbert.errors import InputError
from jaxbert.weights.readers import open_checkpoint
from jaxbert.weights.readers.sstable import read_table
from jaxbert.weights.readers.wire import unsnappy
from jaxbert.weights.writer import write_checkpoint

MUTATIONS = int(os.environ.get("JAXBERT_FUZZ", "100"))


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


def msgpack_chunks(directory, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 12)
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


def mutated(content, rng):
    """With one to four bytes or numbers changed, a part cut out, doubled, or the end cut off."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if not content:
            break
        at, kind = int(rng.integers(len(content))), rng.integers(7)
        length = int(rng.integers(1, 9))
        if kind == 0:
            content[at] ^= 1 << rng.integers(8)
        elif kind == 1:
            content[at] = rng.integers(256)
        elif kind == 2:
            content[at : at + length] = rng.choice([b"\0", b"\xff", b"\x7f"]) * length
        elif kind == 3:
            del content[at : at + length]
        elif kind == 4:
            content[at:at] = content[at : at + length * 4]
        elif kind == 5:
            other = int(rng.integers(len(content)))
            content[at : at + length] = content[other : other + length]
        elif rng.random() < 0.3:
            del content[at:]
    return bytes(content)


def read_all(directory):
    return {tensor.name: tensor.read() for tensor in open_checkpoint(directory).values()}


def try_mutations(directory, count, checked):
    """How often each thing happened."""
    originals = {path: path.read_bytes() for path in sorted(directory.iterdir())}
    wanted, found = read_all(directory), dict(refused=0, same=0, other=0)
    rng = np.random.default_rng(0)
    for i in range(count):
        path = list(originals)[int(rng.integers(len(originals)))]
        path.write_bytes(mutated(originals[path], rng))
        try:
            got = read_all(directory)
        except (InputError, OSError):
            found["refused"] += 1
            continue
        finally:
            path.write_bytes(originals[path])
        same = got.keys() == wanted.keys() and all(
            got[name].tobytes() == array.tobytes() and got[name].shape == array.shape
            for name, array in wanted.items()
        )
        assert same or not checked, f"mutation {i} of {path.name} was not seen"
        found["same" if same else "other"] += 1
    return found


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_changed_file_is_refused_or_the_same(tmp_path, monkeypatch, write):
    write(*(tmp_path, monkeypatch)[: write.__code__.co_argcount])
    found = try_mutations(tmp_path, MUTATIONS, WRITERS[write])
    print(write.__name__, found)
    assert found["refused"] > MUTATIONS / 3


@pytest.mark.parametrize("format", ["flax", "flax_shards", "tensorflow"])
def test_a_changed_golden_file(tmp_path, format):
    golden = Path(__file__).parent.parent / "golden" / format
    for path in golden.iterdir():
        if "config" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    found = try_mutations(tmp_path, MUTATIONS // 4, format == "tensorflow")
    print(format, found)
    assert found["refused"]


# Beneath the checksums, which hide from the tests above what is behind them.


def is_refused(directory):
    try:
        read_all(directory)
    except (InputError, OSError):
        return True
    return False


def test_a_changed_pickle_with_the_right_checksum(tmp_path):
    rng, refused = np.random.default_rng(0), 0
    values = {name: torch_files.tensor() for name in "abc"}
    metadata = torch_files.text("_metadata") + torch_files.mapping(a=b"K\1")
    pickle = torch_files.pickle_of(
        torch_files.ORDERED_DICT + torch_files.mapping(**values)[1:] + b"}" + metadata + b"sb"
    )
    for _ in range(MUTATIONS):
        content = torch_files.archive(mutated(pickle, rng))
        (tmp_path / "model.pt").write_bytes(content)
        refused += is_refused(tmp_path)
    assert MUTATIONS / 3 < refused < MUTATIONS


def test_changed_messages_with_the_right_checksums(tmp_path):
    rng, refused = np.random.default_rng(0), 0
    index = tf_files.write(tmp_path, some_arrays()) / "bert_model.ckpt.index"
    entries = list(read_table(index.read_bytes()))
    for _ in range(MUTATIONS):
        changed = [list(entry) for entry in entries]
        entry, part = changed[rng.integers(len(changed))], int(rng.random() < 0.8)
        entry[part] = mutated(entry[part], rng)
        index.write_bytes(tf_files.table(changed))
        refused += is_refused(tmp_path)
    assert MUTATIONS / 3 < refused < MUTATIONS


def test_changed_blocks_with_the_right_checksums(tmp_path, monkeypatch):
    rng, refused = np.random.default_rng(0), 0
    block = tf_files.block
    index = tf_files.write(tmp_path, some_arrays()) / "bert_model.ckpt.index"
    entries = list(read_table(index.read_bytes()))
    monkeypatch.setattr(tf_files, "block", lambda *given: mutated(block(*given), rng))
    for _ in range(MUTATIONS):
        index.write_bytes(tf_files.table(entries, per_block=100))
        refused += is_refused(tmp_path)
    assert MUTATIONS / 3 < refused <= MUTATIONS


def test_changed_snappy():
    rng = np.random.default_rng(0)
    plain = b"".join(f"bert/encoder/layer_{i}/output/dense".encode() for i in range(12))
    packed = pyarrow.Codec("snappy").compress(plain, asbytes=True)
    for _ in range(MUTATIONS):
        with contextlib.suppress(InputError):
            assert len(unsnappy(mutated(packed, rng), 1000)) <= 1000
