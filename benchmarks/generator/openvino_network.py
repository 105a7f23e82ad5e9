"""The completion network as OpenVINO runs it on a CPU, in bf16 or in 8 bits: inference alone."""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor, nn

from pipeline.exports.onnx.export import onnx_file
from pipeline.exports.onnx.int8 import quantized_graph
from pipeline.exports.onnx.runtimes import OpenVinoSession
from pipeline.exports.tracing.traced import TracedCompletion
from pipeline.networks.base import CompletionBase

_PACKAGES = ("onnx", "onnxruntime", "onnxscript", "openvino")


def missing_package() -> str:
    """Return the first that is not installed of those that this needs; empty where all are."""
    return next((name for name in _PACKAGES if find_spec(name) is None), "")


class OpenVinoNetwork(nn.Module):
    """`precision` is bf16 or int8; the latter is calibrated on the batch that is measured."""

    def __init__(
        self, network: CompletionBase, precision: str, image: Tensor, mask: Tensor
    ) -> None:
        super().__init__()
        traced = TracedCompletion(network.eval().requires_grad_(False), composite=False)
        data, _ = onnx_file(traced, {})
        if precision == "int8":
            data = quantized_graph(data, [(image, mask)], {})
        self._run = OpenVinoSession(data, "fp32" if precision == "int8" else precision)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self._run(image, mask)[0]
