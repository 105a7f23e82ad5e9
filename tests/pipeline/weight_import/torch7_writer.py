"""Writes Torch7's binary serialisation, as torch.save of Lua does, for the tests of its reader."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.weight_import.torch7 import Torch7Object

_ELEMENTS = {"float32": "Float", "float64": "Double", "int64": "Long", "uint8": "Byte"}


class Torch7Writer:
    """Each object once, as File.lua does: the second time by its index."""

    def __init__(self, *, is_versioned: bool = True) -> None:
        self._pieces: list[bytes] = []
        self._indices: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used twice
        self._is_versioned = is_versioned

    @property
    def data(self) -> bytes:
        return b"".join(self._pieces)

    def write(self, value: Any) -> None:
        if value is None:
            self.pack("<i", 0)
        elif isinstance(value, bool):
            self.pack("<ii", 5, value)
        elif isinstance(value, int | float):
            self.pack("<id", 1, value)
        elif isinstance(value, str):
            self.pack("<i", 2)
            self._string(value)
        elif isinstance(value, list):
            self.write(dict(enumerate(value, start=1)))
        elif isinstance(value, dict):
            if self._begin(3, value):
                self.pack("<i", len(value))
                for key, item in value.items():
                    self.write(key)
                    self.write(item)
        elif isinstance(value, Torch7Object):
            if self._begin(4, value):
                self._class(value.class_name)
                self.write(value.fields)
        elif isinstance(value, np.ndarray):
            self._tensor(value)
        else:
            raise TypeError(type(value))

    def pack(self, layout: str, *values: Any) -> None:
        self._pieces.append(struct.pack(layout, *values))

    def _begin(self, kind: int, value: Any) -> bool:
        """Whether it is written now, for the first time."""
        self.pack("<i", kind)
        is_new = id(value) not in self._indices
        self._kept.append(value)
        self.pack("<i", self._indices.setdefault(id(value), len(self._indices) + 1))
        return is_new

    def _class(self, name: str) -> None:
        if self._is_versioned:
            self._string("V 1")
        self._string(name)

    def _string(self, text: str) -> None:
        self.pack("<i", len(text))
        self._pieces.append(text.encode())

    def _tensor(self, array: np.ndarray) -> None:
        if not self._begin(4, array):
            return
        element = _ELEMENTS[str(array.dtype)]
        base = array if array.base is None else array.base  # a view shares its base's storage
        self._class(f"torch.{element}Tensor")
        self.pack(f"<i{array.ndim}q", array.ndim, *array.shape)
        self.pack(f"<{array.ndim}q", *(step // array.itemsize for step in array.strides))
        start = array.ctypes.data - base.ctypes.data
        self.pack("<q", start // array.itemsize + 1)
        storage = base.reshape(-1)
        if self._begin(4, base if array.base is not None else storage):
            self._class(f"torch.{element}Storage")
            self.pack("<q", storage.size)
            self._pieces.append(storage.tobytes())


def torch7_bytes(value: Any) -> bytes:
    writer = Torch7Writer()
    writer.write(value)
    return writer.data


def module(name: str, **fields: Any) -> Torch7Object:
    return Torch7Object(f"nn.{name}", fields)


def sequential(modules: list[Torch7Object]) -> Torch7Object:
    return module("Sequential", modules=modules, train=False)


def graph(modules: list[Torch7Object]) -> Torch7Object:
    """An nngraph gModule: nodes in the order of computation, each with its children."""
    nodes = [Torch7Object("nngraph.Node", {"data": {}, "children": []}) for _ in range(2)]
    nodes[1:1] = [
        Torch7Object("nngraph.Node", {"data": {"module": m}, "children": []}) for m in modules
    ]
    for node, child in itertools.pairwise(nodes):
        # graph's edges are found under the node itself, too: a key that is an object
        node.fields["children"] = {1: child, child: 1}
    return module("gModule", forwardnodes=nodes, train=False)


def torch7_layers(layers: nn.Sequential) -> Iterator[Torch7Object]:
    """The modules that Torch7 has for convolutions, batch norms, ReLU and sigmoid."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            yield _convolution(layer)
        elif isinstance(layer, nn.BatchNorm2d):
            yield module("SpatialBatchNormalization", eps=layer.eps, momentum=0.1, **_arrays(layer))
        elif isinstance(layer, nn.ReLU):
            yield module("ReLU", inplace=True, threshold=0, val=0)
        else:
            assert isinstance(layer, nn.Sigmoid)
            yield module("Sigmoid")


def _convolution(layer: nn.Conv2d | nn.ConvTranspose2d) -> Torch7Object:
    fields = {
        "nInputPlane": layer.in_channels, "nOutputPlane": layer.out_channels,
        "kH": layer.kernel_size[0], "kW": layer.kernel_size[1],
        "dH": layer.stride[0], "dW": layer.stride[1],
        "padH": layer.padding[0], "padW": layer.padding[1],
    }  # fmt: skip
    name = "SpatialConvolution"
    if isinstance(layer, nn.ConvTranspose2d):
        name, fields = "SpatialFullConvolution", {**fields, "adjH": 0, "adjW": 0}
    elif layer.dilation[0] > 1:
        name = "SpatialDilatedConvolution"
        fields |= {"dilationH": layer.dilation[0], "dilationW": layer.dilation[1]}
    return module(name, **fields, **_arrays(layer))


def _arrays(layer: nn.Module) -> dict[str, np.ndarray]:
    return {
        name: tensor.numpy().copy()
        for name, tensor in layer.state_dict().items()
        if tensor.dtype == torch.float32
    }
