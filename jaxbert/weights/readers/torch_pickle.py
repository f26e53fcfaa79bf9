"""The pickle in a file of torch.save, read as data: nothing is imported, built or called.

A pickle is a program for a stack machine. This machine knows the operations that torch.save writes
for a dictionary of tensors, and the few names that they mention; whatever else a pickle asks for is
refused by its name. What a pickle describes becomes numbers, strings, lists, dictionaries, and a
`View` for each tensor. How much it can become is bounded: `MAX_OPERATIONS`, and for each operation
a few hundred bytes.

Reference: Python's Lib/pickletools.py says what each operation is; torch/_utils.py and
torch/serialization.py (2.13) what torch.save writes.
"""

from __future__ import annotations

import dataclasses
import math
import pickletools
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxbert.errors import InputError
from jaxbert.weights.readers.stored import MAX_AXES, MAX_NAME

# A tensor takes about forty.
MAX_OPERATIONS = 100_000

_STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
}
_NAMES = {operation.code.encode("latin-1"): operation.name for operation in pickletools.opcodes}
_MARK = object()


@dataclasses.dataclass(frozen=True)
class Storage:
    """Numbers in a row in the file `data/{key}`."""

    dtype: str
    key: str
    numel: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor: which numbers of a storage it has, and in which order. All in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Global(NamedTuple):
    """A name that the pickle mentions: a word, not the thing."""

    name: str


def interpret(pickle: bytes) -> Any:
    """What the pickle describes.

    A dictionary of any kind is a `dict`, without attributes; a tensor or parameter is a `View`,
    whose numbers are all within its storage and no more than that has.

    Raises:
      InputError: it is truncated, too long, or asks for something that is not on the list: names
        the operation or global, and where it is.
    """
    return _Machine(pickle).run()


