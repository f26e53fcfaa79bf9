"""Safetensors files: bytes and dtypes both ways, shards, and what each broken file says."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxbert.weights.writer as writer
from jaxbert.weights.readers import open_checkpoint
from jaxbert.weights.writer import write_checkpoint

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": bool,
}  # fmt: skip


def some_tensors():
    rng = np.random.default_rng(0)
    tensors = {name: rng.integers(0, 2, (3, 4)).astype(dtype) for name, dtype in DTYPES.items()}
    return tensors | {"scalar": np.array(2.5), "empty": np.zeros((0, 3), np.float32)}


def read_all(directory):
    return {name: tensor.read() for name, tensor in open_checkpoint(directory).items()}


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("max_shard_bytes", [10**9, 100, 1])
def test_every_dtype_comes_back(tmp_path, max_shard_bytes):
    wanted = some_tensors()
    write_checkpoint(tmp_path, wanted, max_shard_bytes)
    assert (tmp_path / "model.safetensors").exists() == (max_shard_bytes == 10**9)
    assert_same(read_all(tmp_path), wanted)


def test_headers_tell_shape_and_dtype(tmp_path):
    write_checkpoint(tmp_path, some_tensors())
    opened = open_checkpoint(tmp_path)
    for name in DTYPES:
        assert (opened[name].shape, opened[name].dtype) == ((3, 4), name)
    floats = {name for name, tensor in opened.items() if tensor.is_float}
    assert floats == {"F64", "F32", "F16", "BF16", "scalar", "empty"}


def test_a_transposed_view_is_stored_as_it_reads(tmp_path):
    matrix = np.arange(6.0).reshape(2, 3)
    write_checkpoint(tmp_path, {"a": matrix.T, "b": matrix[:, ::-1]})
    assert_same(read_all(tmp_path), {"a": matrix.T.copy(), "b": matrix[:, ::-1].copy()})


def test_the_file_is_laid_out_as_by_transformers(tmp_path):
    write_checkpoint(tmp_path, {"a": np.zeros(2, np.float32)})
    raw = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert header["__metadata__"] == {"format": "pt"}
    assert header["a"] == {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_shards_are_full_but_not_over_the_limit_and_the_index_is_hugging_faces(tmp_path):
    sizes = dict(a=2, b=3, c=9, d=1)
    tensors = {name: np.ones(size, np.float32) for name, size in sizes.items()}
    write_checkpoint(tmp_path, tensors, max_shard_bytes=20)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert index == {
        "metadata": {"total_size": 60},
        "weight_map": dict(zip("abcd", [files[0], files[0], files[1], files[2]], strict=True)),
    }
    assert sorted(load_file(tmp_path / files[0])) == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*files, "model.safetensors.index.json"]
    )


def test_files_of_an_earlier_save_go_and_others_stay(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model-of-mine.safetensors").write_text("mine")
    kept = {"tokenizer.json", "model-of-mine.safetensors"}
    sharded = {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    }
    tensors = {"a": np.zeros(2, np.float32), "b": np.ones(2, np.float32)}
    for limit, wanted in ((100, {"model.safetensors"}), (8, sharded), (100, {"model.safetensors"})):
        write_checkpoint(tmp_path, tensors, limit)
        assert {path.name for path in tmp_path.iterdir()} == wanted | kept
        assert_same(read_all(tmp_path), tensors)


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    old = {"a": np.zeros(2, np.float32)}
    write_checkpoint(tmp_path, old)

    def full_disk(arrays, path, metadata):
        path.write_bytes(b"half")
        raise writer.SafetensorError("No space left on device")

    monkeypatch.setattr(writer, "save_file", full_disk)
    with pytest.raises(OSError, match=r"model.safetensors cannot be written: No space left"):
        write_checkpoint(tmp_path, {"a": np.ones(2, np.float32)})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert_same(read_all(tmp_path), old)


def test_who_may_read_a_file_is_up_to_the_umask(tmp_path):
    write_checkpoint(tmp_path, {"a": np.zeros(2, np.float32)})
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_any_truncation_is_one_error_that_names_the_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.arange(3, dtype=np.float32)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is no complete safetensors file") as error:
            open_checkpoint(tmp_path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"version https://git-lfs.github.com/spec/v1\n", struct.pack("<Q", 4) + b"\x80\x04NN"],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"is no complete safetensors file .* fetch or write it"):
        open_checkpoint(tmp_path)


def sharded(directory, **changed):
    write_checkpoint(directory, {n: np.zeros(2, np.float32) for n in "abc"}, max_shard_bytes=8)
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= changed
    path.write_text(json.dumps(index))


def test_missing_shards_are_listed(tmp_path):
    sharded(tmp_path)
    for i in (1, 3):
        (tmp_path / f"model-0000{i}-of-00003.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"index.json names files .* not beside it: model-00001\S+, model-00003"
    ):
        open_checkpoint(tmp_path)


def test_a_truncated_shard_is_named(tmp_path):
    sharded(tmp_path)
    path = tmp_path / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model-00002-of-00003.safetensors is no complete"):
        open_checkpoint(tmp_path)


def test_tensors_that_are_not_in_their_shard_are_listed(tmp_path):
    sharded(tmp_path, x="model-00001-of-00003.safetensors", a="model-00002-of-00003.safetensors")
    with pytest.raises(
        ValueError, match=r"not in their files: a in model-00002.*, x in model-00001"
    ):
        open_checkpoint(tmp_path)


def test_of_a_shard_what_the_index_says_is_there_is_read(tmp_path):
    sharded(tmp_path)
    extra = {"b": np.ones(2, np.float32), "c": np.zeros(2, np.float32), "d": np.ones(2)}
    save_file(extra, tmp_path / "model-00003-of-00003.safetensors")
    assert_same(read_all(tmp_path), {name: np.zeros(2, np.float32) for name in "abc"})


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/etc/passwd", "..", "", "sub/x", "a\\b", "x\n", ".hidden"]
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path, shard):
    directory = tmp_path / "model"
    directory.mkdir()
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    sharded(directory, a=shard)
    with pytest.raises(ValueError, match="must name files beside itself, got"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must hold a JSON object, got list"),
        ("{}", "must hold an object weight_map"),
        ('{"weight_map": {"a": 1}}', "must hold an object weight_map"),
        ("\udcff", "is not valid JSON"),
    ],
)
def test_a_corrupt_index_is_refused(tmp_path, content, text):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"model.safetensors.index.json {text}"):
        open_checkpoint(tmp_path)


def test_a_format_that_is_not_read_is_named(tmp_path):
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF")
    with pytest.raises(ValueError, match=r"weights as tf_model.h5, which jaxbert does not read: "):
        open_checkpoint(tmp_path)


def test_an_empty_directory_has_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights: none of model.safetensors, model.s"):
        open_checkpoint(tmp_path)


def test_the_first_format_that_is_there_is_read(tmp_path):
    for name in ("model.ckpt-3.index", "flax_model.msgpack", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=f"{name} is no "):
            open_checkpoint(tmp_path)
    write_checkpoint(tmp_path, some_tensors())
    assert_same(read_all(tmp_path), some_tensors())


def test_two_models_of_one_format_are_refused(tmp_path):
    for step in (100, 200):
        (tmp_path / f"model.ckpt-{step}.index").write_bytes(b"")
    with pytest.raises(ValueError, match=r"several models, model.ckpt-100.index, model.ckpt-200"):
        open_checkpoint(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel tells no mappings")
def test_what_was_read_is_not_kept_in_memory_with_its_file(tmp_path):
    write_checkpoint(tmp_path, {"a": np.ones((3, 2), np.float32)})
    found = open_checkpoint(tmp_path)
    assert found["a"].read().sum() == 6
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
