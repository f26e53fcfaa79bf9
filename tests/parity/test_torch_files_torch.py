"""Files that PyTorch itself writes: every dtype, views of all kinds, parameters, shards."""

import json

import ml_dtypes
import pytest
import torch

from jaxbert.weights.readers import open_checkpoint

BASE = torch.arange(60.0).reshape(5, 12)
STATE = {
    "float64": torch.randn(3, 4, dtype=torch.float64),
    "float32": torch.randn(3, 4),
    "float16": torch.randn(3, 4).half(),
    "bfloat16": torch.randn(3, 4).bfloat16(),
    "int64": torch.arange(7)[None],
    "int32": torch.arange(7, dtype=torch.int32),
    "int16": torch.arange(-3, 3, dtype=torch.int16),
    "int8": torch.arange(-3, 3, dtype=torch.int8),
    "uint8": torch.arange(250, 256, dtype=torch.uint8),
    "bool": torch.tensor([[True, False], [False, True]]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(torch.randn(2, 5)),
    # All of these share one storage.
    "whole": BASE,
    "offset": BASE[2],
    "rows": BASE[1:4],
    "columns": BASE[:, 3:7],
    "every third": BASE[::2, ::3],
    "transposed": BASE.T,
    "permuted": BASE.reshape(5, 3, 4).permute(2, 0, 1),
    "last": BASE[4, 11],
    "none of it": BASE[5:],
    "bfloat16 view": torch.randn(6, 4).bfloat16()[1:, 1:].T,
    "expanded one": torch.arange(9).expand((1, -1)),
}


def numpy_of(tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def assert_read(directory, wanted):
    opened = open_checkpoint(directory)
    assert opened.keys() == wanted.keys()
    for name, tensor in wanted.items():
        array, got = numpy_of(tensor), opened[name].read()
        assert (got.dtype, got.shape) == (array.dtype, array.shape), name
        assert opened[name].shape == array.shape, name
        assert got.tobytes() == array.tobytes(), name


def test_every_tensor_comes_back(tmp_path):
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    assert_read(tmp_path, STATE)


@pytest.mark.parametrize("name", STATE)
def test_each_tensor_in_a_file_of_its_own(tmp_path, name):
    torch.save({name: STATE[name]}, tmp_path / "model.pt")
    assert_read(tmp_path, {name: STATE[name]})


def test_a_modules_state_with_its_versions(tmp_path):
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16)
    torch.save(layer.state_dict(), tmp_path / "pytorch_model.bin")
    assert layer.state_dict()._metadata
    assert_read(tmp_path, layer.state_dict())


def test_parameters_themselves(tmp_path):
    parameters = dict(torch.nn.Linear(3, 4).named_parameters())
    torch.save(parameters, tmp_path / "pytorch_model.bin")
    assert_read(tmp_path, parameters)


def test_shards(tmp_path):
    names = {f"pytorch_model-0000{i + 1}-of-00003.bin": list(STATE)[i::3] for i in range(3)}
    for file, held in names.items():
        torch.save({name: STATE[name] for name in held}, tmp_path / file)
    weight_map = {name: file for file, held in names.items() for name in held}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_read(tmp_path, STATE)
    (tmp_path / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(ValueError, match=r"not beside it: pytorch_model-00002-of"):
        open_checkpoint(tmp_path)


REFUSED = {
    "a module": (torch.nn.Linear(2, 2), r"asks for '(torch.nn.modules.linear|__builtin__)\.\w+'"),
    "a tensor": (torch.ones(2), r"it is a tensor"),
    "complex numbers": ({"a": torch.ones(2) * 1j}, r"asks for 'torch.ComplexFloatStorage'"),
    "repeated numbers": ({"a": torch.ones(1).expand(3, 4)}, r"strides \[0, 0\] from 0"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, r"asks for '[\w.]+'"),
    "float8": ({"a": torch.ones(2).to(torch.float8_e4m3fn)}, r"'torch._utils._rebuild_tensor_v3'"),
    "a training checkpoint": (
        {
            "model": torch.nn.Linear(2, 2).state_dict(),
            "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict(),
            "epoch": 3,
            "loss": 0.5,
        },
        r"4 of its 4 keys .* 'model' \(a dict of 2\), 'optimizer' .* save that alone",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_dictionary_of_tensors_is_refused_by_name(tmp_path, name):
    value, text = REFUSED[name]
    torch.save(value, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=text):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_another_protocol_is_refused_by_name(tmp_path, protocol):
    torch.save(STATE, tmp_path / "model.pt", pickle_protocol=protocol)
    with pytest.raises(ValueError, match=f"pickle protocol {protocol}, and torch.save writes 2"):
        open_checkpoint(tmp_path)


def test_the_format_before_1_6_is_refused_and_what_to_do_is_right(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"format before 1.6, .*: save it again") as error:
        open_checkpoint(tmp_path)
    advice = str(error.value).partition("save it again in PyTorch, ")[2]
    eval(advice, {"torch": torch, "path": path})
    assert_read(tmp_path, STATE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_model_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(
        ValueError, match=r"entry 'model/code/__torch__.*state_dict with torch.save"
    ):
        open_checkpoint(tmp_path)
