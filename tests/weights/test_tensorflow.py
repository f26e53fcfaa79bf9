"""TensorFlow's checkpoints: one that it wrote, and those of a writer in `tf_files`."""

import shutil
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow
import pytest
import tf_files
from golden_files import assert_golden
from hf_files import parameters
from tf_files import entry, field, some_arrays, table, varint, write

from jaxbert.errors import InputError
from jaxbert.models import (
    AutoModel,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)
from jaxbert.weights.pretrained import load_pretrained
from jaxbert.weights.readers import open_checkpoint
from jaxbert.weights.readers.crc32c import crc32c
from jaxbert.weights.readers.wire import fields, unsnappy
from jaxbert.weights.readers.wire import varint as read_varint

GOLDEN = Path(__file__).parent.parent / "golden" / "tensorflow"


def read_all(directory):
    return {tensor.name: tensor.read() for tensor in open_checkpoint(directory).values()}


def test_what_tensorflow_wrote_without_what_its_optimizer_keeps():
    opened = open_checkpoint(GOLDEN)
    assert len(opened) == 46
    assert_golden(opened)
    assert opened["cls.seq_relationship.output_weights"].shape == (2, 8)


def test_a_directory_of_google_is_a_model(tmp_path):
    model, report = load_pretrained(BertForPreTraining, GOLDEN)
    assert (report.initialized, report.unused) == ((), ())
    assert model.config.num_hidden_layers == 2
    assert type(AutoModel.from_pretrained(GOLDEN)).__name__ == "BertModel"
    model.save_pretrained(tmp_path)
    again = BertForPreTraining.from_pretrained(tmp_path)
    got, wanted = parameters(again), parameters(model)
    assert all(np.array_equal(got[path], array) for path, array in wanted.items())


def test_a_config_of_hugging_face_goes_before_google_s(tmp_path):
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match="model_type='gpt2'"):
        AutoModel.from_pretrained(tmp_path)


def fine_tuned(tmp_path, head):
    """Google's encoder with the head of one of its scripts."""
    held = {name: array.T if name.endswith("kernel") else array
            for name, array in read_all(GOLDEN).items() if not name.startswith("cls/")}  # fmt: skip
    shutil.copy(GOLDEN / "bert_config.json", tmp_path)
    return write(tmp_path, held | head, stem="model.ckpt-343")


def test_the_head_of_run_classifier(tmp_path):
    head = {"output_weights": np.ones((3, 8), np.float32), "output_bias": np.ones(3, np.float32)}
    source = fine_tuned(tmp_path, head)
    model, report = load_pretrained(BertForSequenceClassification, source, num_labels=3)
    assert (report.initialized, report.unused) == ((), ())
    assert np.all(parameters(model)["head/classifier/kernel"] == 1)


def test_the_head_of_run_squad(tmp_path):
    head = {
        "cls/squad/output_weights": np.ones((2, 8), np.float32),
        "cls/squad/output_bias": np.ones(2, np.float32),
    }
    model, report = load_pretrained(BertForQuestionAnswering, fine_tuned(tmp_path, head))
    assert report.initialized == ()
    assert np.all(parameters(model)["head/qa_outputs/kernel"] == 1)


@pytest.mark.parametrize("snappy", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
def test_blocks_compressed_or_not_in_one_file_or_several(tmp_path, shards, snappy):
    wanted = some_arrays() | {"bf": np.arange(4).astype(ml_dtypes.bfloat16)}
    write(tmp_path, wanted, shards=shards, snappy=snappy)
    got = read_all(tmp_path)
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        array = array.T if name == "scope/dense/kernel" else array
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_names_and_layout_are_pytorchs(tmp_path):
    write(tmp_path, some_arrays())
    opened = open_checkpoint(tmp_path)
    assert opened["scope.dense.weight"].shape == (4, 3)
    assert opened["scope.cube.weight"].shape == (2, 3, 4)
    assert "scope.layer_0.bias" in opened


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 255, 256, 16_384, 16_387, 40_001])
def test_the_checksum_is_that_of_one_bit_at_a_time(size):
    content = np.random.default_rng(size).bytes(size)
    value = crc32c(content)
    assert ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF == tf_files.crc(content)


