"""TensorFlow checkpoints without TensorFlow: a writer of the published layout, for tests only.

Written from LevelDB's doc/table_format.md and tensor_bundle.proto, apart from the reader.
"""

import struct

import numpy as np
import pyarrow

TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "int64": 9,
         "bool": 10, "bfloat16": 14, "float16": 19}  # fmt: skip


def crc(content):
    """Bit by bit, and masked."""
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    register ^= 0xFFFFFFFF
    return ((register >> 15 | register << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value):
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def field(number, value):
    """Of a protocol buffer: a number, or bytes."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def entry(dtype, shape, shard, offset, content, checksum=None):
    dims = b"".join(field(2, field(1, size)) for size in shape)
    return (
        field(1, dtype)
        + field(2, dims)
        + (field(3, shard) if shard else b"")
        + field(4, offset)
        + field(5, len(content))
        + varint(6 << 3 | 5)
        + struct.pack("<I", crc(content) if checksum is None else checksum)
    )


def block(entries, restart_every=16):
    made, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart_every == 0:
            restarts.append(len(made))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        made += varint(shared) + varint(len(key) - shared) + varint(len(value))
        made += key[shared:] + value
        last = key
    restarts = restarts or [0]
    return made + b"".join(struct.pack("<I", x) for x in (*restarts, len(restarts)))


def table(entries, per_block=7, snappy=False):
    """The bytes of a sorted table."""
    parts = [entries[i : i + per_block] for i in range(0, len(entries), per_block)]
    return join([(part[-1][0], block(part)) for part in parts], snappy)


def join(blocks, snappy=False, repeat=1):
    """The bytes of a table of these (last key, block). repeat: how often the index names each."""
    made, index = b"", []

    def add(content):
        nonlocal made
        if snappy:
            content = pyarrow.Codec("snappy").compress(content, asbytes=True)
        kind = bytes([snappy])
        handle = varint(len(made)) + varint(len(content))
        made += content + kind + struct.pack("<I", crc(content + kind))
        return handle

    for last, content in blocks:
        index += [(last, add(content))] * repeat
    handles = add(block([])) + add(block(index, 1))
    return made + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write(directory, arrays, *, stem="bert_model.ckpt", shards=1, snappy=False, further=()):
    """A checkpoint of these arrays. further: more entries, (name, message)."""
    contents = [b""] * shards
    entries = [(b"", field(1, shards) + field(3, field(1, 1)))]
    for i, (name, array) in enumerate(sorted(arrays.items())):
        shard = i % shards
        content = array.tobytes()
        message = entry(TYPES[array.dtype.name], array.shape, shard, len(contents[shard]), content)
        entries.append((name.encode(), message))
        contents[shard] += content
    entries = sorted([*entries, *((name.encode(), message) for name, message in further)])
    (directory / f"{stem}.index").write_bytes(table(entries, snappy=snappy))
    for i, content in enumerate(contents):
        (directory / f"{stem}.data-{i:05}-of-{shards:05}").write_bytes(content)
    return directory


def some_arrays():
    rng = np.random.default_rng(0)
    arrays = {f"scope/layer_{i}/bias": rng.normal(size=3).astype(np.float32) for i in range(20)}
    return arrays | {
        "scope/dense/kernel": rng.normal(size=(3, 4)).astype(np.float32),
        "scope/cube/kernel": rng.normal(size=(2, 3, 4)),
        "scalar": np.array(2.5, np.float32),
        "half": rng.normal(size=5).astype(np.float16),
        "whole": np.arange(4),
        "true": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
    }
