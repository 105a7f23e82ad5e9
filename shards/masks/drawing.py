"""The random masks of an image, and the picture that masks of strokes are stored as."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shards.format.recipe import PackRecipe
from shards.keyed_random import uniform
from shards.masks.strokes import draw_strokes

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_HEADER_SIZE = len(_SIGNATURE) + 25  # with the chunk IHDR: length, name, 13 bytes, checksum
_BROKEN = "its masks are not the 1-bit PNG that packing writes"


@dataclass(frozen=True)
class DrawnMasks:
    """M masks of H holes each, in the frame of the training crop of S x S pixels."""

    completion_holes: np.ndarray  # uint16 (M, H, 4): x, y, width, height; never empty
    discriminator_holes: np.ndarray  # the same; where the real patch is taken
    pixels: np.ndarray | None = None  # bool (M, S, S), true in the holes; None: the rectangles

    def all_pixels(self, size: int) -> np.ndarray:
        """bool (M, size, size), true in the holes, also of rectangles."""
        if self.pixels is not None:
            return self.pixels
        return np.stack([mask_of_rectangles(holes, size) for holes in self.completion_holes])


def mask_of_rectangles(holes: np.ndarray, size: int) -> np.ndarray:
    """bool (size, size), true in any of the holes (H, 4): x, y, width, height."""
    pixels = np.zeros((size, size), dtype=bool)
    for x, y, width, height in holes.tolist():
        pixels[y : y + height, x : x + width] = True
    return pixels


def draw_masks(
    recipe: PackRecipe,
    number: int,
    mask_numbers: Sequence[int] | None = None,
    purpose: str = "",
) -> DrawnMasks:
    """The masks of the image `number`, or of them those named by `mask_numbers`, which may be any.

    A pure function: each mask depends on nothing but (recipe, number, its mask number, purpose).
    `purpose` keeps draws apart that are made for different things with the same numbers.

    Of rectangles, sides (or area and aspect) and then positions are uniform. Of strokes, the
    rectangles are the bounding boxes of the holes. The discriminator's regions are drawn like the
    completion's and independently of them. Holes of one mask may overlap: the mask is their union.
    """
    if mask_numbers is None:
        mask_numbers = range(recipe.masks.masks_per_image)
    if recipe.masks.kind == "strokes":
        completion, pixels = draw_strokes(
            recipe, f"{purpose}completion strokes", number, mask_numbers
        )
        discriminator, _ = draw_strokes(
            recipe, f"{purpose}discriminator strokes", number, mask_numbers
        )
        return DrawnMasks(completion, discriminator, np.stack(pixels))
    return DrawnMasks(
        _draw_rectangles(recipe, f"{purpose}completion holes", number, mask_numbers),
        _draw_rectangles(recipe, f"{purpose}discriminator holes", number, mask_numbers),
    )


def _draw_rectangles(
    recipe: PackRecipe, purpose: str, number: int, mask_numbers: Sequence[int]
) -> np.ndarray:
    masks = recipe.masks
    # One stream holds the numbers of all masks in turn: any of them needs those before it drawn.
    shape = (max(mask_numbers) + 1, masks.holes_per_mask, 4)
    shares = uniform(recipe.seed, purpose, number, count=math.prod(shape)).reshape(shape)
    shares = shares[list(mask_numbers)]
    if masks.area_max:
        sides = _sides_by_area(recipe, shares[..., 2], shares[..., 3])
    else:
        sides = masks.side_min + np.floor(shares[..., 2:] * (masks.side_max - masks.side_min + 1))
    free = recipe.crop_size - 2 * masks.margin
    corners = masks.margin + np.floor(shares[..., :2] * (free - sides + 1))
    return np.concatenate([corners, sides], axis=-1).astype(np.uint16)


def _sides_by_area(
    recipe: PackRecipe, area_share: np.ndarray, aspect_share: np.ndarray
) -> np.ndarray:
    """(width, height) in the last axis, whole pixels, as long as they fit between the margins.

    The area is met to within half the shorter side: that one is rounded, the longer then makes the
    best of it. The aspect is drawn from its logarithm and gives way where the longer side would not
    fit.
    """
    masks, size = recipe.masks, recipe.crop_size
    free = size - 2 * masks.margin
    area = size**2 * (masks.area_min + area_share * (masks.area_max - masks.area_min))
    logarithm = (2 * aspect_share - 1) * math.log(masks.aspect_max)
    shorter = np.sqrt(area / np.exp(np.abs(logarithm)))
    # The small tolerance keeps the rounding of floats from asking for a pixel more than there is.
    shorter = np.maximum(np.maximum(np.round(shorter), np.ceil(area / free - 1e-6)), 1)
    longer = np.clip(np.round(area / shorter), 1, free)
    is_wide = logarithm >= 0
    return np.stack(
        [np.where(is_wide, longer, shorter), np.where(is_wide, shorter, longer)], axis=-1
    )


def encode_masks(pixels: np.ndarray) -> bytes:
    """bool (M, S, S) as one PNG of 1 bit a pixel, the masks below one another, holes white."""
    count, size = pixels.shape[:2]
    rows = np.packbits(pixels.reshape(count * size, size), axis=1)
    unfiltered = np.pad(rows, ((0, 0), (1, 0)))  # each row begins with the number of its filter
    data = zlib.compress(unfiltered.tobytes(), 6)  # 9: 5 % smaller, 10 times slower
    return _header(count, size) + _chunk(b"IDAT", data) + _END


def decode_masks(data: memoryview | bytes, count: int, size: int) -> np.ndarray:
    """bool (count, size, size). ValueError for anything but what `encode_masks` writes for it.

    Stricter than PNG, so that damage cannot pass and no more is ever unpacked than was asked for.
    """
    data = bytes(data)
    if data[:_HEADER_SIZE] != _header(count, size) or data[-len(_END) :] != _END:
        raise ValueError(f"{_BROKEN} for {count} masks of {size} x {size} pixels")
    body = data[_HEADER_SIZE : -len(_END)]
    if len(body) < 12 or body != _chunk(b"IDAT", body[8:-4]):
        raise ValueError(f"{_BROKEN}: the checksum of its pixels does not match")
    row_size = 1 + -(-size // 8)
    rows = np.frombuffer(_unpacked(body[8:-4], count * size * row_size), np.uint8)
    rows = rows.reshape(count * size, row_size)
    if rows[:, 0].any():
        raise ValueError(f"{_BROKEN}: its rows are filtered")
    return np.unpackbits(rows[:, 1:], axis=1, count=size).view(bool).reshape(count, size, size)


def _unpacked(data: bytes, expected: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(data, expected + 1)
    except zlib.error as error:
        raise ValueError(f"{_BROKEN}: {error}") from error
    if len(unpacked) != expected or not stream.eof:
        raise ValueError(f"{_BROKEN}: too many or too few pixels")
    return unpacked


def _header(count: int, size: int) -> bytes:
    # Depth 1, greyscale, and the only compression, set of filters and order that we write.
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", size, count * size, 1, 0, 0, 0, 0))


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