@pytest.mark.parametrize(
    ("content", "value"),
    [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)],
)
def test_the_checksum_is_that_of_the_standard(content, value):
    assert crc32c(content) == value  # RFC 3720, B.4


@pytest.mark.parametrize("size", [0, 1, 10, 1000, 100_000])
@pytest.mark.parametrize("letters", [1, 2, 4, 256])
def test_snappy_comes_back(size, letters):
    plain = bytes(np.random.default_rng(size).integers(0, letters, size, np.uint8))
    packed = pyarrow.Codec("snappy").compress(plain, asbytes=True)
    assert unsnappy(packed, size) == plain
    if size:
        with pytest.raises(InputError, match=f"would become {size}"):
            unsnappy(packed, size - 1)


@pytest.mark.parametrize(
    "content",
    [b"\5\x01\x00", b"\5\x00a\x05\2", b"\5\x10ab", b"\5\xfc\xff\xff\xff\xff", b"\5\x02\0", b"\5",
     b"\1\x04ab", b"\xff" * 11],
)  # fmt: skip
def test_what_snappy_does_not_write_is_refused(content):
    with pytest.raises(InputError):
        unsnappy(content, 100)


def test_numbers_and_fields():
    for value in (0, 1, 127, 128, 300, 2**32, 2**64 - 1):
        assert read_varint(b"x" + varint(value) + b"y", 1) == (value, 1 + len(varint(value)))
    with pytest.raises(InputError, match="there is no number at byte 0 of 10"):
        read_varint(varint(2**64), 0)
    message = field(1, 5) + field(2, b"ab") + varint(3 << 3 | 5) + b"\1\0\0\0"
    assert list(fields(message)) == [(1, 5), (2, b"ab"), (3, 1)]
    for broken in (b"\x80" * 20, b"\x12\x05a", b"\x0b", varint(2**64)):
        with pytest.raises(InputError):
            list(fields(broken))


