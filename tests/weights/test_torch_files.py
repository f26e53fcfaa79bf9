"""torch.save's files, hostile ones first: each is refused by name, soon, and in little memory."""

import argparse
import contextlib
import io
import os
import pickle
import re
import struct
import time
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import torch_files as files
from torch_files import archive, mapping, number, pickle_of, storage, tensor, text

from jaxbert.errors import InputError
from jaxbert.weights.readers import open_checkpoint

SECONDS, CONSTANT_BYTES = 1.0, 8 << 20


class Call:
    """What pickle writes as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Stateful:
    def __getstate__(self):
        return {"a": 1}


def named(name, arguments=b")"):
    module, _, attribute = name.rpartition(":")
    return f"c{module}\n{attribute}\n".encode() + arguments + b"R"


def doubled(levels, then=b""):
    """Each tuple holds the last one twice: 2**levels leaves in a few bytes."""
    return b")" + b"".join(b"q\0h\0\x86" for _ in range(levels)) + then


# Which pickle, and what its refusal must say.
PICKLES = {
    "os.system": (pickle.dumps(Call(os.system, "true"), 2), r"asks for 'posix.system'"),
    "eval": (pickle.dumps(Call(eval, "1"), 2), r"asks for '(__builtin__|builtins).eval'"),
    "exec": (pickle_of(named("builtins:exec")), r"asks for 'builtins.exec'"),
    "getattr": (pickle_of(named("builtins:getattr")), r"asks for 'builtins.getattr'"),
    "import": (pickle_of(named("importlib:import_module")), r"'importlib.import_module'"),
    "a module of the list": (pickle_of(named("torch:load")), r"asks for 'torch.load'"),
    "partial": (pickle_of(named("functools:partial")), r"asks for 'functools.partial'"),
    "an attribute of a name": (
        pickle_of(b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n"),
        r"asks for 'torch._utils._rebuild_tensor_v2.__globals__'",
    ),
    "a dotted split of a name": (
        pickle_of(b"ctorch\n_utils._rebuild_tensor_v2\n"),
        r"asks for 'torch._utils._rebuild_tensor_v2'",
    ),
    "a name without end": (pickle_of(b"c" + b"a" * 5000), r"name at byte 3 has no end"),
    "a class": (pickle.dumps(argparse.Namespace(a=1), 2), r"'(copy_reg|argparse)\.\w+'"),
    "a call of a result": (pickle_of(files.ORDERED_DICT + b")R"), r"it calls a dict of 0"),
    "a call of a storage": (pickle_of(named("torch:FloatStorage")), r"calls torch.FloatStorage"),
    "a call of a string": (pickle_of(text("os.system") + b")R"), r"it calls 'os.system'"),
    "arguments that are none": (
        pickle_of(b"ccollections\nOrderedDict\n]R"),
        r"calls collections.OrderedDict with a list of 0",
    ),
    "an OrderedDict of pairs": (
        pickle_of(named("collections:OrderedDict", b"]\x85")),
        r"makes an OrderedDict of something",
    ),
    "a parameter of a string": (
        pickle_of(named("torch._utils:_rebuild_parameter", text("x") + b"\x89)\x87")),
        r"parameter of something other than a tensor",
    ),
    "a tensor of a string": (pickle_of(tensor(text("x"))), r"other than a storage"),
    "torch.Size": (pickle_of(named("torch:Size", text("x") + b"\x85")), r"makes a torch.Size"),
    "BUILD with __setstate__": (
        pickle_of(files.ORDERED_DICT + mapping(__setstate__=text("x")) + b"b"),
        r"sets attributes of a dict of 0",
    ),
    "BUILD with __class__": (
        pickle_of(files.ORDERED_DICT + mapping(_metadata=b"}", __class__=b"N") + b"b"),
        r"sets attributes of a dict of 0",
    ),
    "BUILD of a tensor": (pickle_of(tensor() + b"}b"), r"adds to a tensor as if it were a dict"),
    "INST": (pickle_of(b"(ios\nsystem\n"), r"operation INST at byte 3"),
    "OBJ": (pickle_of(b"(cbuiltins\neval\no")[:3] + b"o.", r"operation OBJ at byte 3"),
    "NEWOBJ": (pickle_of(b"ccollections\nOrderedDict\n)\x81"), r"operation NEWOBJ"),
    "NEWOBJ_EX": (pickle_of(b"))}\x92"), r"operation NEWOBJ_EX"),
    "STACK_GLOBAL": (pickle_of(text("os") + text("system") + b"\x93"), r"operation STACK_GLOBAL"),
    "EXT1": (pickle_of(b"\x82\x01"), r"operation EXT1"),
    "EXT4": (pickle_of(b"\x84\x01\0\0\0"), r"operation EXT4"),
    "PERSID": (pickle_of(b"Pstorage\n"), r"operation PERSID"),
    "BYTEARRAY8": (pickle_of(b"\x96" + b"\xff" * 8), r"operation BYTEARRAY8"),
    "NEXT_BUFFER": (pickle_of(b"\x97"), r"operation NEXT_BUFFER"),
    "LONG4": (pickle_of(b"\x8b\xff\xff\xff\x7f"), r"operation LONG4"),
    "no operation": (pickle_of(b"\xff"), r"operation 0xff at byte 2"),
    "protocol 4": (pickle.dumps({}, 4), r"pickle protocol 4, and torch.save writes 2"),
    "a long number": (pickle_of(b"\x8a\xff" + b"\1" * 255), r"number of 255 bytes"),
    "a long string": (pickle_of(b"X\xff\xff\xff\xff"), r"string of 4294967295 bytes"),
    "a string that is none": (pickle_of(b"X\2\0\0\0\xff\xfe"), r"string that is not UTF-8"),
    "nothing": (b"", r"it ends in the middle"),
    "an end at once": (b"\x80\x02.", r"takes what is not there"),
    "no end": (pickle_of(mapping(a=tensor()))[:-1], r"it ends in the middle"),
    "more after the end": (pickle_of(b"}") + b"cos\nsystem\n", r"goes on after its end"),
    "two results": (pickle_of(b"}}"), r"goes on after its end"),
    "no mark": (pickle_of(b"Nt"), r"up to a mark that is not there"),
    "a mark as a value": (pickle_of(b"(Q"), r"takes what is not there"),
    "no memory": (pickle_of(b"h\7"), r"recalls what it never stored"),
    "a key without value": (pickle_of(b"}(" + text("a") + b"u"), r"a key has no value"),
    "memo bomb": (pickle_of(doubled(9000)), r"it is a tuple"),
    "memo bomb as a key": (pickle_of(b"}" + doubled(9000, b"Ns")), r"a key is a tuple"),
    "memo bomb as a shape": (
        pickle_of(named("torch:Size", doubled(9000, b"\x85"))),
        r"makes a torch.Size",
    ),
    "a long tuple over and over": (
        pickle_of(b"(" + b"K\1" * 45_000 + b"tq\0(" + b"ctorch\nSize\nh\0\x85R" * 9000 + b"t"),
        r"makes a torch.Size",
    ),
    "deep lists": (pickle_of(b"]" * 40_000 + b"a" * 39_999), r"it is a list of 1"),
    "deep tuples": (pickle_of(b")" + b"\x85" * 90_000), r"it is a tuple"),
    "a list in itself": (pickle_of(b"]q\0h\0a"), r"it is a list of 1"),
    "many objects": (pickle_of(b"}" * 300_000), r"more than 100000 operations"),
    "many memories": (
        pickle_of(b"".join(b"}r" + struct.pack("<I", i) for i in range(60_000))),
        r"more than 100000 operations",
    ),
    "another reference": (pickle_of(b"(" + text("module") + b"tQ"), r"as if it were a storage"),
    "a reference of other parts": (
        pickle_of(b"(" + text("storage") + b"NNNNtQ"),
        r"refers to a storage that is none",
    ),
    "a storage elsewhere": (
        pickle_of(mapping(a=tensor(storage("../../etc/passwd")))),
        r"refers to a storage that is none",
    ),
    "a storage of fewer than none": (
        pickle_of(mapping(a=tensor(storage(numel=-1)))),
        r"refers to a storage that is none",
    ),
    "a storage of another kind": (
        pickle_of(mapping(a=tensor(storage(kind="ComplexFloat")))),
        r"asks for 'torch.ComplexFloatStorage'",
    ),
    "an oversized storage": (
        pickle_of(mapping(a=tensor(storage(numel=10**12), shape=(10**6, 10**6)))),
        r"'a' needs storage 0 of 4000000000000 bytes, got 24 bytes",
    ),
    "a storage that is not there": (
        pickle_of(mapping(a=tensor(storage("7")))),
        r"'a' needs storage 7 of 24 bytes, got none",
    ),
    "a negative stride": (pickle_of(tensor(strides=(3, -1))), r"no whole numbers from 0"),
    "a negative offset": (pickle_of(tensor(offset=-1)), r"no whole numbers from 0"),
    "a negative size": (pickle_of(tensor(shape=(-2, -3))), r"no whole numbers from 0"),
    "an offset too far": (pickle_of(tensor(offset=1)), r"from 1, and its storage 0 has 6"),
    "an offset of nothing": (
        pickle_of(tensor(offset=7, shape=(0, 3))),
        r"from 7, and its storage 0 has 6",
    ),
    "a stride too far": (pickle_of(tensor(strides=(4, 1))), r"strides \[4, 1\] from 0"),
    "strides of zero": (
        pickle_of(tensor(shape=(10**9, 10**9), strides=(0, 0))),
        r"is \[1000000000, 1000000000\] with strides \[0, 0\]",
    ),
    "sizes that overflow": (
        pickle_of(tensor(shape=(2**62, 2**62), strides=(2**62, 1))),
        r"is \[4611686018427387904, ",
    ),
    "too many axes": (
        pickle_of(tensor(shape=(1,) * 1000, strides=(1,) * 1000)),
        r"one stride for each of few axes",
    ),
    "fewer strides": (pickle_of(tensor(strides=(1,))), r"one stride for each of few axes"),
    "a tensor alone": (pickle_of(tensor()), r"it is a tensor"),
    "a number for a key": (pickle_of(b"}K\1" + tensor() + b"s"), r"1 of its 1 keys hold .* '1'"),
    "a training checkpoint": (
        pickle_of(mapping(model=mapping(a=tensor()), optimizer=b"}", epoch=number(3), note=b"N")),
        r"4 of its 4 keys hold something other than a tensor, 'model' \(a dict of 1\), 'optimizer' "
        r"\(a dict of 0\), 'epoch' \(a int\), 'note' \(a NoneType\); if one of them is the model, "
        r"save that alone",
    ),
}  # fmt: skip


def patched(content, old, new, count=-1):
    assert old in content
    return content.replace(old, new, count)


def central(content, place, layout, value):
    """With a number of the last entry of the directory changed."""
    start = content.rindex(b"PK\1\2") + place
    size = struct.calcsize(layout)
    return content[:start] + struct.pack(layout, value) + content[start + size :]


def overlapping():
    """A directory of 2,000 entries that all are the same megabyte."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("model/data/0", bytes(1 << 20))
        (first,) = file.infolist()
        for i in range(1, 2000):
            info = zipfile.ZipInfo(f"model/data/{i}")
            info.header_offset, info.CRC = first.header_offset, first.CRC
            info.file_size = info.compress_size = first.file_size
            file.filelist.append(info)
        file._didModify = True
    return buffer.getvalue()


