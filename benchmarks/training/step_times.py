"""Times of training steps by images of a worker, with gradients exchanged and without.

Without: every worker updates its networks by its own gradients. All else is the same, batch norm's
statistics are averaged; the workers' weights drift apart, which costs no time.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from benchmarks.harness.all_reduce import synchronize
from benchmarks.training.measured_steps import random_batch, state_without_data, training_step
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config, OptimizerConfig
from pipeline.distributed.optimizers import build_optimizer
from pipeline.distributed.trainable import TrainableNetwork
from pipeline.engines.ddp import Worker
from pipeline.step.training_step import TrainingBatch, TrainingStep

_WARM_UP = 2  # steps of each kind that are not measured: they allocate, compile and choose


class Case(NamedTuple):
    phase: Phase
    images: int  # of each worker
    averages_gradients: bool


class LoneWorker(Worker):
    """Among others, but with gradients of its own."""

    @classmethod
    def like(cls, worker: Worker) -> LoneWorker:
        return cls(
            rank=worker.rank,
            world_size=worker.world_size,
            local_rank=worker.local_rank,
            local_world_size=worker.local_world_size,
            device=worker.device,
            precision=worker.precision,
            cuda_graphs=worker.cuda_graphs,
        )

    def trainable(
        self, name: str, network: nn.Module, optimizer: OptimizerConfig
    ) -> TrainableNetwork:
        built = build_optimizer(optimizer, network, capturable=self.cuda_graphs)
        return TrainableNetwork(self, name, network, built, self.scaler)


def measure_steps(
    config: Config,
    worker: Worker,
    images: Sequence[int],
    steps: int,
    rounds: int,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[Case, list[float]]:
    """Seconds of a step, the mean of `steps`, in each round, in which every case comes once.

    Collective: every rank must call.
    """
    kinds = {True: _training_step(config, worker)}
    if worker.world_size > 1:
        kinds[False] = _training_step(config, LoneWorker.like(worker))
    batches = {count: _batch(config, worker, count) for count in images}
    runs: dict[Case, list[float]] = {
        Case(phase, count, averages_gradients): []
        for count in images
        for phase in Phase
        for averages_gradients in kinds
    }
    for number in range(-1, rounds):
        progress(f"round {number + 1} of {rounds}" if number >= 0 else "warming up")
        for case, found in runs.items():
            step, batch = kinds[case.averages_gradients], batches[case.images]
            if number < 0:
                _seconds(step, case.phase, batch, worker, _WARM_UP)
            else:
                found.append(_seconds(step, case.phase, batch, worker, steps) / steps)
    return runs


def _training_step(config: Config, worker: Worker) -> TrainingStep:
    state = state_without_data(config, worker)
    return training_step(config, worker, state.completion, state.discriminator)


def _batch(config: Config, worker: Worker, images: int) -> TrainingBatch:
    train = dataclasses.replace(config.train, batch_size=images * worker.world_size)
    return random_batch(dataclasses.replace(config, train=train), worker)


def _seconds(
    step: TrainingStep, phase: Phase, batch: TrainingBatch, worker: Worker, steps: int
) -> float:
    synchronize(worker)
    begin = time.perf_counter()
    for _ in range(steps):
        step(phase, batch)
    synchronize(worker)
    return time.perf_counter() - begin
