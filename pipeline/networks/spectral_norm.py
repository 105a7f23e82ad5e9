"""Convolutions whose kernels have a spectral norm of 1 (Miyato et al. 2018, arXiv 1802.05957).

torch's parametrization keeps the weight as it is learnt, and two vectors beside it: each forward
that trains moves these by one power iteration and divides the weight by the norm that they give.
In evaluation they stay, so that what is left is a plain convolution of a fixed weight.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

Network = TypeVar("Network", bound=nn.Module)

# In a network's state: the vectors, which change from step to step without a gradient.
VECTOR_NAMES = ("parametrizations.weight.0._u", "parametrizations.weight.0._v")


class SpectralConvolution(nn.Conv2d):
    """3x3, "same" padding with zeros: (N, C, h, w) to (N, K, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        spectral_norm(self)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self._normed_weight(input.device.type), self.bias)

    def _normed_weight(self, device: str) -> Tensor:
        if not torch.amp.is_autocast_available(device):  # meta, on which networks are counted
            return self.weight
        # Under autocast the power iteration would be rounded to half precision.
        with torch.autocast(device, enabled=False):
            return self.weight


def without_spectral_norm(network: Network) -> Network:
    """A copy for inference alone, of the same function with plain convolutions; the network itself
    where it has no others.
    """
    if not any(isinstance(module, SpectralConvolution) for module in network.modules()):
        return network
    copied = copy.deepcopy(network).eval()
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, SpectralConvolution):
                setattr(module, name, _plain(child))
    return copied


@torch.no_grad()
def _plain(conv: SpectralConvolution) -> nn.Conv2d:
    """Of the weight that evaluation gives."""
    assert conv.bias is not None
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, device="meta")
    plain.weight = nn.Parameter(conv.weight.detach(), requires_grad=False)
    plain.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
    return plain.eval()
