"""What the device computes at most, measured: products of matrices, and one convolution."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_REPEATS = 3


@dataclass(frozen=True)
class Peak:
    matrix_tflops: float
    convolution_tflops: float


def measured_peak(device: torch.device, precision: str) -> Peak:
    on_gpu = device.type == "cuda"
    side, batch = (8192, 64) if on_gpu else (768, 1)
    kind = _TYPES[precision]
    left, right = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
    features = torch.rand(batch, 256, 64, 64, device=device).to(kind)
    weight = torch.rand(256, 256, 3, 3, device=device).to(kind)
    features, weight = (t.to(memory_format=torch.channels_last) for t in (features, weight))
    convolution = 2 * features.numel() * 256 * 9
    with torch.no_grad():
        return Peak(
            2 * side**3 / _fastest_s(lambda: left @ right, device) / 1e12,
            convolution
            / _fastest_s(lambda: torch.conv2d(features, weight, padding=1), device)
            / 1e12,
        )


def _fastest_s(call: Callable[[], Tensor], device: torch.device) -> float:
    call()
    return min(_seconds(call, device) for _ in range(_REPEATS))


def _seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    _synchronize(device)
    begin = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - begin


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
