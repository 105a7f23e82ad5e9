"""Holes on the device: rectangles to masks, composites, and the patches of the discriminators.

Everything is vectorised over the batch and has static shapes, so that it can be compiled. Holes are
(N, H, 4) integers: x, y, width, height in pixels of the crop; a width or height of 0 is no hole.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _mask_of_span(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(N, H, size) bool: which of `size` positions lie in [start, start + length)."""
    positions = torch.arange(size, device=start.device)
    start, length = start.unsqueeze(-1), length.unsqueeze(-1)
    return (positions >= start) & (positions < start + length)


def rasterize(holes: Tensor, size: int) -> Tensor:
    """Return the union of each sample's holes: (N, 1, size, size) float32, 1 in the hole."""
    x, y, width, height = holes.long().unbind(-1)
    rows = _mask_of_span(y, height, size).unsqueeze(3)
    columns = _mask_of_span(x, width, size).unsqueeze(2)
    return (rows & columns).any(dim=1, keepdim=True).float()


def unpack_masks(bits: Tensor, size: int) -> Tensor:
    """(N, size, ceil(size / 8)) uint8, the highest bit first -> (N, 1, size, size) float32."""
    shifts = torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
    pixels = (bits.unsqueeze(-1) >> shifts) & 1
    return pixels.flatten(2)[:, :, :size].unsqueeze(1).float()


def composite(raw: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """`raw` in the hole, `image` elsewhere, known pixels copied bit for bit."""
    return torch.where(mask > 0.5, raw, image)


def enclosing_hole(holes: Tensor) -> Tensor:
    """(N, 1, 4): the smallest rectangle around all holes (N, H, 4) of each sample."""
    x, y, width, height = holes.long().unbind(-1)
    # One without an area is no hole; it must not move the rectangle.
    empty = (width == 0) | (height == 0)
    far = torch.iinfo(torch.int64).max
    left, top = (start.masked_fill(empty, far).amin(dim=1) for start in (x, y))
    right, bottom = (
        (start + length).masked_fill(empty, 0).amax(dim=1)
        for start, length in ((x, width), (y, height))
    )
    return torch.stack([left, top, right - left, bottom - top], dim=-1).unsqueeze(1)


def patch_corners(holes: Tensor, choice: Tensor, patch_size: int, image_size: int) -> Tensor:
    """Top-left corners (N, 2) int64, as (y, x), of patches that lie wholly inside the image.

    Each is centred on the box of hole `choice` (N,) of its sample, then moved inside.
    """
    picked = choice.long().view(-1, 1, 1).expand(-1, 1, 4)
    x, y, width, height = holes.long().gather(1, picked).squeeze(1).unbind(-1)
    corners = torch.stack([y + (height - patch_size) // 2, x + (width - patch_size) // 2], dim=1)
    return corners.clamp(0, image_size - patch_size)


def cut_patches(images: Tensor, corners: Tensor, size: int) -> Tensor:
    """(N, C, size, size) cut from (N, C, S, S) at `corners`; differentiable in `images`.

    No pixel is taken twice, so the backward pass adds into each address once: deterministic.
    """
    channels, width = images.shape[1], images.shape[3]
    offsets = torch.arange(size, device=images.device)
    rows = corners[:, 0, None] + offsets
    columns = corners[:, 1, None] + offsets
    index = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).flatten(1)
    patches = images.flatten(2).gather(2, index.unsqueeze(1).expand(-1, channels, -1))
    return patches.unflatten(2, (size, size))
