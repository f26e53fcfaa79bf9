"""flax_model.msgpack: what Hugging Face's Flax class wrote, and what flax itself writes."""

import json
import struct
from pathlib import Path

import flax.serialization
import ml_dtypes
import msgpack
import numpy as np
import pytest
from golden_files import assert_golden

from jaxbert.errors import InputError
from jaxbert.models import BertForPreTraining
from jaxbert.weights.pretrained import load_pretrained
from jaxbert.weights.readers import open_checkpoint

GOLDEN = Path(__file__).parent.parent / "golden"


def tree():
    rng = np.random.default_rng(0)
    return {
        "dense": {"kernel": rng.normal(size=(3, 4)).astype(np.float32), "bias": np.ones(4)},
        "conv": {"kernel": rng.normal(size=(2, 3, 4)).astype(np.float16)},
        "norm": {"scale": np.ones(3, np.float32), "bias": np.zeros(3, ml_dtypes.bfloat16)},
        "table": {"embedding": rng.normal(size=(300, 4)).astype(np.float32)},
        "ids": np.arange(5),
        "scalar": np.float32(2.5),
        "true": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
    }


WANTED = {
    "dense.weight": tree()["dense"]["kernel"].T,
    "dense.bias": tree()["dense"]["bias"],
    "conv.weight": tree()["conv"]["kernel"],
    "norm.weight": tree()["norm"]["scale"],
    "norm.bias": tree()["norm"]["bias"],
    "table.weight": tree()["table"]["embedding"],
    **{name: np.asarray(tree()[name]) for name in ("ids", "scalar", "true", "empty")},
}


def assert_wanted(directory):
    opened = open_checkpoint(directory)
    assert opened.keys() == WANTED.keys()
    for name, array in WANTED.items():
        got = opened[name].read()
        assert opened[name].shape == got.shape == array.shape, name
        assert got.dtype == array.dtype, name
        np.testing.assert_array_equal(got, array, err_msg=name)


@pytest.mark.parametrize("directory", ["flax", "flax_shards"])
def test_what_hugging_faces_flax_class_wrote(directory):
    opened = open_checkpoint(GOLDEN / directory)
    assert len(opened) == 46
    assert_golden(opened)
    _, report = load_pretrained(BertForPreTraining, GOLDEN / directory)
    assert (report.initialized, report.unused) == ((), ())


def flax_safetensors(path, arrays, metadata):
    """The format written out by hand: the length of a JSON header, the header, and the bytes."""
    words = {"float32": "F32", "float16": "F16", "float64": "F64", "bfloat16": "BF16"}
    words |= {"int64": "I64", "bool": "BOOL"}
    header, content = {"__metadata__": metadata}, b""
    for name, array in arrays.items():
        end = len(content) + array.nbytes
        header[name] = {"dtype": words[array.dtype.name], "shape": list(array.shape),
                        "data_offsets": [len(content), end]}  # fmt: skip
        content += array.tobytes()
    said = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(said)) + said + content)


def flattened(node, scope=()):
    """{"."-joined name: array}, as Flax's classes flattened their parameters."""
    if not isinstance(node, dict):
        return {".".join(scope): np.asarray(node)}
    return {k: v for key, below in node.items() for k, v in flattened(below, (*scope, key)).items()}


def test_what_flax_wrote_as_safetensors(tmp_path):
    flax_safetensors(tmp_path / "model.safetensors", flattened(tree()), {"format": "flax"})
    assert_wanted(tmp_path)


def test_a_model_that_flax_wrote_as_safetensors(tmp_path):
    raw = (GOLDEN / "flax" / "flax_model.msgpack").read_bytes()
    arrays = flattened(flax.serialization.msgpack_restore(raw))
    flax_safetensors(tmp_path / "model.safetensors", arrays, {"format": "flax"})
    opened, wanted = open_checkpoint(tmp_path), open_checkpoint(GOLDEN / "flax")
    assert opened.keys() == wanted.keys()
    for name, tensor in opened.items():
        np.testing.assert_array_equal(tensor.read(), wanted[name].read(), err_msg=name)
    (tmp_path / "config.json").write_bytes((GOLDEN / "flax" / "config.json").read_bytes())
    _, report = load_pretrained(BertForPreTraining, tmp_path)
    assert (report.initialized, report.unused) == ((), ())


