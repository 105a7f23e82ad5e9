"""The programs that run an ONNX file on the CPU: OpenVINO, the faster one, or onnxruntime."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.exports.tracing.comparison import Run

_TELEMETRY = "openvino_telemetry"


class OnnxSession:
    """onnxruntime, with as many threads as torch has."""

    def __init__(self, data: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Idle threads would take the cores of the other ranks.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, image: Tensor, mask: Tensor) -> Sequence[Tensor]:
        inputs = {"image": image.numpy(), "mask": mask.numpy()}
        return [torch.from_numpy(array) for array in self._session.run(None, inputs)]


class OpenVinoSession:
    """With as many threads as torch has. `precision` is that of what is not in 8 bits: left to
    itself, OpenVINO would round it to bf16 wherever the processor knows that.
    """

    def __init__(self, data: bytes, precision: str = "fp32") -> None:
        core = _openvino_core()
        compiled = core.compile_model(
            core.read_model(data),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                # Pinned, the threads of two processes would take the same cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._request = compiled.create_infer_request()
        self._one_at_a_time = threading.Lock()

    def __call__(self, image: Tensor, mask: Tensor) -> Sequence[Tensor]:
        inputs = {"image": _array(image), "mask": _array(mask)}
        with self._one_at_a_time:
            outputs = self._request.infer(inputs, share_inputs=True)
            return [torch.from_numpy(np.array(array)) for array in outputs.to_tuple()]


RUNTIMES: dict[str, Callable[[bytes], Run]] = {  # by the package, the best one first
    "openvino": OpenVinoSession,
    "onnxruntime": OnnxSession,
}


def installed_runtime() -> Callable[[bytes], Run]:
    """What opens a file's bytes, raising what it likes for a graph that it cannot run. RuntimeError
    where neither runtime is installed.
    """
    for package, runtime in RUNTIMES.items():
        if importlib.util.find_spec(package):
            return runtime
    raise RuntimeError(
        "ONNX files are run by OpenVINO or onnxruntime, neither of which is installed; "
        "pip install 'glcic-pipeline[openvino]'"
    )


def openvino() -> Any:
    """The package, without the one by which its import would send word of itself to its makers."""
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    present = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        return import_module("openvino")
    finally:
        del sys.modules[_TELEMETRY]
        if present is not None:
            sys.modules[_TELEMETRY] = present


@cache
def _openvino_core() -> Any:
    """One for the life of the process. A core gives its process a stack for signal handlers and,
    when it goes, sets back the one before: of two cores that may be one that is gone as well, and
    the next signal ends the process.
    """
    return openvino().Core()


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy())
