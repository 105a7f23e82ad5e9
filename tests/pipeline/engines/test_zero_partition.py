"""ZeRO's part of a state, of a rank alone: the whole is its part."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pipeline.engines.ddp import Worker
from pipeline.engines.zero_partition import Partition


def partition_of_linear() -> tuple[Partition, torch.optim.Optimizer, torch.Tensor]:
    network = torch.nn.Linear(2, 3)
    parameters = list(network.parameters())
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
    whole = torch.cat([flat, torch.zeros(1)])  # padded to an even number
    offset = 0
    for parameter in parameters:
        count = parameter.numel()
        parameter.data = whole[offset : offset + count].view(parameter.shape)
        offset += count
    span = whole.clone().requires_grad_()
    optimizer = torch.optim.Adam([span], fused=True)
    zero = SimpleNamespace(
        optimizer=optimizer, bit16_groups=[parameters], bit16_groups_flat=[whole],
        single_partition_of_fp32_groups=[span],
    )  # fmt: skip
    return Partition(zero, network, Worker()), optimizer, span


def test_what_is_gathered_is_what_is_loaded() -> None:
    partition, optimizer, span = partition_of_linear()
    assert partition.gather() == {}
    span.grad = torch.cat([torch.arange(9.0), torch.zeros(1)])  # nothing reaches the padding
    optimizer.step()
    gathered = {name: tensor.clone() for name, tensor in partition.gather().items()}
    assert gathered["weight.exp_avg"].shape == (3, 2)
    assert float(gathered["bias.step"]) == 1
    other, its_optimizer, its_span = partition_of_linear()
    other.load_(gathered)
    for name, value in optimizer.state[span].items():
        assert torch.equal(its_optimizer.state[its_span][name], value), name


@pytest.mark.parametrize(
    ("tensors", "part"),
    [
        ({"other.exp_avg": torch.zeros(1)}, "state for other, which does not exist"),
        ({"bias.exp_avg": torch.zeros(3)}, "lacks exp_avg of 1 parameters, weight"),
        ({"bias.step": torch.tensor(1.0), "weight.step": torch.tensor(2.0)}, r"\[1.0, 2.0\]"),
    ],
)
def test_state_that_does_not_fit_is_refused(tensors: dict, part: str) -> None:
    partition, *_ = partition_of_linear()
    with pytest.raises(ValueError, match=part):
        partition.load_(tensors)
