"""3x3 convolutions with 16 multiplications for every four outputs instead of 36.

Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2016, arXiv 1509.09308): each tile of 4x4
pixels, the kernels, and the products of both, channel by channel a matrix product, are changed by
additions alone into a form in which the convolution is one multiplication an element.

    output = A' (G kernel G' * B' tile B) A

It is exact in real numbers; rounding is some one and a half times that of the direct sum, since
tiles and products are rounded too. The changes of form are a few loops over memory that torch
compiles: without that they would cost what is won. Of a layer with dilation d, the pixels that it
sees together are set side by side first (`pipeline.networks.kernels.space_to_batch`); where that
leaves images of 2x2 pixels, 16 multiplications are all there are
(`pipeline.networks.kernels.small_images`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipeline.networks.kernels.small_images import SIDE_MAX, convolve_small
from pipeline.networks.kernels.space_to_batch import merge_by, split_by

DIRECT, WINOGRAD = "direct", "winograd"

_CHANNELS_MIN = 128  # where it has been seen to win


def suits(conv: nn.Module) -> bool:
    """Return whether the layer is one that this can compute, and faster."""
    return (
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.padding == conv.dilation
        and min(conv.in_channels, conv.out_channels) >= _CHANNELS_MIN
        and conv.groups == 1
    )


def fits(conv: nn.Conv2d, features: Tensor) -> bool:
    """Return whether the image divides into tiles, or into images that are smaller than a tile."""
    dilation = conv.dilation[0]
    sides = [side // dilation for side in features.shape[-2:]]
    if any(side % dilation for side in features.shape[-2:]):
        return False
    return max(sides) <= SIDE_MAX or all(side % 2 == 0 for side in sides)


def convolve(features: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return what `conv(features)` gives, but for rounding; in channels_last, under autocast in its
    type.

    For a layer that `suits` and features that `fits`.
    """
    dtype = features.dtype
    if torch.is_autocast_enabled(features.device.type):
        dtype = torch.get_autocast_dtype(features.device.type)
    dilation = conv.dilation[0]
    features = features.to(dtype).contiguous(memory_format=torch.channels_last)
    pixels = split_by(features, 1, dilation).permute(0, 2, 3, 1)
    assert conv.bias is not None
    small = max(pixels.shape[1:3]) <= SIDE_MAX
    output = (convolve_small if small else _Convolution.apply)(pixels, conv.weight, conv.bias)
    return merge_by(output.permute(0, 3, 1, 2), dilation, dilation)


class _Convolution(torch.autograd.Function):
    """(N, H, W, C) to (N, H, W, K), both sides even, with padding 1; `weight` (K, C, 3, 3)."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(pixels, weight)
        # As the backward is run, so that what was compiled for one serves the other.
        with torch.autocast(pixels.device.type, enabled=False):
            kernels = _compile(_kernels)(weight.detach(), pixels.dtype)
            return _filter(pixels, kernels, bias.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        pixels, weight = (tensor.detach() for tensor in ctx.saved_tensors)
        slope = slope.contiguous()
        input_slope = weight_slope = bias_slope = None
        if ctx.needs_input_grad[0]:
            kernels = _compile(_turned_kernels)(weight, slope.dtype)
            none = weight.new_zeros(weight.shape[1])
            input_slope = _filter(slope, kernels, none)
        if ctx.needs_input_grad[1]:
            tiles = _compile(_tiles)(_pad(pixels)).flatten(1, 3)
            slopes = _compile(_slopes)(slope).flatten(1, 3)
            products = torch.bmm(slopes.transpose(1, 2), tiles)
            weight_slope = _compile(_kernel_slopes)(products, weight.dtype)
        if ctx.needs_input_grad[2]:
            bias_slope = _compile(_bias_slope)(slope)
        return input_slope, weight_slope, bias_slope


def _filter(pixels: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """`kernels` (16, C, K)."""
    tiles = _compile(_tiles)(_pad(pixels))
    products = torch.bmm(tiles.flatten(1, 3), kernels).unflatten(1, tiles.shape[1:4])
    return _compile(_outputs)(products, bias).view(*pixels.shape[:3], -1)


def _pad(pixels: Tensor) -> Tensor:
    return functional.pad(pixels, (0, 0, 1, 1, 1, 1))  # compiled, it would slow the loop after it


def _tiles(padded: Tensor) -> Tensor:
    """B' tile B: (N, H + 2, W + 2, C) to (16, N, H / 2, W / 2, C)."""
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    tile = [
        [_wide(padded[:, y : y + height - 1 : 2, x : x + width - 1 : 2]) for x in range(4)]
        for y in range(4)
    ]
    return _stack(_both_ways(_tile_form, tile), padded.dtype)


