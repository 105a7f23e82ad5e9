"""Batch norm's running statistics, re-estimated before a network is evaluated or exported.

While training they trail behind weights that keep moving, and those of a running average of weights
were never its own. Here they become plain averages over given batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.networks.unwrapped_copy import unwrapped_copy


def recalibrated(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]] | None,
    all_reduce_sum: Callable[[Tensor], Tensor] = lambda vector: vector,
) -> nn.Module:
    """Return a copy in eval mode whose statistics are the means of those of `batches`, (image,
    mask) each.

    With `all_reduce_sum`, which sums a float64 vector on the CPU over the ranks, the batches of all
    ranks count alike: however a fixed list of batches is dealt out, the result is the same. Then
    collective: every rank must call, be it with no batch of its own. None leaves the statistics as
    they are. Raises ValueError if no rank has a batch.
    """
    network = unwrapped_copy(network).eval()
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if batches is None or not norms:
        return network
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the running statistics become those of the last batch
    total = torch.zeros_like(_statistics(norms))
    count = 0
    with torch.no_grad():
        for image, mask in batches:
            network(image, mask)
            total += _statistics(norms)
            count += 1
    packed = all_reduce_sum(torch.cat([total, torch.tensor([count], dtype=torch.float64)]))
    if packed[-1] == 0:
        raise ValueError("batch norm cannot be recalibrated: there is no batch to do it with")
    _set_statistics(norms, packed[:-1] / packed[-1])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(int(packed[-1]))
    return network.eval()


def _buffers(norms: list[_BatchNorm]) -> list[Tensor]:
    buffers = []
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        buffers += [norm.running_mean, norm.running_var]
    return buffers


def _statistics(norms: list[_BatchNorm]) -> Tensor:
    """Return all running means and variances in one float64 vector on the CPU."""
    return torch.cat([buffer.double().cpu() for buffer in _buffers(norms)])


def _set_statistics(norms: list[_BatchNorm], vector: Tensor) -> None:
    buffers = _buffers(norms)
    for buffer, part in zip(buffers, vector.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(part)
