"""Training steps replayed as CUDA graphs: one launch instead of some hundred, for small batches.

The first steps of a phase run as they are, on a stream of their own; the next one is recorded, and
from then on replayed on inputs that are copied to where the recorded step reads them. Networks,
statistics and optimizers are changed in place, and an update that is not finite is skipped by a
number on the device, so that nothing of a step is decided on the CPU.
"""

from __future__ import annotations

import warnings
from dataclasses import fields

import torch

from pipeline.config.schedule import Phase
from pipeline.step.training_step import StepMetrics, TrainingBatch, TrainingStep

_WARM_UP_STEPS = 3  # optimizer state, cuDNN's and cuBLAS's workspaces, compiled kernels


class GraphedStep:
    """Takes the place of a `TrainingStep`, on CUDA, on one worker."""

    def __init__(self, step: TrainingStep) -> None:
        self._step = step
        self._stream = torch.cuda.Stream()
        self._phase: Phase | None = None
        self._num_steps = 0  # of this phase, up to the recorded one
        self._inputs: TrainingBatch | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._names: list[str] = []
        self._metrics = torch.empty(0)

    def __call__(self, phase: Phase, batch: TrainingBatch) -> StepMetrics:
        if phase is not self._phase:
            # Phases do not come back, and a graph keeps the memory that it works in.
            self._phase, self._num_steps, self._graph = phase, 0, None
        inputs = self._take(batch)
        if self._num_steps < _WARM_UP_STEPS:
            self._num_steps += 1
            return self._on_own_stream(phase, inputs)
        if self._graph is None:
            self._record(phase, inputs)
        assert self._graph is not None
        self._graph.replay()
        # Copied: the next replay overwrites them.
        return dict(zip(self._names, self._metrics.clone().unbind(), strict=True))

    def _take(self, batch: TrainingBatch) -> TrainingBatch:
        """Return the batch, where the graph reads it."""
        if self._inputs is None:
            self._inputs = TrainingBatch(*(getattr(batch, f.name).clone() for f in fields(batch)))
        else:
            for field in fields(batch):
                getattr(self._inputs, field.name).copy_(getattr(batch, field.name))
        return self._inputs

    def _on_own_stream(self, phase: Phase, inputs: TrainingBatch) -> StepMetrics:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            # Of a capturable optimizer that steps outside a graph, as it does while warming up.
            warnings.filterwarnings("ignore", message=".*capturable=True")
            metrics = self._step(phase, inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        for metric in metrics.values():
            metric.record_stream(torch.cuda.current_stream())
        return metrics

    def _record(self, phase: Phase, inputs: TrainingBatch) -> None:
        """Compute nothing. Other threads, which write checkpoints, may use CUDA meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            metrics = self._step(phase, inputs)
            stacked = torch.stack(list(metrics.values()))
        self._graph, self._names, self._metrics = graph, list(metrics), stacked
