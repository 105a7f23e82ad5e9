from __future__ import annotations

import torch
from torch import nn

from pipeline.training.averaged_weights import AveragedNetwork


def network(value: float) -> nn.Module:
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(module[0].weight, value)
    return module


def test_late_in_a_run_the_average_moves_by_one_minus_the_decay() -> None:
    average = AveragedNetwork(network(0.0), decay=0.9)
    average.update_(network(1.0), num_updates=10_000)
    torch.testing.assert_close(average.network[0].weight, torch.tensor([[0.1]]))


def test_early_in_a_run_the_average_forgets_the_initial_weights_faster() -> None:
    average = AveragedNetwork(network(0.0), decay=0.999)
    average.update_(network(1.0), num_updates=0)
    torch.testing.assert_close(average.network[0].weight, torch.tensor([[0.9]]))


def test_statistics_of_batch_norm_are_copied_not_averaged() -> None:
    average, trained = AveragedNetwork(network(0.0), decay=0.99), network(1.0)
    trained[1].running_mean.fill_(5.0)
    trained[1].num_batches_tracked.fill_(7)
    average.update_(trained, num_updates=1000)
    assert average.network[1].running_mean.item() == 5.0
    assert average.network[1].num_batches_tracked.item() == 7


def test_the_average_takes_no_gradient() -> None:
    average = AveragedNetwork(network(0.0), decay=0.99)
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
