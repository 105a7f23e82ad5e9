"""3x3 convolutions of images of at most 2x2 pixels, as one matrix product.

Of such an image every pixel sees every other, so its convolution is a full connection of all its
pixels and channels, whose matrix holds no product with the padding. They come from layers whose
dilation is half of the image's side, or the whole (`pipeline.networks.kernels.space_to_batch`). The
weights' gradient of those is where this wins: oneDNN computes it as if the padding counted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SIDE_MAX = 2


def convolve_small(pixels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, H, W, C) to (N, H, W, K), with padding 1; `weight` (K, C, 3, 3)."""
    images, height, width, _ = pixels.shape
    matrix = _connections(weight, height, width)
    output = functional.linear(pixels.flatten(1), matrix, bias.repeat(height * width))
    return output.view(images, height, width, -1)


def _connections(weight: Tensor, height: int, width: int) -> Tensor:
    """(H W K, H W C): from the input's pixels and channels to the output's."""
    rows = torch.stack([weight[:, :, 1 - y : 1 - y + height] for y in range(height)])
    taps = torch.stack([rows[..., 1 - x : 1 - x + width] for x in range(width)], dim=1)
    ordered = taps.permute(0, 1, 2, 4, 5, 3)  # output's y, x, channel, input's y, x, channel
    return ordered.flatten(3).flatten(0, 2)
