"""The part of an optimizer's state that one rank keeps under ZeRO, and the whole it is part of.

ZeRO lays all parameters of a network end to end, pads them, and gives each rank an equal span of
which it alone keeps the optimizer's state. Checkpoints hold whole states by parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.distributed.process_group import ProcessGroup


class Partition:
    """Of a network's optimizer `zero`, a DeepSpeedZeroOptimizer of stage 1 or 2."""

    def __init__(self, zero: Any, network: nn.Module, group: ProcessGroup) -> None:
        """Raises RuntimeError where the parameters do not lie as assumed here."""
        self._group = group
        self._optimizer: torch.optim.Optimizer = zero.optimizer
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        (parameters,) = zero.bit16_groups  # one group: build_optimizer makes no more
        self._parameters = {names[id(parameter)]: parameter for parameter in parameters}
        (self._span,) = zero.single_partition_of_fp32_groups
        (whole,) = zero.bit16_groups_flat
        offset, misplaced = whole.data_ptr(), whole.numel() != self._span.numel() * group.world_size
        for parameter in parameters:
            misplaced = misplaced or parameter.data_ptr() != offset or not parameter.is_contiguous()
            offset += parameter.numel() * parameter.element_size()
        if misplaced:
            import deepspeed

            raise RuntimeError(
                f"DeepSpeed {deepspeed.__version__} lays parameters out in another way than 0.19, "
                "so its optimizer's state cannot be saved: pip install -e '.[deepspeed]'"
            )

    def gather(self) -> dict[str, Tensor]:
        """`<parameter>.<state>` -> tensor; empty before the first step. Collective: every rank
        must call.
        """
        tensors: dict[str, Tensor] = {}
        for state, value in self._optimizer.state.get(self._span, {}).items():
            if value.shape == self._span.shape:
                tensors |= self._divide(state, self._group.all_gather(value))
            else:  # the step count
                tensors |= {f"{name}.{state}": value for name in self._parameters}
        return tensors

    def _divide(self, state: str, whole: Tensor) -> dict[str, Tensor]:
        sizes = [parameter.numel() for parameter in self._parameters.values()]
        parts = whole[: sum(sizes)].split(sizes)
        return {
            f"{name}.{state}": part.view(parameter.shape)
            for (name, parameter), part in zip(self._parameters.items(), parts, strict=True)
        }

    def load_(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `gather`, which any engine may have saved. Raises ValueError for tensors
        that belong nowhere or are missing.
        """
        states: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            name, _, state = key.rpartition(".")
            if name not in self._parameters:
                raise ValueError(
                    f"the checkpoint has optimizer state for {name}, which does not exist"
                )
            states.setdefault(state, {})[name] = tensor
        self._optimizer.state.pop(self._span, None)
        for state, by_name in states.items():
            missing = self._parameters.keys() - by_name.keys()
            if missing:
                raise ValueError(
                    f"the checkpoint lacks {state} of {len(missing)} parameters, {min(missing)} "
                    "among them"
                )
            self._optimizer.state[self._span][state] = self._own(state, by_name)

    def _own(self, state: str, by_name: dict[str, Tensor]) -> Tensor:
        if all(by_name[name].shape == p.shape for name, p in self._parameters.items()):
            flat = torch.cat([by_name[name].flatten() for name in self._parameters])
            size = self._span.numel()
            whole = flat.new_zeros(size * self._group.world_size)
            whole[: len(flat)] = flat
            own = whole[self._group.rank * size :][:size]
            return own.to(self._span.device, copy=True)
        counts = {float(count) for count in by_name.values()}
        if len(counts) > 1:
            raise ValueError(
                f"the checkpoint's parameters have made {sorted(counts)} optimizer steps; ZeRO "
                "keeps one count for all of them, continue with --parallel.engine ddp"
            )
        on_device = self._optimizer.defaults.get("fused") or False
        device = self._span.device if on_device else torch.device("cpu")
        return next(iter(by_name.values())).to(device, copy=True)
