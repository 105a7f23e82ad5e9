"""Read Torch7's binary serialisation (`.t7`), from files that nobody vouches for.

A file is read as data: no Lua function in it is run, no class of it is looked up. Every count that
it states is compared with the bytes that are left, every tensor with its storage, and nested
objects are followed by a list instead of by recursion, so that a cut, wrong or hostile file ends in
a ValueError with the place. Facts of the format: torch7's File.lua, Tensor.c and Storage.c.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

_NIL, _NUMBER, _STRING, _TABLE, _TORCH, _BOOLEAN = range(6)
_FUNCTIONS = (6, 7, 8)
_MAX_VALUES = 2_000_000  # numbers, strings, tables ...; a tensor counts as one
_MAX_DIMENSIONS = 8
_MAX_NAME_BYTES = 256
_ELEMENTS = {
    "Byte": np.uint8, "Char": np.int8, "Short": np.int16, "Int": np.int32, "Long": np.int64,
    "Half": np.float16, "Float": np.float32, "Double": np.float64,
}  # fmt: skip


@dataclass(eq=False)
class Torch7Object:
    """Of a class that is not a tensor; `fields` is what it was saved with, a table for a module."""

    class_name: str
    fields: Any = None


@dataclass(eq=False)
class LuaFunction:
    """Stands where the file has a function, whose code is left unread."""


def read_torch7(data: bytes) -> Any:
    """Return the one object in `data`: tables as dicts (whole numbers as keys are ints), tensors
    and storages as arrays in the memory of `data`. Objects that the file shares are shared.

    Raises ValueError for anything but a whole file of the binary format.
    """
    return _Reader(data).read()


class _Unfinished:
    """Something that the next `remaining` values of the file belong to."""

    def __init__(self, remaining: int) -> None:
        self.remaining = remaining
        self.last: Any = None

    def take(self, value: Any) -> None:
        self.remaining -= 1
        self.last = value


class _UnfinishedTable(_Unfinished):
    def __init__(self, table: dict[Any, Any], num_pairs: int) -> None:
        super().__init__(2 * num_pairs)
        self.table = table

    def take(self, value: Any) -> None:
        key = self.last
        super().take(value)
        # Graphs use objects as keys too; nothing is ever looked up by one here.
        if self.remaining % 2 == 0 and isinstance(key, str | int | float | bool):
            self.table[key] = value


class _UnfinishedObject(_Unfinished):
    def __init__(self, target: Torch7Object) -> None:
        super().__init__(1)
        self.target = target

    def take(self, value: Any) -> None:
        super().take(value)
        self.target.fields = value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._known: dict[int, Any] = {}  # by the index that the file refers to it with
        self._num_values = 0

    def read(self) -> Any:
        root = _Unfinished(1)
        unfinished = [root]
        while unfinished:
            if unfinished[-1].remaining == 0:
                unfinished.pop()
                continue
            value, inner = self._value()
            unfinished[-1].take(value)
            if inner is not None:
                unfinished.append(inner)
        if self._at != len(self._data):
            raise self._error(f"the object ends, but {len(self._data) - self._at} bytes follow")
        return root.last

    def _value(self) -> tuple[Any, _Unfinished | None]:
        """Return the next value, and, if it is not complete yet, what is to be filled."""
        self._num_values += 1
        if self._num_values > _MAX_VALUES:
            raise self._error(f"more than {_MAX_VALUES} values, far more than a network has")
        kind = self._int()
        if kind == _NIL:
            return None, None
        if kind == _NUMBER:
            number = self._unpack("<d")
            return (int(number) if number.is_integer() else number), None
        if kind == _STRING:
            return self._string(len(self._data)), None
        if kind == _BOOLEAN:
            return bool(self._int()), None
        if kind not in (_TABLE, _TORCH, *_FUNCTIONS):
            raise self._error(f"no type of value has the number {kind}")
        index = self._int()
        if index in self._known:
            return self._known[index], None
        if kind == _TABLE:
            table = self._known[index] = dict[Any, Any]()
            return table, _UnfinishedTable(table, self._count(8, "a table's pairs"))
        if kind == _TORCH:
            return self._torch_object(index)
        function = self._known[index] = LuaFunction()
        self._take(self._count(1, "a function's bytes"))
        return function, _Unfinished(1)  # its upvalues

    def _torch_object(self, index: int) -> tuple[Any, _Unfinished | None]:
        class_name = self._class_name()
        if (element := _element(class_name, "Storage")) is not None:
            self._known[index] = self._storage(element)
        elif (element := _element(class_name, "Tensor")) is not None:
            self._known[index] = self._tensor(element)
        else:
            target = self._known[index] = Torch7Object(class_name)
            return target, _UnfinishedObject(target)
        return self._known[index], None

    def _class_name(self) -> str:
        name = self._string(_MAX_NAME_BYTES)
        return self._string(_MAX_NAME_BYTES) if name.startswith("V ") else name

    def _storage(self, element: np.dtype) -> np.ndarray:
        size = self._long()
        if not 0 <= size <= (len(self._data) - self._at) // element.itemsize:
            raise self._error(f"a storage of {size} elements does not fit into the rest of it")
        return np.frombuffer(self._take(size * element.itemsize), element)

    def _tensor(self, element: np.dtype) -> np.ndarray:
        num_dimensions = self._int()
        if not 0 <= num_dimensions <= _MAX_DIMENSIONS:
            raise self._error(f"a tensor of {num_dimensions} dimensions")
        shape = [self._long() for _ in range(num_dimensions)]
        strides = [self._long() for _ in range(num_dimensions)]
        start = self._long() - 1
        storage = self._storage_of_tensor()
        if storage is None or not shape:
            return np.empty(0, element)
        if storage.dtype != element:
            raise self._error(f"a tensor of {element} over a storage of {storage.dtype}")
        if min(shape) < 1 or min(strides) < 0 or start < 0:
            raise self._error(f"a tensor of shape {shape}, strides {strides}, offset {start}")
        end = start + 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if end > len(storage) or math.prod(shape) > len(storage):
            raise self._error(f"a tensor of shape {shape} over a storage of {len(storage)}")
        byte_strides = [step * element.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(storage[start:], shape, byte_strides)

    def _storage_of_tensor(self) -> np.ndarray | None:
        kind = self._int()
        if kind == _NIL:
            return None
        if kind != _TORCH:
            raise self._error("a tensor without a storage")
        index = self._int()
        if index not in self._known:
            class_name = self._class_name()
            element = _element(class_name, "Storage")
            if element is None:
                raise self._error(f"a tensor over a {class_name!r}, which is no storage")
            self._known[index] = self._storage(element)
        storage = self._known[index]
        if not isinstance(storage, np.ndarray) or storage.ndim != 1:
            raise self._error("a tensor over an object that is no storage")
        return storage

    def _string(self, longest: int) -> str:
        size = self._count(1, "a string's bytes")
        if size > longest:
            raise self._error(f"a name of {size} bytes")
        return self._take(size).decode("utf-8", "replace")

    def _count(self, bytes_each: int, what: str) -> int:
        """Return a count of what takes at least `bytes_each` bytes of the file."""
        count = self._int()
        if not 0 <= count <= (len(self._data) - self._at) // bytes_each:
            raise self._error(f"{what} are {count}, more than the rest of it can hold")
        return count

    def _int(self) -> int:
        return self._unpack("<i")

    def _long(self) -> int:
        return self._unpack("<q")

    def _unpack(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise self._error(f"it ends where {size} more bytes should be; it was cut")
        self._at += size
        return self._data[self._at - size : self._at]

    def _error(self, what: str) -> ValueError:
        return ValueError(
            f"it is no whole Torch7 file in binary format; at byte {self._at}: {what}"
        )


def _element(class_name: str, kind: str) -> np.dtype | None:
    """Of `torch.FloatTensor`, `torch.CudaDoubleStorage` and their like; None for other classes."""
    if not (class_name.startswith("torch.") and class_name.endswith(kind)):
        return None
    name = class_name.removeprefix("torch.").removesuffix(kind)
    if name == "Cuda":
        return np.dtype(np.float32)
    element = _ELEMENTS.get(name.removeprefix("Cuda"))
    return None if element is None else np.dtype(element).newbyteorder("<")
