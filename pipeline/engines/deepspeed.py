"""DeepSpeed as the engine: one of its engines for each network, ZeRO stages 0 to 2."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.schema import OptimizerConfig
from pipeline.distributed.optimizers import build_optimizer
from pipeline.distributed.process_group import ProcessGroup
from pipeline.distributed.trainable import TrainableNetwork
from pipeline.engines.ddp import Worker
from pipeline.engines.zero_partition import Partition


class DeepSpeedWorker(Worker):
    """`settings` are those of `deepspeed_settings`. A worker alone has nothing to share: it trains
    without DeepSpeed.
    """

    engine = "deepspeed"

    def __init__(self, *, settings: dict[str, Any], **place: Any) -> None:
        super().__init__(**place)
        self._settings = settings

    def trainable(
        self, name: str, network: nn.Module, optimizer: OptimizerConfig
    ) -> TrainableNetwork:
        """Return the network as this engine trains it. Collective: every rank must call."""
        built = build_optimizer(optimizer, network)
        if self.world_size == 1:
            return TrainableNetwork(self, name, network, built, self.scaler)
        stage = self._settings["zero_optimization"]["stage"]
        layout = _memory_format(network)
        # It sends parameters as bytes and lays them end to end, which needs rows that lie in order.
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        engine = _initialize(network, built, self._settings, self.device)
        if stage == 0:
            network.to(memory_format=layout)  # type: ignore[call-overload]
            return ReplicatedNetwork(self, name, network, built, engine)
        return PartitionedNetwork(self, name, network, built, engine)


class ReplicatedNetwork(TrainableNetwork):
    """Stage 0: every rank keeps all of the optimizer's state; gradients are summed at the end."""

    def __init__(
        self, group: ProcessGroup, name: str, network: nn.Module, optimizer: torch.optim.Optimizer,
        engine: Any,
    ) -> None:  # fmt: skip
        super().__init__(group, name, network, optimizer)
        self._engine = engine

    def __call__(self, *inputs: Any) -> Any:
        return self._engine(*inputs)

    def _average_gradients(self, averaging: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(averaging)

    def _backward_(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def _step_(self, skipped: Tensor) -> None:
        """Wait for the device: DeepSpeed decides on the host whether to step."""
        if skipped.item():
            self._engine.zero_grad()
        else:
            self._engine.step()


class PartitionedNetwork(ReplicatedNetwork):
    """Stages 1 and 2: ranks share the optimizer's state, in stage 2 the gradients as well."""

    def __init__(
        self, group: ProcessGroup, name: str, network: nn.Module, optimizer: torch.optim.Optimizer,
        engine: Any,
    ) -> None:  # fmt: skip
        super().__init__(group, name, network, optimizer, engine)
        # Releases before 0.19 made an optimizer step on zeros here, which Adam would have counted.
        optimizer.state.clear()
        self._partition = Partition(engine.optimizer, network, group)

    def _update_(self) -> tuple[Tensor, Tensor]:
        """No rank has the whole gradient: DeepSpeed computes the norm and leaves the step out by
        itself, on all ranks, where that is not finite. It waits for the device.
        """
        self._engine.step()
        skipped = bool(self._engine.optimizer.overflow)
        norm = torch.nan if skipped else float(self._engine.get_global_grad_norm())
        figures = torch.tensor([norm, float(skipped)], device=self._group.device)
        return figures[0], figures[1]

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """`<parameter>.<state>` -> tensor, whole. Collective: every rank must call."""
        return self._partition.gather()

    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises ValueError for tensors that belong nowhere. Call it when the network has its
        weights, of which the optimizer keeps a copy. Collective: every rank must call.
        """
        self._partition.load_(tensors)
        self._engine.optimizer.refresh_fp32_params()


def _initialize(
    network: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any],
    device: torch.device,
) -> Any:  # fmt: skip
    """Return the engine around a network. Collective: every rank must call."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)  # else it guesses, with a message
    import deepspeed
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # It calls what torch 2.13 renames.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    # None of its own kernels is needed. On the CPU it would compile one for sums within a machine,
    # at the first start of a run, which takes a minute and a compiler; without it gloo sums.
    deepspeed.ops.__compatible_ops__ = dict.fromkeys(ALL_OPS, False)
    engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=dict(settings))
    # They measure times, and a copy of the network, for evaluation, would call them too.
    engine.module_forward_pre_hook.remove()
    engine.module_forward_post_hook.remove()
    return engine


def _memory_format(network: nn.Module) -> torch.memory_format:
    for parameter in network.parameters():
        if parameter.dim() == 4 and not parameter.is_contiguous():
            return torch.channels_last
    return torch.contiguous_format
