"""Batch norm's running statistics, and spectral norm's vectors, through one step of training.

Every rank and every micro-batch normalises by the statistics of its own samples. The running ones
move once a step, by the mean over all of them, so that the state of a run is the same on all ranks
at every step, and the same whether samples are divided among ranks or among micro-batches. So do
the vectors, which each micro-batch moves alike, since they depend on the weights alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.distributed.process_group import ProcessGroup
from pipeline.networks.spectral_norm import VECTOR_NAMES


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Running means and variances of batch norm, and vectors of spectral norm, in order."""
    names = ("running_mean", "running_var", *VECTOR_NAMES)
    return [buffer for name, buffer in network.named_buffers() if name.endswith(names)]


class RunningStatistics:
    """Those of one network, from the start of a step to its end."""

    def __init__(self, network: nn.Module, group: ProcessGroup) -> None:
        self._buffers = running_statistics(network)
        self._group = group
        self._before: list[Tensor] = []
        self._sum: list[Tensor] = []
        self._count = 0

    def begin(self) -> None:
        self._before = [buffer.clone() for buffer in self._buffers]
        self._sum = []
        self._count = 0

    def end_micro_batch(self) -> None:
        """Take what the micro-batch made of the statistics; the next one starts as it did."""
        if not self._buffers:
            return
        if self._sum:
            torch._foreach_add_(self._sum, self._buffers)
        else:
            self._sum = [buffer.clone() for buffer in self._buffers]
        self._count += 1
        torch._foreach_copy_(self._buffers, self._before)

    def end(self, skipped: Tensor) -> None:
        """The mean of all micro-batches and ranks, or, where `skipped` is 1, what was before.

        Collective: every rank must call.
        """
        if not self._buffers:
            return
        vector = torch.cat([total.flatten() for total in self._sum])
        self._group.all_reduce_sum_(vector)
        vector /= self._count * self._group.world_size
        before = torch.cat([tensor.flatten() for tensor in self._before])
        vector = torch.where(skipped > 0, before, vector)
        sizes = [buffer.numel() for buffer in self._buffers]
        parts = [
            part.view_as(buffer)
            for part, buffer in zip(vector.split(sizes), self._buffers, strict=True)
        ]
        torch._foreach_copy_(self._buffers, parts)
