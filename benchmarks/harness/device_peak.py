"""Measure the most that a device does (products, convolutions, copies), and takes of memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from pipeline.engines.ddp import AUTOCAST_TYPES

_DTYPES = {"fp32": torch.float32, **AUTOCAST_TYPES}
_WARM_UP = 3
# Of the matrices; images, channels and side of the convolution, the network's own at 256 pixels for
# a GPU, at 128 for a CPU.
_SIZES = {"cuda": (8192, (96, 256, 64)), "cpu": (2048, (8, 256, 32))}
_COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 28}


@dataclass(frozen=True)
class Peak:
    """The best of several runs each. On a CPU convolutions can beat the matrix product."""

    matrix_tflops: float
    convolution_tflops: float  # 3x3, 256 to 256 channels, channels_last, whole kernels counted
    memory_gb_per_s: float  # read and written by a copy, together


def measured_peak(device: torch.device, precision: str, seconds: float = 1.0) -> Peak:
    """With torch's current number of threads; about `seconds` for each of the three."""
    dtype = _DTYPES[precision]
    side, (images, channels, pixels) = _SIZES[device.type]
    square = torch.randn(side, side, device=device).to(dtype)
    layout = torch.channels_last
    features = torch.randn(images, channels, pixels, pixels, device=device)
    features = features.to(dtype).to(memory_format=layout)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype).to(memory_format=layout)
    source = torch.ones(_COPIED_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    with torch.inference_mode():
        product_s = best_seconds(lambda: square @ square, device, seconds)
        convolution_s = best_seconds(
            lambda: functional.conv2d(features, weight, padding=1), device, seconds
        )
        copy_s = best_seconds(lambda: target.copy_(source), device, seconds)
    return Peak(
        2 * side**3 / product_s / 1e12,
        2 * features.numel() * channels * 9 / convolution_s / 1e12,
        2 * source.nbytes / copy_s / 1e9,
    )


def best_seconds(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the shortest of the runs that fit into `seconds`, of at least five."""
    taken: list[float] = []
    while len(taken) < _WARM_UP + 5 or sum(taken) < seconds:
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken[_WARM_UP:])


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def begin_peak_memory(device: torch.device) -> None:
    """What was taken before does not count; of a CPU's process it does."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """CUDA: of tensors; CPU: resident, of the process so far, its libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
