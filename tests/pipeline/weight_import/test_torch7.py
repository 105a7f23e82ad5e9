"""The reader of Torch7 files: what they hold, and files that were cut, altered or made to harm."""

from __future__ import annotations

import random
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest

from pipeline.weight_import.torch7 import LuaFunction, Torch7Object, read_torch7
from tests.pipeline.weight_import.torch7_writer import Torch7Writer, torch7_bytes


def ints(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def longs(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def named(text: str) -> bytes:
    return ints(len(text)) + text.encode()


def test_plain_values_come_back() -> None:
    content = {"number": 2.5, "whole": 3, "text": "naïve"[:2], "no": False, "nothing": None, 4: "x"}
    assert read_torch7(torch7_bytes(content)) == content


def test_what_a_file_shares_is_shared() -> None:
    inner = {"a": 1}
    read = read_torch7(torch7_bytes({"first": inner, "second": inner}))
    assert read["first"] is read["second"]


def test_tables_may_contain_themselves() -> None:
    table: dict[Any, Any] = {}
    table["self"] = table
    read = read_torch7(torch7_bytes(table))
    assert read["self"] is read


def test_tables_nested_deeper_than_python_can_recurse_are_read() -> None:
    pieces = [ints(3, depth, 1, 2, 1) + b"k" for depth in range(20_000)]
    table = read_torch7(b"".join(pieces) + ints(0))
    assert "k" in table["k"]["k"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_tensors_come_back_with_shape_and_type(dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    read = read_torch7(torch7_bytes({"t": array}))["t"]
    assert read.dtype == dtype
    assert (read == array).all()


def test_a_view_of_a_shared_storage_is_read_by_its_offset_and_strides() -> None:
    base = np.arange(20, dtype=np.float32)
    view = base[4:16].reshape(3, 4).T
    # numpy makes `base` the owner of every view
    read = read_torch7(torch7_bytes({"view": view, "all": base}))
    assert (read["view"] == view).all()


@pytest.mark.parametrize("name", ["torch.CudaTensor", "torch.CudaDoubleTensor"])
def test_tensors_of_a_gpu_are_read_as_those_of_the_cpu(name: str) -> None:
    element = np.float64 if "Double" in name else np.float32
    numbers = np.array([1.5, 2.5], dtype=element)
    data = ints(4, 1) + named("V 1") + named(name) + ints(1) + longs(2, 1, 1)
    data += ints(4, 2) + named("V 1") + named(name.replace("Tensor", "Storage")) + longs(2)
    assert read_torch7(data + numbers.tobytes()).tolist() == [1.5, 2.5]


def test_files_without_version_numbers_are_read() -> None:
    writer = Torch7Writer(is_versioned=False)
    writer.write(Torch7Object("nn.ReLU", {"w": np.ones(3, dtype=np.float32)}))
    read = read_torch7(writer.data)
    assert (read.class_name, read.fields["w"].tolist()) == ("nn.ReLU", [1, 1, 1])


def test_a_lua_function_is_passed_over() -> None:
    code = b"\x1bLua os.execute('touch harm')"
    function = ints(6, 2, len(code)) + code + ints(3, 3, 0)
    data = ints(3, 1, 2) + ints(2) + named("f") + function + ints(2) + named("n") + ints(5, 1)
    read = read_torch7(data)
    assert isinstance(read["f"], LuaFunction)
    assert read["n"] is True


WHOLE = torch7_bytes(
    {
        "model": Torch7Object(
            "nn.Sequential", {"w": np.ones((2, 3), dtype=np.float32), "n": [1, "a"]}
        )
    }
)


def test_a_file_that_was_cut_is_refused_wherever_the_cut_is() -> None:
    read_torch7(WHOLE)
    for size in range(len(WHOLE)):
        with pytest.raises(ValueError, match="no whole Torch7 file"):
            read_torch7(WHOLE[:size])


def test_bytes_behind_the_object_are_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes follow"):
        read_torch7(WHOLE + b"abc")


def test_altered_files_are_read_or_refused_and_do_nothing_else() -> None:
    generator = random.Random(0)
    refused = 0
    for _ in range(3000):
        data = bytearray(WHOLE)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            read_torch7(bytes(data))
        except ValueError:
            refused += 1
    assert 0 < refused < 3000


TENSOR = ints(4, 1) + named("V 1") + named("torch.FloatTensor")
STORAGE = ints(4, 2) + named("V 1") + named("torch.FloatStorage")
HUGE = 1 << 60


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it was cut"),
        (ints(9), "no type of value has the number 9"),
        (ints(2, 1 << 30) + b"abc", "string's bytes are 1073741824"),
        (ints(2, -1), "string's bytes are -1"),
        (ints(3, 1, 1 << 30), "table's pairs are 1073741824"),
        (ints(6, 1, 1 << 30), "function's bytes are"),
        (ints(4, 1, 1000) + bytes(1000), "a name of 1000 bytes"),
        (TENSOR + ints(1 << 20), "1048576 dimensions"),
        (TENSOR + ints(-1), "-1 dimensions"),
        (STORAGE + longs(HUGE) + bytes(8), "a storage of 1152921504606846976 elements"),
        (STORAGE + longs(-2) + bytes(8), "a storage of -2 elements"),
        (TENSOR + ints(1) + longs(9, 1, 1) + STORAGE + longs(2) + bytes(8), "storage of 2"),
        (TENSOR + ints(1) + longs(2, 1, 2) + STORAGE + longs(2) + bytes(8), "storage of 2"),
        (TENSOR + ints(1) + longs(HUGE, 0, 1) + STORAGE + longs(2) + bytes(8), "storage of 2"),
        (TENSOR + ints(1) + longs(2, 1, 0) + STORAGE + longs(2) + bytes(8), "offset -1"),
        (TENSOR + ints(1) + longs(2, -1, 2) + STORAGE + longs(2) + bytes(8), "strides"),
        (TENSOR + ints(1) + longs(2, 1, 1) + ints(1) + bytes(8), "without a storage"),
        (TENSOR + ints(1) + longs(2, 1, 1) + ints(4, 3) + named("os.execute"), "no storage"),
        (
            TENSOR + ints(1) + longs(1, 1, 1) + STORAGE.replace(b"Float", b"Doubl") + longs(2),
            "no storage",
        ),
    ],
)
def test_counts_that_the_file_cannot_hold_are_refused_before_memory_is_taken(
    data: bytes, message: str
) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        read_torch7(data)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


def test_a_tensor_over_another_object_or_another_type_is_refused() -> None:
    over_table = ints(3, 7, 1) + ints(2) + named("t") + TENSOR + ints(1) + longs(1, 1, 1)
    with pytest.raises(ValueError, match="an object that is no storage"):
        read_torch7(over_table + ints(4, 7))
    double = STORAGE.replace(named("torch.FloatStorage"), named("torch.DoubleStorage"))
    with pytest.raises(ValueError, match="float32 over a storage of float64"):
        read_torch7(TENSOR + ints(1) + longs(1, 1, 1) + double + longs(1) + bytes(8))