FLOAT = np.arange(6, dtype=np.float32).tobytes()
HEADER = (b"", field(1, 1))
ENTRIES = {
    "no header": ([(b"a", entry(1, (6,), 0, 0, FLOAT))], r"it has no header"),
    "big-endian": ([(b"", field(1, 1) + field(2, 1))], r"big-endian order"),
    "another type": ([HEADER, (b"a", entry(7, (6,), 0, 0, FLOAT))], r"TensorFlow's type 7"),
    "a long entry": ([HEADER, (b"a", b"\x12\0" * 1000)], r"'a' is told in 2000 bytes"),
    "slices": ([HEADER, (b"a", entry(1, (6,), 0, 0, FLOAT) + field(7, b""))], r"cut into slices"),
    "too few bytes": ([HEADER, (b"a", entry(1, (7,), 0, 0, FLOAT))], r"\[7\] F32 in 24 bytes"),
    "a huge shape": ([HEADER, (b"a", entry(1, (2**62, 4), 0, 0, FLOAT))], r"F32 in 24 bytes"),
    "an unknown size": (
        [HEADER, (b"a", entry(1, (2**64 - 1,), 0, 0, FLOAT))],
        r"too many axes, or an unknown one",
    ),
    "many axes": ([HEADER, (b"a", entry(1, (1,) * 40, 0, 0, FLOAT))], r"too many axes"),
    "after the end": ([HEADER, (b"a", entry(1, (6,), 0, 4, FLOAT))], r"'a' is after the end of"),
    "no such shard": ([HEADER, (b"a", entry(1, (6,), 1, 0, FLOAT))], r"in bert_model.ckpt.data"),
    "a huge shard": ([HEADER, (b"a", entry(1, (6,), 2**63, 0, FLOAT))], r"which is not beside it"),
    "no message": ([HEADER, (b"a", b"\xff" * 12)], r"there is no number at byte 0"),
    "a name that is no text": ([HEADER, (b"\xff", b"")], r"a name is not UTF-8"),
    "objects": ([HEADER, (b"_CHECKPOINTABLE_OBJECT_GRAPH", b"")], r"objects of TensorFlow 2"),
    "two names that are one": (
        [HEADER, *((name, entry(1, (6,), 0, 0, FLOAT)) for name in (b"a/scale", b"a/weight"))],
        r"a/scale and a/weight are one tensor, a.weight",
    ),
    "a long name": ([HEADER, (b"a" * 600, b"")], r"has a key that is none"),
    "many entries": ([HEADER, *((f"{i:05}".encode(), b"") for i in range(20_001))], r"more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
def test_an_index_that_is_wrong_is_refused_by_name(tmp_path, name):
    entries, text = ENTRIES[name]
    (tmp_path / "bert_model.ckpt.index").write_bytes(table(entries, per_block=1000))
    (tmp_path / "bert_model.ckpt.data-00000-of-00001").write_bytes(FLOAT)
    with pytest.raises(InputError, match=rf"ckpt.index is no TensorFlow checkpoint: .*{text}"):
        open_checkpoint(tmp_path)


def test_a_block_that_is_not_within_the_index_is_refused(tmp_path):
    content = table([HEADER])[:-48] + (b"\0\0" + varint(10) + varint(1 << 40)).ljust(40, b"\0")
    (tmp_path / "bert_model.ckpt.index").write_bytes(content + table([HEADER])[-8:])
    with pytest.raises(InputError, match=r"block at byte 10 of 1099511627776 bytes is not within"):
        open_checkpoint(tmp_path)


def test_a_block_that_is_named_twice_is_refused(tmp_path):
    content = tf_files.join([(b"", tf_files.block([HEADER]))], repeat=2)
    (tmp_path / "bert_model.ckpt.index").write_bytes(content)
    with pytest.raises(InputError, match=r"its block at byte 0 begins before the last one ends"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (b"", r"there is no number at byte -4 of 0"),
        (b"\1\1\0a" + struct.pack("<II", 0, 1), r"at byte 3 of a block has a key that is none"),
        (b"\0\1\7a" + struct.pack("<II", 0, 1), r"ends in the middle of an entry"),
        (b"\0\1\0a" + struct.pack("<II", 0, 99), r"ends in the middle of an entry"),
    ],
)
def test_a_block_that_is_none_is_refused(tmp_path, block, text):
    (tmp_path / "bert_model.ckpt.index").write_bytes(tf_files.join([(b"", block)]))
    with pytest.raises(InputError, match=text):
        open_checkpoint(tmp_path)


def test_a_changed_byte_of_the_index_is_found_or_means_nothing(tmp_path):
    path = write(tmp_path, {"a/b": np.ones(4, np.float32)}) / "bert_model.ckpt.index"
    whole, wanted, refused = path.read_bytes(), read_all(tmp_path), 0
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        try:
            np.testing.assert_equal(read_all(tmp_path), wanted)
        except InputError:
            refused += 1
    assert refused > len(whole) / 2  # the block about the table, and the padding of its end


def test_any_truncation_of_the_index_is_one_error_that_names_it(tmp_path):
    path = write(tmp_path, some_arrays()) / "bert_model.ckpt.index"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"bert_model.ckpt.index is no TensorFlow checkpoint"):
            open_checkpoint(tmp_path)


def test_any_changed_byte_of_the_numbers_is_found(tmp_path):
    path = write(tmp_path, {"a": np.ones(4, np.float32)}) / "bert_model.ckpt.data-00000-of-00001"
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(InputError, match=r"'a' does not match its checksum"):
            read_all(tmp_path)


def test_a_file_of_numbers_that_is_cut_short_is_named(tmp_path):
    path = write(tmp_path, some_arrays()) / "bert_model.ckpt.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"is after the end of bert_model.ckpt.data-00000-of-0"):
        open_checkpoint(tmp_path)


def test_a_large_index_is_not_read(tmp_path):
    with (tmp_path / "bert_model.ckpt.index").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"is of 1099511627776 bytes: it is no index"):
        open_checkpoint(tmp_path)
