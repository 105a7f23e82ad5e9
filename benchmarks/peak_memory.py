"""How much memory was taken at most."""

from __future__ import annotations

import resource
import sys

import torch


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
