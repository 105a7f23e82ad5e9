"""A completion network as an ONNX file, compared with it under onnxruntime before it is kept."""

from __future__ import annotations

import json
from typing import Any

import torch

from pipeline.exports.onnx.file import METADATA
from pipeline.exports.onnx.runtimes import OnnxSession
from pipeline.exports.tracing.comparison import ExportComparison, compare_export
from pipeline.exports.tracing.traced import INPUT_NAMES, TracedCompletion, quiet_exporters


def onnx_file(
    traced: TracedCompletion, description: dict[str, Any]
) -> tuple[bytes, ExportComparison]:
    """Return the whole file, weights included. Raises RuntimeError where a package is missing and
    where the graph does not give what the network gives.
    """
    _require_packages()
    shapes = traced.dynamic_shapes()
    with quiet_exporters():
        converted = torch.onnx.export(
            traced.program(),
            dynamo=True,
            input_names=INPUT_NAMES,
            output_names=traced.output_names(),
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert converted is not None
    converted.model.metadata_props[METADATA] = json.dumps(description)
    data: bytes = converted.model_proto.SerializeToString()
    return data, compare_export(traced, OnnxSession(data))


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            f"ONNX files are made with {error.name}, which is not installed; "
            "pip install 'glcic-pipeline[onnx]'"
        ) from error
