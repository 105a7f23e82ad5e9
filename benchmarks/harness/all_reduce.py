"""Times of all-reduces through the process group that training uses, by the size of the message."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from benchmarks.harness.device_peak import synchronize as synchronize_device
from pipeline.engines.ddp import Worker

SMALLEST_BYTES = 1024
_GROWTH = 4
_BYTES_IN_A_ROW = 64 << 20  # messages of a measurement together, as far as their number allows
_NUMBERS = (2, 200)  # of messages in a measurement, at least and at most
_WARM_UP = 2


def message_sizes(largest_bytes: int) -> list[int]:
    """From 1 KiB on, each four times the one before, and the largest itself."""
    sizes = []
    size = SMALLEST_BYTES
    while size < largest_bytes:
        sizes.append(size)
        size *= _GROWTH
    return [*sizes, max(largest_bytes, SMALLEST_BYTES)]


def measure_all_reduce(
    worker: Worker, sizes: Sequence[int], rounds: int, dtype: torch.dtype
) -> dict[int, list[float]]:
    """Seconds of one, the mean of several in a row, for each size of message in every round.

    Collective: every rank must call.
    """
    runs: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(-1, rounds):
        for size in sizes:
            tensor = torch.zeros(max(1, size // dtype.itemsize), dtype=dtype, device=worker.device)
            seconds = _seconds(worker, tensor, size, warm_up=number < 0)
            if number >= 0:
                runs[size].append(seconds)
    return runs


def _seconds(worker: Worker, tensor: torch.Tensor, size: int, *, warm_up: bool) -> float:
    least, most = _NUMBERS
    number = _WARM_UP if warm_up else min(most, max(least, _BYTES_IN_A_ROW // size))
    synchronize(worker)
    begin = time.perf_counter()
    for _ in range(number):
        worker.all_reduce_sum_(tensor)
    synchronize(worker)
    return (time.perf_counter() - begin) / number


def synchronize(worker: Worker) -> None:
    """Wait until every rank has finished its work. Collective: every rank must call."""
    synchronize_device(worker.device)
    worker.all_reduce_sum_(torch.zeros(1)).item()


def bus_bandwidth(size: int, seconds: float, workers: int) -> float:
    """Bytes/s over each link, were the message sent round a ring: comparable with the link's own,
    whatever the number of workers. NCCL's tests call it so, and size / seconds the algorithm's.
    """
    return size / seconds * 2 * (workers - 1) / workers
