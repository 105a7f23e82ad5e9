"""Dilated layers computed as plain ones: the pixels that a dilated kernel sees together are set
side by side, as small images of a larger batch (space to batch).

A layer of dilation d only ever mixes pixels whose rows, and whose columns, agree modulo d. Split by
d both ways, an image is d * d small ones, in which its kernel is an ordinary one. Dilations that
double from layer to layer need one further split by 2 before each and one way back at the end;
batch norm and ReLU in between do not see the order of pixels. Exact for every side: where a side
cannot be split evenly, the convolution alone is computed on an image extended by zeros, which is
the zero padding of the layer itself, and what was added is cut off before batch norm counts it.

The split is kept as batch index (row mod d, column mod d, sample).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

NATIVE, SPACE_TO_BATCH = "native", "space_to_batch"


class Block(Protocol):
    """A dilated convolution, and what follows it: pixel by pixel, or over all pixels alike."""

    conv: nn.Module

    def activate(self, features: Tensor) -> Tensor: ...


def by_space_to_batch(blocks: Iterable[Block], features: Tensor) -> Tensor:
    """What `block.activate(block.conv(features))`, one block after another, would give, but for
    rounding. Of each block, dilation and zero padding are equal, as "same" padding has them.
    """
    split = 1
    for block in blocks:
        conv = block.conv
        assert isinstance(conv, nn.Conv2d)
        dilation = conv.dilation[0]
        assert conv.dilation == conv.padding == (dilation, dilation), conv
        assert conv.kernel_size == (3, 3), conv
        features, split = _resplit(features, split, dilation)
        height, width = (side * split for side in features.shape[-2:])
        short = (-height % dilation, -width % dilation)
        if split < dilation:
            # As far as the sides are even `_resplit` has gone; the rest for this layer alone.
            features = functional.pad(features, (0, short[1] // split, 0, short[0] // split))
            features = split_by(features, split, dilation // split)
        features = functional.conv2d(features, conv.weight, conv.bias, padding=1)
        if split < dilation:
            features = merge_by(features, dilation, dilation // split)
            features = features[..., : height // split, : width // split]
        features = block.activate(features)
    return merge_by(features, split, split)


def _resplit(features: Tensor, split: int, dilation: int) -> tuple[Tensor, int]:
    """Split for a layer of `dilation`, or the most that its sides allow without a remainder."""
    if dilation % split:  # a smaller or an unrelated dilation than the layer before
        features, split = merge_by(features, split, split), 1
    further = dilation // split
    while any(side % further for side in features.shape[-2:]):
        further //= 2 if further % 2 == 0 else further
    return split_by(features, split, further), split * further


def split_by(features: Tensor, split: int, further: int) -> Tensor:
    """(split² N, C, H, W) to (split² further² N, C, H / further, W / further)."""
    if further == 1:
        return features
    images, channels, height, width = features.shape
    shape = (split, split, images // split**2)
    sides = (height // further, further, width // further, further)
    if features.is_contiguous(memory_format=torch.channels_last):
        pixels = features.permute(0, 2, 3, 1).reshape(*shape, *sides, channels)
        pixels = pixels.permute(4, 0, 6, 1, 2, 3, 5, 7)
        return pixels.reshape(-1, sides[0], sides[2], channels).permute(0, 3, 1, 2)
    pixels = features.reshape(*shape, channels, *sides).permute(5, 0, 7, 1, 2, 3, 4, 6)
    return pixels.reshape(-1, channels, sides[0], sides[2])


def merge_by(features: Tensor, split: int, factor: int) -> Tensor:
    """The inverse of `split_by(features, split // factor, factor)`."""
    if factor == 1:
        return features
    images, channels, height, width = features.shape
    rest = split // factor
    shape = (factor, rest, factor, rest, images // split**2)
    if features.is_contiguous(memory_format=torch.channels_last):
        pixels = features.permute(0, 2, 3, 1).reshape(*shape, height, width, channels)
        pixels = pixels.permute(1, 3, 4, 5, 0, 6, 2, 7)
        merged = pixels.reshape(-1, height * factor, width * factor, channels)
        return merged.permute(0, 3, 1, 2)
    pixels = features.reshape(*shape, channels, height, width).permute(1, 3, 4, 5, 6, 0, 7, 2)
    return pixels.reshape(-1, channels, height * factor, width * factor)