def _kernels(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """G kernel G': (K, C, 3, 3) to (16, C, K)."""
    return _stack(_kernel_forms(weight), dtype).transpose(1, 2).contiguous()


def _turned_kernels(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return those of the kernels turned by half, by which gradients go back: (16, K, C)."""
    forms = _kernel_forms(weight)
    order = (3, 1, 2, 0)  # turned, the first and the last change places
    return _stack([[forms[y][x] for x in order] for y in order], dtype)


def _kernel_forms(weight: Tensor) -> list[list[Tensor]]:
    kernel = [[_wide(weight[:, :, y, x]) for x in range(3)] for y in range(3)]
    return _both_ways(_kernel_form, kernel)


def _outputs(products: Tensor, bias: Tensor) -> Tensor:
    """A' product A: (16, N, H / 2, W / 2, K) to (N, H / 2, 2, W / 2, 2, K)."""
    product = [[_wide(products[4 * y + x]) for x in range(4)] for y in range(4)]
    output = _both_ways(_output_form, product)
    rows = [torch.stack([one + bias for one in row], 3) for row in output]
    return torch.stack(rows, 2).to(products.dtype)


def _slopes(slope: Tensor) -> Tensor:
    """Return a slope A': the gradients of `_outputs`' products, (16, N, H / 2, W / 2, K)."""
    tile = [[_wide(slope[:, y::2, x::2]) for x in range(2)] for y in range(2)]
    return _stack(_both_ways(_slope_form, tile), slope.dtype)


def _kernel_slopes(products: Tensor, dtype: torch.dtype) -> Tensor:
    """G' product G: (16, K, C) to (K, C, 3, 3), in channels_last."""
    product = [[_wide(products[4 * y + x]) for x in range(4)] for y in range(4)]
    kernel = _both_ways(_kernel_slope_form, product)
    stacked = torch.stack([torch.stack(row, 1) for row in kernel], 1).to(dtype)
    return stacked.permute(0, 3, 1, 2)


def _bias_slope(slope: Tensor) -> Tensor:
    return _wide(slope).sum((0, 1, 2))


Form = Callable[..., tuple[Tensor, ...]]


def _both_ways(form: Form, square: list[list[Tensor]]) -> list[list[Tensor]]:
    columns = [form(*column) for column in zip(*square, strict=True)]
    return [list(form(*row)) for row in zip(*columns, strict=True)]


def _tile_form(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    return a - c, b + c, c - b, b - d


def _kernel_form(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    return a, (a + b + c) * 0.5, (a - b + c) * 0.5, c


def _output_form(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    return a + b + c, b - c - d


def _slope_form(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Return the transpose of `_output_form`."""
    return a, a + b, a - b, -b


def _kernel_slope_form(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    """Return the transpose of `_kernel_form`."""
    return a + (b + c) * 0.5, (b - c) * 0.5, (b + c) * 0.5 + d


def _wide(values: Tensor) -> Tensor:
    """Sums are rounded once, at their end."""
    return values if values.dtype == torch.float64 else values.float()


def _stack(square: list[list[Tensor]], dtype: torch.dtype) -> Tensor:
    return torch.stack([one.to(dtype) for row in square for one in row])


@cache
def _compile(form: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compile for each size of image; of many sizes the last ones are computed without."""
    return torch.compile(form, dynamic=False)
