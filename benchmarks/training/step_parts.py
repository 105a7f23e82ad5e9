"""Where a step's time goes: marks between its parts, set without a change to the step.

The step gets networks that mark on a clock when a part begins and ends; hooks of the optimizers
mark theirs. On CUDA the marks are events on the stream of the computation, for which
nothing waits before the steps are done. So a part's time is that between two places of the stream:
it has in it what the GPU waited there for the host, and, at the end of the backward, what it waited
for the all-reduce of gradients. Steps with marks are measured apart from those whose speed counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from pipeline.distributed.trainable import TrainableNetwork

FORWARD, BACKWARD, OPTIMIZER = "forward", "backward", "optimizer"
UPDATE = (
    "gradient norm, running statistics"  # what `TrainableNetwork.update_` does beside the optimizer
)
AVERAGE = "running average"
OTHER = "losses and the rest"
PARTS = (FORWARD, BACKWARD, OPTIMIZER, UPDATE, AVERAGE, OTHER)


@dataclass(frozen=True)
class Parts:
    step_s: float  # of a step with marks
    shares: dict[str, float]  # by name of the part; the mean over the ranks; their sum is 1


class StepClock:
    """Each moment between entering and leaving it belongs to the innermost part that is open."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._open = [OTHER]
        self._marks: list[tuple[str, Any]] = []  # the part that begins there, and when

    def __enter__(self) -> StepClock:
        self._mark()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._mark()

    def begin(self, name: str) -> None:
        self._open.append(name)
        self._mark()

    def end(self) -> None:
        self._open.pop()
        self._mark()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    def shares(self) -> dict[str, float]:
        """Of the time between the first mark and the last. On CUDA the device must be done."""
        seconds = dict.fromkeys(PARTS, 0.0)
        for (name, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            seconds[name] += begin.elapsed_time(end) / 1000 if self._on_gpu else end - begin
        total = sum(seconds.values())
        return {name: one / total for name, one in seconds.items()}

    def _mark(self) -> None:
        now: Any = torch.cuda.Event(enable_timing=True) if self._on_gpu else time.perf_counter()
        if self._on_gpu:
            now.record()
        self._marks.append((self._open[-1], now))


class TimedNetwork:
    """Takes the place of a `TrainableNetwork` in a `TrainingStep`."""

    def __init__(self, trainable: TrainableNetwork, clock: StepClock) -> None:
        self._trainable, self._clock = trainable, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainable, name)

    def __call__(self, *inputs: Any) -> Any:
        with self._clock.part(FORWARD):
            return self._trainable(*inputs)

    def frozen(self, *inputs: Any) -> Any:
        with self._clock.part(FORWARD):
            return self._trainable.frozen(*inputs)

    def backward_(self, loss: Tensor) -> None:
        with self._clock.part(BACKWARD):
            self._trainable.backward_(loss)

    def update_(self) -> dict[str, Tensor]:
        with self._clock.part(UPDATE):
            return self._trainable.update_()


@contextmanager
def timed_optimizer(optimizer: torch.optim.Optimizer, clock: StepClock) -> Iterator[None]:
    before = optimizer.register_step_pre_hook(lambda *_: clock.begin(OPTIMIZER))
    after = optimizer.register_step_post_hook(lambda *_: clock.end())
    try:
        yield
    finally:
        before.remove()
        after.remove()
