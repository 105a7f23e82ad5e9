"""Transposed convolutions whose bias's gradient is a sum of its own.

oneDNN takes it together with the weights' gradient, and for transposed layers takes eight to twenty
times as long over it as the sum alone (benchmarks/NOTES.md). The sum is float32 in every precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def convolve_transposed(conv: nn.ConvTranspose2d, features: Tensor) -> Tensor:
    """What `conv(features)` gives."""
    bias = conv.bias
    if bias is None or not bias.requires_grad or not _pays(features):
        return conv(features)
    assert not isinstance(conv.padding, str)  # words are for layers that are not transposed
    output = functional.conv_transpose2d(
        features, conv.weight, bias.detach(), conv.stride, conv.padding, conv.output_padding,
        conv.groups, conv.dilation,
    )  # fmt: skip
    return _BiasGradient.apply(output, bias)


def _pays(features: Tensor) -> bool:
    """Libraries of GPUs sum it apart already; a compiler is left the layer as it is."""
    trains = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return trains and features.device.type == "cpu"


class _BiasGradient(torch.autograd.Function):
    """The output (N, K, H, W), to which the bias (K) has been added already."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, bias: Tensor) -> Tensor:
        ctx.dtype = bias.dtype
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        return slope, slope.sum((0, 2, 3), dtype=ctx.dtype)
