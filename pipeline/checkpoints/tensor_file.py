"""A safetensors file laid out in host memory, into which tensors are copied in place.

`safetensors.torch.save` builds the file beside the tensors and holds the interpreter's lock for
most of the time that it takes, which would stop the training loop: here the copy that a checkpoint
needs anyway is the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_ALIGNMENT = 8  # of the tensors' data in the file, bytes

Layout = dict[str, tuple[torch.Size, torch.dtype]]


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


class TensorFile:
    """For tensors of one layout. `pinned` memory is copied to from a GPU without waiting."""

    def __init__(self, layout: Layout, *, pinned: bool) -> None:
        self.layout = layout
        # The largest elements first, so that every tensor is aligned to its own.
        order = sorted(layout, key=lambda name: (-layout[name][1].itemsize, name))
        entries: dict[str, object] = {}
        starts = {}
        end = 0
        for name in order:
            shape, dtype = layout[name]
            starts[name], end = end, end + math.prod(shape) * dtype.itemsize
            entries[name] = {
                "dtype": _DTYPES[dtype],
                "shape": list(shape),
                "data_offsets": [starts[name], end],
            }
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-len(header) % _ALIGNMENT)
        data_start = 8 + len(header)
        self._bytes = torch.empty(data_start + end, dtype=torch.uint8, pin_memory=pinned)
        prefix = len(header).to_bytes(8, "little") + header
        self._bytes[:data_start] = torch.frombuffer(bytearray(prefix), dtype=torch.uint8)
        self._tensors = {
            name: self._view(data_start + start, *layout[name]) for name, start in starts.items()
        }

    def copy_(self, tensors: Mapping[str, Tensor]) -> None:
        """From whatever device and memory format; from a GPU on its current stream."""
        for name, tensor in tensors.items():
            self._tensors[name].copy_(tensor.detach(), non_blocking=True)

    @property
    def data(self) -> memoryview:
        """The whole file, in the memory that the next `copy_` writes to."""
        return self._bytes.numpy().data

    def _view(self, start: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        end = start + math.prod(shape) * dtype.itemsize
        return self._bytes[start:end].view(dtype).view(shape)
