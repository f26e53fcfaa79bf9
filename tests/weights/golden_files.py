"""What the tensors in tests/golden/<format>/ are: those of scripts/make_format_golden.py."""

import zlib

import numpy as np


def values(name, shape):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.normal(size=shape).astype(np.float32)


def assert_golden(opened):
    """Each as it was made by its name in the file; kernels stand the other way round there."""
    for name, tensor in opened.items():
        array = tensor.read()
        assert array.shape == tensor.shape
        turned = tensor.name.endswith("/kernel")
        wanted = values(tensor.name, array.shape[::-1] if turned else array.shape)
        np.testing.assert_array_equal(array, wanted.T if turned else wanted, err_msg=name)
