from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.config.schema import OptimizerConfig
from pipeline.distributed.optimizers import (
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)).to(
        memory_format=torch.channels_last
    )


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        module(torch.rand(2, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", ["adam", "adadelta"])
def test_an_optimizer_continues_bit_for_bit_from_its_tensors(kind: str) -> None:
    config = OptimizerConfig(kind=kind, learning_rate=0.01)
    whole = network()
    optimizer = build_optimizer(config, whole)
    steps(whole, optimizer, 3)

    resumed = network()
    resumed.load_state_dict(whole.state_dict())
    other = build_optimizer(config, resumed)
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, whole).items()}
    load_optimizer_tensors(other, resumed, saved)
    steps(whole, optimizer, 2)
    steps(resumed, other, 2)
    for mine, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_before_its_first_step_an_optimizer_has_no_tensors() -> None:
    module = network()
    assert optimizer_tensors(build_optimizer(OptimizerConfig(), module), module) == {}


def test_state_of_a_parameter_that_does_not_exist_is_refused() -> None:
    module = network()
    with pytest.raises(ValueError, match=r"5\.weight, which does not exist"):
        load_optimizer_tensors(
            build_optimizer(OptimizerConfig(), module), module, {"5.weight.exp_avg": torch.ones(1)}
        )


def test_the_step_count_lies_where_a_recorded_step_reads_it() -> None:
    module = network().to("meta")
    for capturable, device in ((True, "meta"), (False, "cpu")):
        optimizer = build_optimizer(OptimizerConfig(kind="adadelta"), module, capturable)
        load_optimizer_tensors(optimizer, module, {"0.weight.step": torch.tensor(3.0)})
        assert optimizer.state[module[0].weight]["step"].device.type == device


def test_each_kind_has_a_rate_and_an_epsilon_of_its_own() -> None:
    adam, adadelta = OptimizerConfig(), OptimizerConfig(kind="adadelta")
    assert (adam.learning_rate, adam.epsilon) == (0.0004, 1e-8)
    assert (adadelta.learning_rate, adadelta.epsilon) == (1.0, 1e-6)
    named = OptimizerConfig(kind="adadelta", learning_rate=0.5)
    assert (named.learning_rate, named.epsilon) == (0.5, 1e-6)
