"""An ONNX file that `glcic export` wrote, read as data: nothing of it is run.

What a file asks for beyond that, such as operators that a library would have to bring or weights
in other files, is refused before a runtime sees it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from shards.storage.files import read_bytes

METADATA = "glcic"  # the file's property that describes the network
SUFFIX = ".onnx"
_INPUTS = ["image", "mask"]
_STANDARD_DOMAINS = {"", "ai.onnx"}


@dataclass(frozen=True)
class OnnxFile:
    name: str  # for messages: where it was read
    data: bytes
    description: dict[str, Any]
    outputs: list[str]

    @property
    def precision(self) -> str:
        """What its convolutions multiply, int8 or fp32."""
        return str(self.description.get("precision", "fp32"))


def is_onnx_file(url: str) -> bool:
    return url.endswith(SUFFIX)


def read_onnx_file(url: str) -> OnnxFile:
    """Raises what `parse_onnx_file` raises, and FileNotFoundError or OSError of the storage."""
    return parse_onnx_file(read_bytes(url), url)


def parse_onnx_file(data: bytes, name: str) -> OnnxFile:
    """ValueError where it is damaged, not of this project's making, or asks for more than itself;
    RuntimeError where the package that reads it is missing.
    """
    model = _parse_model(data, name)
    properties = {one.key: one.value for one in model.metadata_props}
    if METADATA not in properties:
        raise ValueError(
            f"{name} has no property {METADATA}, which says what network it holds: only what "
            "`glcic export --format onnx` has written can be run"
        )
    try:
        description = json.loads(properties[METADATA])
        if not isinstance(description["completion"], dict):
            raise TypeError("completion is no mapping")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{name} is damaged: its property {METADATA} does not describe a network ({error!r})"
        ) from error
    if damage := _find_damage(model):
        raise ValueError(f"{name} is damaged, or was altered: {damage}")
    return OnnxFile(name, data, description, [output.name for output in model.graph.output])


def _parse_model(data: bytes, name: str) -> Any:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise RuntimeError(
            f"{name}: ONNX files are read with {error.name}, which is not installed; "
            "pip install 'glcic-pipeline[openvino]'"
        ) from error
    try:
        return onnx.load_from_string(data)
    except (DecodeError, ValueError) as error:
        raise ValueError(f"{name} is no ONNX file, or not a whole one; export it again") from error


def _find_damage(model: Any) -> str:
    from onnx import AttributeProto, TensorProto
    from onnx.checker import ValidationError, check_model

    graph = model.graph
    inputs = [one.name for one in graph.input]
    if inputs != _INPUTS:
        return f"its inputs are {', '.join(inputs) or 'none'} instead of {', '.join(_INPUTS)}"
    if not graph.output:
        return "it has no output"
    tensors = list(graph.initializer)
    for node in graph.node:
        if node.domain not in _STANDARD_DOMAINS:
            return f"{node.op_type} of {node.domain} is none of ONNX's own operators"
        for attribute in node.attribute:
            if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
                return f"{node.op_type} holds a graph of its own"
            tensors.append(attribute.t)
    if model.functions:
        return "it defines operators of its own"
    if graph.sparse_initializer or any(t.data_location == TensorProto.EXTERNAL for t in tensors):
        return "its weights are not all in it"
    try:
        check_model(model)
    except ValidationError as error:
        return str(error).splitlines()[0]
    return ""