def twice():
    with warnings.catch_warnings(action="ignore"):
        return archive(GOOD_PICKLE, further=[("model/data/0", b"again")])


GOOD_PICKLE = pickle_of(mapping(a=tensor()))
GOOD = archive(GOOD_PICKLE)
LINK = struct.pack("<4sIQI", b"PK\6\7", 0, 1 << 62, 1)
ARCHIVES = {
    "no zip": (b"\x80\x02}.", r"no complete zip archive \(it is too short"),
    "a page": (b"<!DOCTYPE html>" * 50, r"no complete zip archive \(it does not end as"),
    "a bomb": (
        archive(GOOD_PICKLE, {"0": bytes(10 << 20)}, compression=zipfile.ZIP_DEFLATED),
        r"compressed entry 'model/data.pkl', and torch.save compresses none",
    ),
    "a bomb without the method": (central(GOOD, 24, "<I", 1 << 31), r"compressed entry 'model/d"),
    "another way to store": (central(GOOD, 10, "<H", 8), r"compressed entry 'model/data/0'"),
    "overlapping entries": (overlapping(), r"entries that lie over each other"),
    "many entries": (
        archive(GOOD_PICKLE, further=[(f"m/{i}", b"") for i in range(21_000)]),
        r"more than 20000 entries",
    ),
    "a large directory": (
        archive(GOOD_PICKLE, further=[(f"m/{'a' * 400}{i}", b"") for i in range(12_000)]),
        r"a directory of \d+ bytes: it is no model",
    ),
    "a name that leads out": (
        archive(GOOD_PICKLE, further=[("../../evil.py", b"x")]),
        r"an entry '../../evil.py', a name that torch.save gives none",
    ),
    "an absolute name": (archive(GOOD_PICKLE, root="/etc"), r"an entry '/etc/data.pkl'"),
    "a drive": (archive(GOOD_PICKLE, root="C:/x"), r"an entry 'C:/x/data.pkl'"),
    "a name with a null": (patched(GOOD, b"model/data/0", b"model/data\0000"), r"an entry 'model"),
    "a name that is no text": (patched(GOOD, b"model/data/0", b"model/data/\xff"), r"not UTF-8"),
    "a long name": (archive(GOOD_PICKLE, further=[("a" * 600, b"")]), r"a name that torch.save"),
    "an encrypted entry": (central(GOOD, 8, "<H", 1), r"encrypted entry 'model/data/0'"),
    "an entry twice": (twice(), r"its entry 'model/data/0' twice"),
    "an entry after the file": (central(GOOD, 42, "<I", 10**6), r"'model/data/0' ends after"),
    "an end far away": (
        GOOD[:-22] + LINK + GOOD[-22:],
        r"is cut short at byte 4611686018427387904",
    ),
    "an entry that is elsewhere": (
        patched(GOOD, b"PK\3\4", b"PK\3\5", 1),
        r"no entry 'model/data.pkl' where its directory says",
    ),
    "a changed pickle": (
        patched(GOOD, b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"),
        r"'model/data.pkl' does not match its checksum",
    ),
    "no pickle": (archive(b"", root="model/other"), r"no plain state_dict: it ends in"),
    "two pickles": (
        archive(GOOD_PICKLE, further=[("other/data.pkl", GOOD_PICKLE)]),
        r"must have one data.pkl in a folder, got 2",
    ),
    "a pickle in no folder": (
        patched(GOOD, b"model/data.pkl", b"model/data.pkx"),
        r"must have one data.pkl in a folder, got 0",
    ),
    "a large pickle": (archive(bytes(9 << 20)), r"a pickle of 9437184 bytes"),
    "big-endian numbers": (
        archive(GOOD_PICKLE, further=[("model/byteorder", b"big")]),
        r"byte order b'big', wanted b'little'",
    ),
    "a short storage": (
        archive(GOOD_PICKLE, {"0": b"abcd"}),
        r"'a' needs storage 0 of 24 bytes, got 4 bytes",
    ),
    "before 1.6": (
        bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + GOOD,
        r"PyTorch's format before 1.6, .* torch.save\(torch.load\(path, weights_only=True\), path",
    ),
}  # fmt: skip
HOSTILE = {name: (archive(content), text) for name, (content, text) in PICKLES.items()} | ARCHIVES


@contextlib.contextmanager
def traced():
    """Gives how many bytes were taken at a time, at most."""
    tracemalloc.start()
    peaks = []
    try:
        yield lambda: peaks[0]
        peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_name_soon_and_in_little_memory(tmp_path, name):
    content, wanted = HOSTILE[name]
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    start = time.process_time()  # whatever else the machine does
    with pytest.raises(InputError) as error:
        open_checkpoint(tmp_path)
    seconds = time.process_time() - start
    with traced() as peak, pytest.raises(InputError):  # apart, for to be watched takes time
        open_checkpoint(tmp_path)
    assert re.search(wanted, str(error.value))
    assert str(tmp_path / "pytorch_model.bin") in str(error.value)
    assert len(str(error.value)) < 2000
    assert seconds < SECONDS
    assert peak() < 2 * len(content) + CONSTANT_BYTES


def some_arrays():
    rng = np.random.default_rng(0)
    return {
        "encoder.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "half": rng.normal(size=5).astype(np.float16),
        "position_ids": np.arange(7)[None],
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }


def read_all(directory):
    return {name: tensor.read() for name, tensor in open_checkpoint(directory).items()}


def test_numbers_of_more_than_32_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 8)  # from which on they stand in an extra field
    content = files.state_dict(some_arrays())
    assert b"\xff\xff\xff\xff" * 2 in content
    (tmp_path / "model.pt").write_bytes(content)
    assert_some_arrays(tmp_path)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_a_state_dict_is_read(tmp_path, file):
    (tmp_path / file).write_bytes(files.state_dict(some_arrays()))
    assert_some_arrays(tmp_path)


