"""An ONNX file in 8 bits: its convolutions multiply bytes, by the ranges that real inputs reach.

Static quantisation as onnxruntime does it: weights int8 by channel, activations uint8 by tensor,
between pairs of QuantizeLinear and DequantizeLinear, which any runtime of ONNX can fuse.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.exports.onnx.file import METADATA

_QUANTIZED = ("Conv", "ConvTranspose")
_ERRORS, _WARNINGS = 3, 2  # of onnxruntime's severities


def quantized_graph(
    data: bytes, calibration: Iterable[tuple[Tensor, Tensor]], description: dict[str, Any]
) -> bytes:
    """From a float file's bytes to one of 8 bits: one file, with `description` as its property.

    `calibration` holds (image, mask) batches. The convolutions that see the input, whose mask and
    colours need all their levels, and those that give an output stay in float32.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="glcic-quantization-") as folder, _suppress_output():
        names = ("float.onnx", "prepared.onnx", "quantized.onnx")
        source, prepared, target = (Path(folder, name) for name in names)
        source.write_bytes(data)
        # Batch norm joins its convolution here, where it follows it.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(target),
            _reader(calibration),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # 7 bits: sums of 8-bit products saturate without VNNI instructions
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=list(_QUANTIZED),
            nodes_to_exclude=outer_convolutions(onnx.load(str(prepared)).graph),
        )
        model = onnx.load(str(target))
    _name_used_operators_only_(model)
    onnx.helper.set_model_props(model, {METADATA: json.dumps(description)})
    quantized: bytes = model.SerializeToString()
    return quantized


def outer_convolutions(graph: Any) -> list[str]:
    """Names of the convolutions with no other one before them, or none after them to an output."""
    producers = {name: node for node in graph.node for name in node.output}
    is_convolution: Callable[[Any], bool] = lambda node: node.op_type in _QUANTIZED  # noqa: E731

    def nearest_before(names: Iterable[str]) -> list[Any]:
        found, seen, waiting = [], set(), list(names)
        while waiting:
            name = waiting.pop()
            if name in seen or name not in producers:
                continue
            seen.add(name)
            if is_convolution(producers[name]):
                found.append(producers[name])
            else:
                waiting += producers[name].input
        return found

    first = [node for node in graph.node if is_convolution(node) and not nearest_before(node.input)]
    last = nearest_before(output.name for output in graph.output)
    return list(dict.fromkeys(node.name for node in first + last))


def _reader(calibration: Iterable[tuple[Tensor, Tensor]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            if batch is None:
                return None
            return dict(zip(("image", "mask"), (one.numpy() for one in batch), strict=True))

    return Batches()


def _name_used_operators_only_(model: Any) -> None:
    """onnxruntime lists every set of operators that it knows, its own among them."""
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


@contextmanager
def _suppress_output() -> Iterator[None]:
    """Without what onnxruntime's quantiser logs, warns of and prints on the way."""
    import onnxruntime

    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(_ERRORS)
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)
        logging.disable(silenced)
