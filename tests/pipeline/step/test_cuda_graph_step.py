"""The order of things in a recorded step, on a stand-in for CUDA; see test_precision.py for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch

from pipeline.config.schedule import Phase
from pipeline.step.cuda_graph_step import GraphedStep
from pipeline.step.training_step import StepMetrics, TrainingBatch


class StandInStream:
    def wait_stream(self, other: object) -> None: ...


class StandInGraph:
    """Remembers the recorded step's metrics, and on replay computes them where they lie."""

    recorded = 0

    def replay(self) -> None:
        self.metrics.copy_(torch.stack([self.inputs.images.mean(), self.inputs.masks.mean()]))


class CountingStep:
    def __init__(self) -> None:
        self.batches: list[TrainingBatch] = []

    def __call__(self, phase: Phase, batch: TrainingBatch) -> StepMetrics:
        self.batches.append(batch)
        return {"images": batch.images.mean(), "masks": batch.masks.mean()}


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> GraphedStep:
    @contextmanager
    def recording(graph: StandInGraph, **_: object) -> Iterator[None]:
        stack = torch.stack

        def stacking(metrics: list[torch.Tensor]) -> torch.Tensor:
            graph.metrics = torch.full_like(stack(metrics), torch.nan)  # nothing is computed
            graph.inputs = step.batches[-1]
            return graph.metrics

        monkeypatch.setattr(torch, "stack", stacking)
        yield
        monkeypatch.setattr(torch, "stack", stack)
        StandInGraph.recorded += 1

    monkeypatch.setattr(StandInGraph, "recorded", 0)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(torch.cuda, "Stream", StandInStream)
    monkeypatch.setattr(torch.cuda, "current_stream", StandInStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandInGraph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    step = CountingStep()
    return GraphedStep(step)


def batch_of(value: float) -> TrainingBatch:
    corners = torch.zeros(2, 2, dtype=torch.int64)
    images, masks = value * torch.ones(2, 3, 4, 4), -value * torch.ones(2, 1, 4, 4)
    return TrainingBatch(images, masks, corners, corners)


def test_every_step_has_the_figures_of_its_own_batch_launched_or_replayed(
    graphed: GraphedStep,
) -> None:
    found = [graphed(Phase.COMPLETION, batch_of(value)) for value in range(7)]
    assert [(f["images"].item(), f["masks"].item()) for f in found] == [(v, -v) for v in range(7)]
    assert len(graphed._step.batches) == 4, "three to warm up, one that is recorded"
    assert StandInGraph.recorded == 1


def test_each_phase_is_recorded_anew_on_the_same_inputs(graphed: GraphedStep) -> None:
    for phase in (Phase.COMPLETION, Phase.JOINT):
        for value in range(5):
            graphed(phase, batch_of(value))
    assert StandInGraph.recorded == 2
    assert len(graphed._step.batches) == 8
    assert len({id(batch) for batch in graphed._step.batches}) == 1


def test_a_batch_of_the_caller_is_never_kept(graphed: GraphedStep) -> None:
    batch = batch_of(1.0)
    graphed(Phase.COMPLETION, batch)
    graphed(Phase.COMPLETION, batch_of(2.0))
    assert batch.images.unique().item() == 1.0
