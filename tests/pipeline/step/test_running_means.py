from __future__ import annotations

import torch

from pipeline.engines.ddp import Worker
from pipeline.step.running_means import MetricAverager


def test_a_figure_is_the_mean_over_the_steps_that_had_it() -> None:
    metrics = MetricAverager(Worker(), batch_size=4)
    metrics.add({"reconstruction": torch.tensor(1.0)})
    metrics.add({"reconstruction": torch.tensor(3.0), "adversarial": torch.tensor(5.0)})
    values = metrics.reduce()
    assert values["reconstruction"] == 2.0
    assert values["adversarial"] == 5.0
    assert values["images_per_second"] > 0


def test_after_a_record_everything_starts_anew() -> None:
    metrics = MetricAverager(Worker(), batch_size=4)
    metrics.add({"reconstruction": torch.tensor(1.0)})
    metrics.reduce()
    metrics.add({"reconstruction": torch.tensor(9.0)})
    assert metrics.reduce()["reconstruction"] == 9.0


def test_batches_pass_through_in_their_order() -> None:
    metrics = MetricAverager(Worker(), batch_size=4)
    assert list(metrics.timed(range(3))) == [0, 1, 2]


def test_a_value_that_is_not_finite_counts_in_no_mean() -> None:
    metrics = MetricAverager(Worker(), batch_size=4)
    for value in (1.0, float("nan"), 5.0):
        metrics.add({"reconstruction": torch.tensor(value), "adversarial": torch.tensor(torch.inf)})
    values = metrics.reduce()
    assert values["reconstruction"] == 3.0
    assert "adversarial" not in values
