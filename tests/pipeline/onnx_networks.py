"""Small ONNX networks that stand in for Inception and LPIPS, whose weights cannot be had here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_feature_network(path: Path, num_features: int = 4, batch: int | str = "n") -> str:
    """Strided filters of random weights, then the mean over the image: (N, num_features, 1, 1)."""
    weights = np.random.default_rng(0).normal(0, 1, (num_features, 3, 4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["filtered"], strides=[4, 4]),
        helper.make_node("Relu", ["filtered"], ["rectified"]),
        helper.make_node("GlobalAveragePool", ["rectified"], ["features"]),
    ]
    return _write(path, nodes, ["image"], "features", batch, [("weights", weights)])


def write_distance_network(path: Path) -> str:
    """The mean absolute difference of two images: (N, 1, 1, 1)."""
    nodes = [
        helper.make_node("Sub", ["first", "second"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["absolute"]),
        helper.make_node("ReduceMean", ["absolute", "axes"], ["distance"]),
    ]
    axes = np.array([1, 2, 3], dtype=np.int64)
    return _write(path, nodes, ["first", "second"], "distance", "n", [("axes", axes)])


def _write(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[str],
    output: str,
    batch: int | str,
    constants: list[tuple[str, np.ndarray]],
) -> str:
    shape = [batch, 3, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(path))
    return str(path)
