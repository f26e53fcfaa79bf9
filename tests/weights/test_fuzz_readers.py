"""Files with a few bytes changed: an error that is expected, or what the format cannot tell.

JAXBERT_FUZZ says how many mutations of each file are tried.
"""

import contextlib
import os
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import tf_files
import torch_files
from weight_files import WRITERS, read_all, some_arrays

from jaxbert.errors import InputError
from jaxbert.weights.readers.sstable import read_table
from jaxbert.weights.readers.wire import unsnappy
from tests.fuzz.mutation import mutated

MUTATIONS = int(os.environ.get("JAXBERT_FUZZ", "100"))


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
def test_a_changed_file_is_refused_or_the_same(tmp_path, write):
    write(tmp_path)
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
