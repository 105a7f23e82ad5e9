"""The steps of a configuration in every phase, on batches that were made up or really read.

A step is what the training loop makes of a batch: the phase's step, the running average, and the
ranks' word on whether to stop. Figures, checkpoints, sheets and evaluations are left out.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.harness.all_reduce import synchronize
from benchmarks.harness.device_peak import Peak, begin_peak_memory, measured_peak, peak_memory_bytes
from benchmarks.training.step_parts import AVERAGE, Parts, StepClock, TimedNetwork, timed_optimizer
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config
from pipeline.device.options import set_process_options
from pipeline.distributed.trainable import TrainableNetwork
from pipeline.engines.ddp import DataParallelNetwork, Worker
from pipeline.step.cuda_graph_step import GraphedStep
from pipeline.step.device_feed import DeviceFeed
from pipeline.step.training_data import reader_spec, training_data
from pipeline.step.training_step import TrainingBatch, TrainingStep
from pipeline.training.run_state import RunState
from shards.reading.reader import ShardReader

SYNTHETIC, REAL = "synthetic", "real"
_NO_END = 2**40  # steps
_PEAK_S = 0.3  # for each kind of peak, every round
_GRAPH_WARM_UP = 5  # until a graph is recorded and was replayed once


@dataclass(frozen=True)
class Block:
    """Of some steps after one another, per step."""

    step_s: float
    waiting_s: float  # of the host for the reader, the mean over the ranks
    peak_bytes: int  # of the rank that took most: on CUDA of tensors, else of the process so far


def random_batch(config: Config, worker: Worker) -> TrainingBatch:
    """Return a worker's share of a batch, laid out as the feed does, with the hole in a corner."""
    share, size = config.train.batch_size // worker.world_size, config.crop_size
    patch = config.discriminator.local_size
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    images = torch.rand(share, 3, size, size, device=worker.device).contiguous(memory_format=layout)
    masks = torch.zeros(share, 1, size, size, device=worker.device)
    masks[:, :, : patch // 2, : patch // 2] = 1
    corners = torch.zeros(share, 2, dtype=torch.int64, device=worker.device)
    return TrainingBatch(images, masks, corners, corners)


def state_without_data(config: Config, worker: Worker) -> RunState:
    """Collective: every rank must call."""
    gray = SimpleNamespace(mean_color=(0.5, 0.5, 0.5))  # all that networks take of the data
    return RunState(config, worker, gray)  # type: ignore[arg-type]


def training_step(
    config: Config, worker: Worker, completion: TrainableNetwork, discriminator: TrainableNetwork
) -> TrainingStep:
    return TrainingStep(
        completion, discriminator, config.loss, config.discriminator.local_size, worker,
        config.train.micro_batch_size,
    )  # fmt: skip


class MeasuredSteps:
    """A run's networks, and blocks of steps of them. Every method is collective.

    Several in one process take turns: each block begins with its own switches of the process.
    """

    def __init__(self, config: Config, worker: Worker, kinds: tuple[str, ...]) -> None:
        self._config, self._worker = config, worker
        self._state = (
            RunState(config, worker, training_data(config))
            if REAL in kinds
            else state_without_data(config, worker)
        )
        step = training_step(config, worker, *self._trainables)
        # One each: a graph is given up when the phase changes, as it does in every round here.
        self._steps = {p: GraphedStep(step) if worker.cuda_graphs else step for p in Phase}
        self._synthetic = random_batch(config, worker)
        self._real = _RealBatches(config, worker) if REAL in kinds else None

    @property
    def can_skip_all_reduce(self) -> bool:
        return all(isinstance(trainable, DataParallelNetwork) for trainable in self._trainables)

    def warm_up(self, steps: int) -> None:
        self._set_options()
        if self._worker.cuda_graphs:
            steps = max(steps, _GRAPH_WARM_UP)
        for phase in Phase:
            self._seconds(phase, itertools.repeat(self._synthetic), steps)
        if self.can_skip_all_reduce:
            for phase in Phase:
                self._seconds_without_all_reduce(phase, 1)

    def block(self, phase: Phase, kind: str, steps: int) -> Block:
        self._set_options()
        real = self._real
        batches: Iterator[TrainingBatch] = itertools.repeat(self._synthetic)
        if kind == REAL:
            assert real is not None
            # What was read ahead between the blocks would hide a reader that is too slow: the ring
            # is emptied, and one step made, which is not counted.
            real.drop_what_is_ready()
            self._make_step(phase, next(real))
            batches = real
        begin_peak_memory(self._worker.device)
        before_s = real.waiting_s if real is not None else 0.0
        seconds = self._seconds(phase, batches, steps)
        waiting_s = (real.waiting_s if real is not None else 0.0) - before_s
        peak_bytes = peak_memory_bytes(self._worker.device)
        return Block(seconds / steps, self._mean(waiting_s) / steps, self._most(peak_bytes))

    def all_reduce_share(self, phase: Phase, steps: int) -> float:
        """Of a step: what steps take longer than those before and after them in which gradients
        stay with their rank. Only where `can_skip_all_reduce`.
        """
        self._set_options()
        batches = itertools.repeat(self._synthetic)
        first_s = self._seconds_without_all_reduce(phase, steps)
        with_s = self._seconds(phase, batches, steps)
        last_s = self._seconds_without_all_reduce(phase, steps)
        return 1 - (first_s + last_s) / 2 / with_s

    def _seconds_without_all_reduce(self, phase: Phase, steps: int) -> float:
        with ExitStack() as stack:
            for trainable in self._trainables:
                assert isinstance(trainable, DataParallelNetwork)
                stack.enter_context(trainable.without_all_reduce())
            return self._seconds(phase, itertools.repeat(self._synthetic), steps)

    def parts(self, phase: Phase, steps: int) -> Parts:
        """Of steps with marks in them, on synthetic batches; without CUDA graphs in any case."""
        self._set_options()
        clock = StepClock(self._worker.device)
        timed: Any = [TimedNetwork(trainable, clock) for trainable in self._trainables]
        step = training_step(self._config, self._worker, *timed)
        synchronize(self._worker)
        begin = time.perf_counter()
        with ExitStack() as stack:
            for trainable in self._trainables:
                stack.enter_context(timed_optimizer(trainable.optimizer, clock))
            stack.enter_context(clock)
            for _ in range(steps):
                step(phase, self._synthetic)
                with clock.part(AVERAGE):
                    self._after_step(phase)
        synchronize(self._worker)
        step_s = (time.perf_counter() - begin) / steps
        return Parts(step_s, {name: self._mean(s) for name, s in clock.shares().items()})

    def peak(self) -> Peak:
        """Of all workers together, measured by all of them at once."""
        self._set_options()
        synchronize(self._worker)
        own = measured_peak(self._worker.device, self._config.train.precision, _PEAK_S)
        each = (own.matrix_tflops, own.convolution_tflops, own.memory_gb_per_s)
        return Peak(*(self._worker.world_size * self._mean(one) for one in each))

    def close(self) -> None:
        if self._real is not None:
            self._real.close()

    @property
    def _trainables(self) -> tuple[TrainableNetwork, TrainableNetwork]:
        return self._state.completion, self._state.discriminator

    def _set_options(self) -> None:
        set_process_options(self._config, self._worker.device, self._worker.local_world_size)

    def _make_step(self, phase: Phase, batch: TrainingBatch) -> None:
        self._steps[phase](phase, batch)
        self._after_step(phase)

    def _after_step(self, phase: Phase) -> None:
        if phase is not Phase.DISCRIMINATOR and self._state.average is not None:
            self._state.average.update_(self._state.completion.network, 0)
        self._worker.raised_anywhere(False)

    def _seconds(self, phase: Phase, batches: Iterator[TrainingBatch], steps: int) -> float:
        synchronize(self._worker)
        begin = time.perf_counter()
        for _ in range(steps):
            self._make_step(phase, next(batches))
        synchronize(self._worker)
        return time.perf_counter() - begin

    def _mean(self, value: float) -> float:
        total = self._worker.all_reduce_sum_(torch.tensor([value], dtype=torch.float64))
        return float(total.item()) / self._worker.world_size

    def _most(self, value: int) -> int:
        return int(self._worker.all_gather(torch.tensor([value])).max().item())


class _RealBatches:
    """What a run of this configuration reads, as it reads it, without end."""

    def __init__(self, config: Config, worker: Worker) -> None:
        self._reader = ShardReader(reader_spec(config, worker))
        self._feed = DeviceFeed(self._reader, config, worker.rank, worker.world_size, worker.device)
        self._reader.start(0, _NO_END)
        self._batches = (batch for _, batch in self._feed.batches())
        self._num_slots = config.data.prefetch_batches

    @property
    def waiting_s(self) -> float:
        return self._reader.wait_seconds

    def __iter__(self) -> Iterator[TrainingBatch]:
        return self

    def __next__(self) -> TrainingBatch:
        return next(self._batches)

    def drop_what_is_ready(self) -> None:
        for _ in range(self._num_slots):
            next(self)

    def close(self) -> None:
        self._feed.close()
        self._reader.close()