@pytest.mark.parametrize("chunk", [2**30, 1000, 16])
def test_what_flax_writes_whole_and_in_chunks(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", chunk)
    content = flax.serialization.msgpack_serialize(tree())
    assert (b"chunked" in content) == (chunk < 2**30)
    (tmp_path / "flax_model.msgpack").write_bytes(content)
    assert_wanted(tmp_path)


def test_shards(tmp_path):
    weight_map = {}
    for i, names in enumerate(
        (["dense", "ids"], ["conv", "norm", "scalar"], ["table", "true", "e"])
    ):
        part = {name: held for name, held in tree().items() if name.startswith(tuple(names))}
        file = f"flax_model-{i + 1:05}-of-00003.msgpack"
        (tmp_path / file).write_bytes(flax.serialization.msgpack_serialize(part))
        for name, held in part.items():
            inner = [f"{name}/{leaf}" for leaf in held] if isinstance(held, dict) else [name]
            weight_map |= dict.fromkeys(inner, file)
    index = tmp_path / "flax_model.msgpack.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert_wanted(tmp_path)
    index.write_text(json.dumps({"weight_map": weight_map | {"x/kernel": file}}))
    with pytest.raises(InputError, match=r"not in their files: x/kernel in flax_model-00003"):
        open_checkpoint(tmp_path)


def test_two_names_in_two_shards_that_are_one(tmp_path):
    weight_map = {}
    for leaf in ("scale", "weight"):
        part = {"norm": {leaf: np.ones(3, np.float32)}}
        file = weight_map[f"norm/{leaf}"] = f"flax_model-{leaf}.msgpack"
        (tmp_path / file).write_bytes(flax.serialization.msgpack_serialize(part))
    index = tmp_path / "flax_model.msgpack.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match=r"norm/scale and norm/weight are one tensor"):
        open_checkpoint(tmp_path)


def packed(value):
    return msgpack.packb(value, strict_types=True)


def array(shape=(2,), dtype="float32", content=bytes(8), code=1):
    return msgpack.ExtType(code, packed([list(shape), dtype, content]))


def nested(levels):
    return packed({"a": nested(levels - 1)}) if levels else b"\x80"


CHUNKS = {"__msgpack_chunked_array__": True, "shape": {"0": 2}}
HOSTILE = {
    "nothing": (b"", r"cut short at byte 0"),
    "a page": (b"<!DOCTYPE html>", r"goes on after its end"),
    "a number": (b"\x07", r"it is no map"),
    "an array": (packed([1, 2]), r"a msgpack array where an array should be"),
    "nil": (packed({"a": None}), r"a msgpack nil where an array should be"),
    "a float": (packed({"a": 1.5}), r"a msgpack number where"),
    "a string": (packed({"a": "b"}), r"a msgpack string where"),
    "an unused code": (b"\x81\xa1a\xc1", r"a msgpack number where"),
    "a number for an array": (packed({"a": {"b": 7}}), r"'a/b' is the number 7, wanted an array"),
    "a number for a key": (packed({1: array()}), r"a msgpack integer where a name should be"),
    "a name that is no text": (b"\x81\xa1\xff\x80", r"is not UTF-8"),
    "a long name": (packed({"a" * 600: array()}), r"a msgpack string where a name should be"),
    "a name twice": (b"\x82" + (packed("a") + packed(array())) * 2, r"it has 'a' twice"),
    "a huge map": (b"\xdf\xff\xff\xff\xff", r"cut short"),
    "many names": (
        b"\xdf\0\1\0\0" + b"".join(packed(f"{i}") + b"\7" for i in range(65_536)),
        r"too many or too deep maps",
    ),
    "deep maps": (b"\x81\xa1a" * 100_000, r"too many or too deep maps"),
    "a huge extension": (b"\x81\xa1a\xc9\xff\xff\xff\xff\1", r"cut short"),
    "another extension": (packed({"a": msgpack.ExtType(5, b"x")}), r"of type 5, wanted 1"),
    "a complex number": (packed({"a": array(code=2)}), r"extension of type 2, wanted 1"),
    "an array of two parts": (
        packed({"a": msgpack.ExtType(1, packed([[2], "float32"]))}),
        r"is not \(shape, dtype, bytes\)",
    ),
    "objects": (packed({"a": array(dtype="object")}), r"of dtype 'object'"),
    "complex numbers": (packed({"a": array(dtype="complex64")}), r"of dtype 'complex64'"),
    "a shape of text": (packed({"a": array(shape=("x",))}), r"a msgpack string, wanted integer"),
    "fewer than none": (
        packed({"a": array((-100, -200), content=bytes(80_000))}),
        r"\[-100, -200\] float32 in",
    ),
    "too few bytes": (packed({"a": array(shape=(3,))}), r"\[3\] float32 in 8 bytes"),
    "a huge shape": (packed({"a": array(shape=(2**63, 2**63))}), r"float32 in 8 bytes"),
    "many axes": (packed({"a": array(shape=(1,) * 40)}), r"has 40 axes"),
    "bytes that are text": (packed({"a": array(content="x" * 8)}), r"a msgpack string, wanted byt"),
    "a longer extension": (
        packed({"a": msgpack.ExtType(1, packed([[2], "float32", bytes(8)]) + b"x")}),
        r"not as long as its extension",
    ),
    "more after the end": (packed({"a": array()}) + b"x", r"goes on after its end"),
    "no chunks": (packed({"a": CHUNKS}), r"the chunks of 'a' do not make up an array"),
    "too few chunks": (
        packed({"a": CHUNKS | {"chunks": {"0": array((1,), content=bytes(4))}}}),
        r"the chunks of 'a'",
    ),
    "chunks of two kinds": (
        packed({"a": CHUNKS | {"chunks": {
            "0": array((1,), content=bytes(4)), "1": array((1,), "int32", bytes(4))}}}),
        r"the chunks of 'a'",
    ),
    "chunks out of order": (packed({"a": CHUNKS | {"chunks": {"1": array()}}}), r"the chunks of"),
    "two names that are one": (
        packed({"a": {"kernel": array((1, 2)), "scale": array()}}),
        r"a/kernel and a/scale are one tensor, a.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_tree_of_arrays_is_refused_by_name(tmp_path, name):
    content, text = HOSTILE[name]
    (tmp_path / "flax_model.msgpack").write_bytes(content)
    with pytest.raises(InputError, match=rf"flax_model.msgpack is no Flax model: .*{text}"):
        open_checkpoint(tmp_path)


def test_any_truncation_is_one_error_that_names_the_file(tmp_path):
    whole = packed({"a": {"kernel": array((1, 2)), "bias": array()}})
    for length in range(len(whole)):
        (tmp_path / "flax_model.msgpack").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"flax_model.msgpack is no Flax model"):
            open_checkpoint(tmp_path)


def test_opening_leaves_the_bytes_where_they_are(tmp_path):
    with (tmp_path / "flax_model.msgpack").open("wb") as file:
        size = 1 << 31  # a hole, which takes no room on the disk
        head = packed([[size], "uint8"])[1:] + b"\xc6" + struct.pack(">I", size)
        file.write(b"\x81\xa1a\xc9" + struct.pack(">Ib", 1 + len(head) + size, 1) + b"\x93" + head)
        file.truncate(file.tell() + size)
    assert open_checkpoint(tmp_path)["a"].shape == (1 << 31,)
