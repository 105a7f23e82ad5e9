"""A network as it would be without switches: for averages, evaluation, sheets and export."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from pipeline.networks.glcic import CompletionNetwork
from pipeline.networks.kernels.space_to_batch import NATIVE
from pipeline.networks.kernels.winograd import DIRECT

Network = TypeVar("Network", bound=nn.Module)


def unwrapped_copy(network: Network) -> Network:
    """Return a deep copy that is not compiled, whose batch norm uses its own batch alone and whose
    layers are computed as they are. Names of parameters and buffers are the same.
    """
    copied = copy.deepcopy(network)  # leaves out what `nn.Module.compile` has made
    for module in list(copied.modules()):
        if isinstance(module, CompletionNetwork):
            module.dilation = NATIVE
            module.set_convolution(DIRECT)
        for name, child in module.named_children():
            if isinstance(child, nn.SyncBatchNorm):
                setattr(module, name, _without_all_reduce(child))
    return copied


def _without_all_reduce(norm: nn.SyncBatchNorm) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine)
    plain.train(norm.training)
    with torch.no_grad():
        plain.to(next(norm.buffers()).device).load_state_dict(norm.state_dict())
    for mine, theirs in zip(plain.parameters(), norm.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return plain
