from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.training import step_parts
from benchmarks.training.measured_steps import MeasuredSteps
from benchmarks.training.step_parts import (
    BACKWARD,
    FORWARD,
    OPTIMIZER,
    OTHER,
    PARTS,
    UPDATE,
    StepClock,
)
from pipeline.config.schedule import Phase
from pipeline.engines.ddp import Worker
from tests.small_run import small_config


def test_each_moment_belongs_to_the_innermost_part(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 1.0, 4.0, 8.0, 9.0, 10.0])
    monkeypatch.setattr(step_parts, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    clock = StepClock(torch.device("cpu"))
    with clock, clock.part(UPDATE), clock.part(OPTIMIZER):
        pass
    shares = {name: share for name, share in clock.shares().items() if share}
    assert shares == {OTHER: 0.2, UPDATE: 0.4, OPTIMIZER: 0.4}


@pytest.mark.parametrize("micro_batch_size", [0, 1])
@pytest.mark.parametrize("phase", Phase)
def test_a_step_with_marks_does_what_a_step_without_does(
    phase: Phase, micro_batch_size: int, tmp_path: Path
) -> None:
    train = {"batch_size": 2, "micro_batch_size": micro_batch_size}
    config = small_config("unread", tmp_path, train=train)
    marked, plain = (MeasuredSteps(config, Worker(), ("synthetic",)) for _ in range(2))
    marked._synthetic = plain._synthetic
    parts = marked.parts(phase, 2)
    plain.block(phase, "synthetic", 2)
    assert list(parts.shares) == list(PARTS)
    assert sum(parts.shares.values()) == pytest.approx(1)
    assert all(parts.shares[name] > 0 for name in (FORWARD, BACKWARD, OPTIMIZER, UPDATE))
    for name, group in plain._state.tensors().items():
        others = marked._state.tensors()[name]
        assert all(torch.equal(tensor, others[key]) for key, tensor in group.items()), name
