"""Optimizers by name, steps that can be skipped, and their state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.config.schema import OptimizerConfig


def build_optimizer(
    config: OptimizerConfig, network: nn.Module, capturable: bool = False
) -> torch.optim.Optimizer:
    """For the parameters that are not frozen. `capturable`: its steps may be recorded in a CUDA
    graph.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    if config.kind == "adadelta":
        return torch.optim.Adadelta(
            parameters, lr=config.learning_rate, rho=config.rho, eps=config.epsilon,
            capturable=capturable,
        )  # fmt: skip
    return torch.optim.Adam(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        capturable=capturable,
        fused=True,  # one kernel, and the one form that leaves a step out without being waited for
    )


def step_unless_(optimizer: torch.optim.Optimizer, skipped: Tensor) -> None:
    """One step, or, where `skipped` (a scalar, float32) is 1, none: parameters and state stay as
    they are to the bit. The device is not waited for.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        # What torch.amp.GradScaler hands to a fused optimizer.
        optimizer.grad_scale, optimizer.found_inf = None, skipped  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    elif skipped.device.type == "cpu":
        if not skipped.item():
            optimizer.step()
    else:
        before = {id(tensor): tensor.clone() for tensor in _tensors(optimizer)}
        optimizer.step()
        for tensor in _tensors(optimizer):
            old = before.get(id(tensor))
            # State that this step has made starts from zero.
            tensor.copy_(torch.where(skipped > 0, 0 if old is None else old, tensor))


@torch.no_grad()
def _tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Parameters and what the optimizer remembers of them, on their device."""
    tensors = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {}).values()
            tensors += [parameter.data, *(t for t in state if t.device == parameter.device)]
    return tensors


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
    options = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for key, tensor in tensors.items():
        name, _, state = key.rpartition(".")
        parameter = parameters.get(name)
        if parameter is None:
            raise ValueError(f"the checkpoint has optimizer state for {name}, which does not exist")
        if not parameter.requires_grad:
            continue  # of a run that has frozen it since
        if tensor.shape == parameter.shape:
            # In the parameter's own memory format: another one would take another code path, and
            # with it another rounding, than in the run that was saved.
            restored = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        else:  # the step count: where a fused or recorded step reads it, or else on the CPU
            group = options[id(parameter)]
            on_device = group.get("fused") or group.get("capturable")
            restored = torch.empty_like(
                tensor, device=parameter.device if on_device else None
            ).copy_(tensor)
        optimizer.state[parameter][state] = restored
