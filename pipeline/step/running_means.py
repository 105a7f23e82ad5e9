"""Average the metrics of the steps since the last record, without waiting for the device."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.engines.ddp import Worker
from pipeline.step.training_step import StepMetrics

T = TypeVar("T")


class MetricAverager:
    """Sums on the device; one packed all-reduce and one read when they are asked for.

    A value that is not finite counts in no mean: its update was skipped (see `TrainableNetwork`).
    """

    def __init__(self, worker: Worker, batch_size: int) -> None:
        self._worker = worker
        self._batch_size = batch_size
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._wait_s = 0.0
        self._steps = 0
        self._since = time.perf_counter()

    def restart(self) -> None:
        """Leave the time since the last record out of the speed: something else was done in it."""
        self._since = time.perf_counter()
        self._steps = 0
        self._wait_s = 0.0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the same batches, and count the time that the loop waits for each."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._wait_s += time.perf_counter() - before
            yield batch

    def add(self, metrics: StepMetrics) -> None:
        for name, value in metrics.items():
            finite = value.isfinite()
            value = torch.where(finite, value, 0).float()
            before = self._sums.get(name)
            self._sums[name] = value if before is None else before + value
            self._counts[name] = self._counts.get(name, 0) + finite.float()
        self._steps += 1

    def reduce(self) -> dict[str, float]:
        """Return means over steps and ranks, and the speed of the whole run; then start again.

        A metric that was never finite is left out. Collective: every rank must call.
        """
        names = sorted(self._sums)  # the phases are the same on all ranks, so the names are too
        wait = torch.tensor(self._wait_s, device=self._worker.device)
        packed = torch.stack(
            [*(self._sums[name] for name in names), *(self._counts[name] for name in names), wait]
        )
        *values, wait_s = self._worker.all_reduce_sum_(packed).tolist()
        wait_s /= self._worker.world_size
        sums, counts = values[: len(names)], values[len(names) :]
        elapsed_s = time.perf_counter() - self._since
        result = {
            name: total / count
            for name, total, count in zip(names, sums, counts, strict=True)
            if count
        }
        if self._steps:
            result["images_per_second"] = self._steps * self._batch_size / elapsed_s
            result["data_wait_share"] = wait_s / elapsed_s
        self._sums, self._counts = {}, {}
        self.restart()
        return result
