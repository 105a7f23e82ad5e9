"""Optimizers by name, and their state as named tensors for the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.config import OptimizerConfig


def build_optimizer(config: OptimizerConfig, network: nn.Module) -> torch.optim.Optimizer:
    parameters = list(network.parameters())
    if config.kind == "adadelta":
        return torch.optim.Adadelta(
            parameters, lr=config.learning_rate, rho=config.rho, eps=config.epsilon
        )
    return torch.optim.Adam(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """`<parameter>.<state>` -> tensor; empty before the first step."""
    return {
        f"{name}.{state}": tensor
        for name, parameter in network.named_parameters()
        for state, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`. Raises ValueError for tensors that belong nowhere."""
    parameters = dict(network.named_parameters())
    for key, tensor in tensors.items():
        name, _, state = key.rpartition(".")
        parameter = parameters.get(name)
        if parameter is None:
            raise ValueError(f"the checkpoint has optimizer state for {name}, which does not exist")
        if tensor.shape == parameter.shape:
            # In the parameter's own memory format: another one would take another code path, and
            # with it another rounding, than in the run that was saved.
            restored = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        else:
            restored = tensor.clone()  # the step count, which stays on the CPU
        optimizer.state[parameter][state] = restored
