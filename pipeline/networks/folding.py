"""A trained network as it runs fastest: without batch norm and spectral norm, in the processor's
favourite order.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from pipeline.networks.glcic import ConvolutionBlock
from pipeline.networks.spectral_norm import without_spectral_norm
from pipeline.networks.unwrapped_copy import unwrapped_copy

PRECISIONS = ("fp32", "bf16")


def folded(network: nn.Module, precision: str = "fp32") -> nn.Module:
    """Return a copy for inference alone, of the same function but for rounding, in channels_last.

    In evaluation batch norm is a fixed scale and shift of each channel, which the convolution
    before it can apply: where one follows the other, they become one layer. A block that activates
    in between is left as it is. Spectral norm divides the weights once. With bf16 the convolutions'
    weights are rounded once, instead of in every call, and the network is to be called under
    autocast.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"the precision is {precision!r}; known: {', '.join(PRECISIONS)}")
    copied = without_spectral_norm(unwrapped_copy(network)).eval().requires_grad_(False)
    for module in list(copied.modules()):
        if isinstance(module, ConvolutionBlock) and not module.activates_first:
            assert isinstance(module.norm, nn.BatchNorm2d)
            module.conv = _fold_norm(module.conv, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]
        elif isinstance(module, nn.Sequential):
            _fold_sequence_(module)
    if precision == "bf16":
        for module in copied.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.bfloat16()
    return copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold_sequence_(layers: nn.Sequential) -> None:
    for place in range(len(layers) - 1):
        conv, norm = layers[place], layers[place + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[place], layers[place + 1] = _fold_norm(conv, norm), nn.Identity()


def _fold_norm(conv: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    return fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))  # type: ignore[type-var]
