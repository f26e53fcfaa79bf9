"""Files of torch.save without PyTorch: pickles by their operations, archives by their entries."""

import io
import struct
import zipfile

import numpy as np

KINDS = {"float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long"}
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key="0", numel=6, kind="Float"):
    return b"(" + text("storage") + b"ctorch\n" + f"{kind}Storage\n".encode() + text(key) + (
        text("cpu") + number(numel) + b"tQ"
    )  # fmt: skip


def tensor(held=None, offset=0, shape=(2, 3), strides=(3, 1)):
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (storage() if held is None else held)
        + number(offset)
        + numbers(shape)
        + numbers(strides)
        + b"\x89"
        + ORDERED_DICT
        + b"tR"
    )


def mapping(**values):
    """A dictionary of values that are operations."""
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def pickle_of(value):
    return b"\x80\x02" + value + b"."


def archive(pickle, storages=None, *, root="model", further=(), compression=zipfile.ZIP_STORED):
    """The bytes of a zip file. further: more (name, content)."""
    storages = {"0": np.arange(6, dtype=np.float32).tobytes()} if storages is None else storages
    entries = [(f"{root}/data.pkl", pickle)]
    entries += [(f"{root}/data/{key}", content) for key, content in storages.items()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in (*entries, *further):
            file.writestr(name, content)
    return buffer.getvalue()


def state_dict(arrays):
    """The bytes of a file that holds these arrays."""
    held, storages = {}, {}
    for i, (name, array) in enumerate(arrays.items()):
        strides = [step // array.itemsize for step in np.zeros(array.shape, array.dtype).strides]
        held[name] = tensor(storage(str(i), array.size, KINDS[array.dtype.name]), 0, array.shape,
                            strides)  # fmt: skip
        storages[str(i)] = array.tobytes()
    body = b"".join(text(name) + value for name, value in held.items())
    return archive(pickle_of(ORDERED_DICT + b"(" + body + b"u"), storages)