def assert_some_arrays(tmp_path):
    got = read_all(tmp_path)
    assert got.keys() == some_arrays().keys()
    for name, array in some_arrays().items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_changed_numbers_do_not_match_their_checksum(tmp_path):
    content = files.state_dict({"a": np.arange(6, dtype=np.float32)})
    (tmp_path / "model.pt").write_bytes(patched(content, b"\0\0\x80\x3f", b"\0\0\x80\x40", 1))
    (tensor_,) = open_checkpoint(tmp_path).values()
    with pytest.raises(InputError, match=r"'model/data/0' does not match its checksum"):
        tensor_.read()


def test_any_truncation_is_one_error_that_names_the_file(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    for length in range(len(GOOD)):
        path.write_bytes(GOOD[:length])
        with pytest.raises(InputError, match=r"pytorch_model.bin (is no complete zip|is cut sh)"):
            open_checkpoint(tmp_path)


def test_a_tensor_takes_its_storage_and_itself(tmp_path):
    """Twice the file: what is stored, and the rows of it that are asked for."""
    rows, columns = 1000, 1000
    held = storage(numel=rows * columns)
    transposed = tensor(held, 0, (columns, rows), (1, columns))
    content = archive(pickle_of(mapping(a=transposed)), {"0": bytes(4 * rows * columns)})
    (tmp_path / "model.pt").write_bytes(content)
    with traced() as peak:
        open_checkpoint(tmp_path)["a"].read()
    assert peak() < 2 * len(content) + (1 << 20)