class _Machine:
    def __init__(self, pickle: bytes) -> None:
        self._pickle = pickle
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_OPERATIONS):
            start = self._at
            code = self._take(1)
            if code == b".":
                break
            if code not in _OPERATIONS:
                name = _NAMES.get(code, f"0x{code.hex()}")
                raise InputError(
                    f"it asks for the operation {name} at byte {start}, which no dictionary of "
                    "tensors needs"
                )
            _OPERATIONS[code](self)
        else:
            raise InputError(f"it has more than {MAX_OPERATIONS} operations")
        result = self._pop()
        if self._stack or self._at != len(self._pickle):
            raise InputError("it goes on after its end")
        return result

    # What is read from the pickle.

    def _take(self, count: int) -> bytes:
        part = self._pickle[self._at : self._at + count]
        if len(part) != count:
            raise InputError("it ends in the middle")
        self._at += count
        return part

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        end = self._pickle.find(b"\n", self._at, self._at + MAX_NAME)
        if end < 0:
            raise InputError(f"a name at byte {self._at} has no end")
        return _text(self._take(end + 1 - self._at)[:-1])

    # What is on the stack.

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise InputError(f"it takes what is not there, at byte {self._at}")
        return self._stack.pop()

    def _pops(self, count: int) -> tuple[Any, ...]:
        return tuple(self._pop() for _ in range(count))[::-1]

    def _pop_to_mark(self) -> list[Any]:
        values = []
        while self._stack and self._stack[-1] is not _MARK:
            values.append(self._stack.pop())
        if not self._stack:
            raise InputError(f"it takes up to a mark that is not there, at byte {self._at}")
        self._stack.pop()
        return values[::-1]

    def _top(self, kind: type) -> Any:
        value = self._pop()
        if type(value) is not kind:
            raise InputError(
                f"it adds to {describe(value)} as if it were a {kind.__name__}, at byte {self._at}"
            )
        self._stack.append(value)
        return value

    # Operations.

    def proto(self) -> None:
        version = self._number("B")
        if version != 2:
            raise InputError(f"it is of pickle protocol {version}, and torch.save writes 2")

    def integer(self, layout: str) -> None:
        self.push(self._number(layout))

    def long(self) -> None:
        count = self._number("B")
        if count > 8:
            raise InputError(f"it has a number of {count} bytes")
        self.push(int.from_bytes(self._take(count), "little", signed=True))

    def string(self) -> None:
        length = self._number("<I")
        if length > MAX_NAME:
            raise InputError(f"it has a string of {length} bytes, at byte {self._at}")
        self.push(_text(self._take(length)))

    def name(self) -> None:
        module, name = self._line(), self._line()
        full = f"{module}.{name}"
        # Dots within the second would mean attributes of attributes.
        if "." in name or full not in _STORAGES.keys() | _CALLS.keys():
            raise InputError(f"it asks for {full!r}, which no dictionary of tensors needs")
        self.push(Global(full))

    def tuple_of(self, count: int) -> None:
        self.push(self._pops(count))

    def tuple_to_mark(self) -> None:
        self.push(tuple(self._pop_to_mark()))

    def put(self, layout: str) -> None:
        place = self._number(layout)
        self._memo[place] = self._pop()
        self.push(self._memo[place])

    def get(self, layout: str) -> None:
        place = self._number(layout)
        if place not in self._memo:
            raise InputError(f"it recalls what it never stored, at byte {self._at}")
        self.push(self._memo[place])

    def append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def appends(self) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def set_item(self) -> None:
        self._set(list(self._pops(2)))

    def set_items(self) -> None:
        self._set(self._pop_to_mark())

    def _set(self, values: list[Any]) -> None:
        target = self._top(dict)
        if len(values) % 2:
            raise InputError(f"a key has no value, at byte {self._at}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # A tuple of tuples can take for ever to hash.
            if type(key) not in (str, int):
                raise InputError(f"a key is {describe(key)}, at byte {self._at}")
            target[key] = value

    def storage(self) -> None:
        found = self._pop()
        if not (type(found) is tuple and len(found) == 5 and found[0] == "storage"):
            raise InputError(f"it refers to {describe(found)} as if it were a storage")
        _, kind, key, _, numel = found
        dtype = _STORAGES.get(kind.name) if type(kind) is Global else None
        named = type(key) is str and key.isascii() and key.isdigit()
        if dtype is None or not named or type(numel) is not int or numel < 0:
            raise InputError(f"it refers to a storage that is none, at byte {self._at}")
        self.push(Storage(dtype, key, numel))

    def call(self) -> None:
        called, arguments = self._pops(2)
        if type(called) is not Global or called.name not in _CALLS:
            raise InputError(f"it calls {describe(called)}, at byte {self._at}")
        if type(arguments) is not tuple:
            raise InputError(f"it calls {called.name} with {describe(arguments)}")
        self.push(_CALLS[called.name](arguments))

    def attributes(self) -> None:
        """A dictionary's own, which are the versions of modules, are left out."""
        state = self._pop()
        target = self._top(dict)
        if type(state) is not dict or len(state) > 1 or state.keys() - {"_metadata"}:
            raise InputError(f"it sets attributes of {describe(target)}, at byte {self._at}")


def describe(value: Any) -> str:
    """In a few words, however large it is."""
    if isinstance(value, View):
        return "a tensor"
    if isinstance(value, Global):
        return value.name
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        return repr(value[:40])
    return f"a {type(value).__name__}"


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("it has a string that is not UTF-8") from None


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise InputError("it makes an OrderedDict of something, where torch.save makes it empty")
    return {}


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    if len(arguments) != 1 or not _are_counts(arguments[0]):
        raise InputError("it makes a torch.Size that is not of whole numbers")
    return arguments[0]


def _parameter(arguments: tuple[Any, ...]) -> View:
    if len(arguments) != 3 or type(arguments[0]) is not View:
        raise InputError("it makes a parameter of something other than a tensor")
    return arguments[0]


def _tensor(arguments: tuple[Any, ...]) -> View:
    """(storage, offset, shape, strides, requires_grad, hooks), sometimes with metadata."""
    if len(arguments) not in (6, 7) or type(arguments[0]) is not Storage:
        raise InputError("it makes a tensor of something other than a storage")
    storage, offset, shape, strides = arguments[:4]
    counts = _are_counts((offset,)) and _are_counts(shape) and _are_counts(strides)
    if not counts or len(shape) != len(strides):
        raise InputError(
            f"a tensor of storage {storage.key} has an offset, a shape or strides that are no "
            "whole numbers from 0, one stride for each of few axes"
        )
    numel = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    # Strides of 0 could make a file's one number fill any memory.
    if numel > storage.numel or offset > storage.numel or (numel and last >= storage.numel):
        raise InputError(
            f"a tensor is {list(shape)} with strides {list(strides)} from {offset}, and its "
            f"storage {storage.key} has {storage.numel} numbers"
        )
    return View(storage, offset, shape, strides)


def _are_counts(values: Any) -> bool:
    # The length first: one long tuple can be given to every call there is.
    few = type(values) is tuple and len(values) <= MAX_AXES
    return few and all(type(x) is int and x >= 0 for x in values)


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
_OPERATIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.proto,
    b"c": _Machine.name,
    b"(": lambda machine: machine.push(_MARK),
    b"N": lambda machine: machine.push(None),
    b"\x88": lambda machine: machine.push(True),
    b"\x89": lambda machine: machine.push(False),
    b"K": lambda machine: machine.integer("B"),
    b"M": lambda machine: machine.integer("<H"),
    b"J": lambda machine: machine.integer("<i"),
    b"\x8a": _Machine.long,
    b"G": lambda machine: machine.integer(">d"),
    b"X": _Machine.string,
    b")": lambda machine: machine.push(()),
    b"\x85": lambda machine: machine.tuple_of(1),
    b"\x86": lambda machine: machine.tuple_of(2),
    b"\x87": lambda machine: machine.tuple_of(3),
    b"t": _Machine.tuple_to_mark,
    b"]": lambda machine: machine.push([]),
    b"a": _Machine.append,
    b"e": _Machine.appends,
    b"}": lambda machine: machine.push({}),
    b"s": _Machine.set_item,
    b"u": _Machine.set_items,
    b"q": lambda machine: machine.put("B"),
    b"r": lambda machine: machine.put("<I"),
    b"h": lambda machine: machine.get("B"),
    b"j": lambda machine: machine.get("<I"),
    b"Q": _Machine.storage,
    b"R": _Machine.call,
    b"b": _Machine.attributes,
}
