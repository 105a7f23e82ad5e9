"""The layers of a Torch7 network in the order in which they are computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.weight_import.torch7 import Torch7Object

_MAX_DEPTH = 50  # of containers in containers
_MAX_VISITED = 10_000
_CHAINS = ("Sequential",)
_GRAPH = "gModule"
_CONVOLUTIONS = {
    "SpatialConvolution": "convolution",
    "SpatialConvolutionMM": "convolution",
    "SpatialDilatedConvolution": "convolution",
    "SpatialFullConvolution": "deconvolution",
}
_OTHERS = {"SpatialBatchNormalization": "norm", "ReLU": "relu", "Sigmoid": "sigmoid"}
_LEAKY = "LeakyReLU"  # that of slope 0 is ReLU


@dataclass(frozen=True)
class Layer:
    """`kind`: convolution, deconvolution, norm, relu or sigmoid."""

    kind: str
    fields: dict[Any, Any]

    def tensor(self, name: str) -> Tensor | None:
        """float32; None where the file has no such numbers."""
        array = self.fields.get(name)
        if not isinstance(array, np.ndarray) or array.size == 0:
            return None
        return torch.from_numpy(np.array(array, dtype=np.float32))

    def number(self, name: str, default: float) -> float:
        value = self.fields.get(name, default)
        return float(value) if isinstance(value, int | float) else float("nan")


def layers_of(model: Any) -> list[Layer]:
    """Of nn.Sequential, nested, and of nngraph's gModule, whose nodes are saved in the order of
    computation. Raises ValueError for a layer that the paper's network has not.
    """
    visited = 0

    def walk(module: Any, depth: int) -> Iterator[Layer]:
        nonlocal visited
        visited += 1
        if depth > _MAX_DEPTH or visited > _MAX_VISITED:
            raise ValueError("its modules are nested without end")
        if not isinstance(module, Torch7Object) or not isinstance(module.fields, dict):
            raise ValueError("a module of it is no object of Torch7's nn")
        name = module.class_name.rpartition(".")[2]
        if name in _CHAINS:
            for inner in _list(module.fields.get("modules")):
                yield from walk(inner, depth + 1)
        elif name == _GRAPH:
            for node in _list(module.fields.get("forwardnodes")):
                inner = _module_of_node(node)
                if inner is not None:
                    yield from walk(inner, depth + 1)
        elif name != "Identity":
            yield _layer(name, module.fields)

    return list(walk(model, 0))


def _layer(name: str, fields: dict[Any, Any]) -> Layer:
    kind = _CONVOLUTIONS.get(name) or _OTHERS.get(name)
    if name == _LEAKY and fields.get("negval") == 0:
        kind = "relu"
    if kind is None:
        raise ValueError(f"it has a layer {name!r}, which the paper's network has not")
    return Layer(kind, fields)


def _list(table: Any) -> Iterator[Any]:
    """The values under 1, 2, 3 and so on."""
    if not isinstance(table, dict):
        raise ValueError("a container of it holds no list of modules")
    position = 1
    while position in table:
        yield table[position]
        position += 1


def _module_of_node(node: Any) -> Any:
    """None for the nodes that only hand their input on."""
    fields = node.fields if isinstance(node, Torch7Object) else node
    data = fields.get("data") if isinstance(fields, dict) else None
    if not isinstance(data, dict):
        raise ValueError("a node of its graph holds no data")
    return data.get("module")
