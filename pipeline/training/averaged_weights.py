"""The running average of the completion network's weights (EMA)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.networks.unwrapped_copy import unwrapped_copy

# The average of a short run must not be dominated by the initial weights: after n updates the decay
# is at most (1 + n) / (10 + n), the warm-up that TensorFlow's ExponentialMovingAverage documents.
_WARM_UP = 10


class AveragedNetwork:
    """Parameters are averaged; buffers, batch norm's statistics among them, are copied."""

    def __init__(self, network: nn.Module, decay: float, *, warm_up: bool = True) -> None:
        self.network = unwrapped_copy(network).requires_grad_(False)
        self._decay = decay
        self._warm_up = warm_up

    @torch.no_grad()
    def update_(self, network: nn.Module, num_updates: int) -> None:
        """`num_updates`: how often `network` had been updated before its last update."""
        decay = self._decay
        if self._warm_up:
            decay = min(decay, (1 + num_updates) / (_WARM_UP + num_updates))
        averages: list[Tensor] = list(self.network.parameters())
        weights: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
