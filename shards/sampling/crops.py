"""The training crop: where it is cut from a stored image, and cutting it.

Drawing a short side s and cropping S x S from the image resized to it is the same as cutting a
square of side S * short / s from the stored image and resizing only that. The square is rounded to
whole stored pixels: its place is random anyway, its scale moves by less than half a pixel in S,
and where no scaling is asked for the pixels are copied unchanged.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from shards.images.encodings import decode_image
from shards.keyed_random import four_uniform


@dataclass(frozen=True)
class CropRecipe:
    crop_size: int  # side of the training crop, pixels
    short_side_min: int  # the short side is drawn from [min, max], at least crop_size
    short_side_max: int
    horizontal_flip: bool
    seed: int

    @property
    def is_trivial(self) -> bool:
        """Whether an image stored at the size of the crop is always taken as it is."""
        return self.crop_size == self.short_side_max and not self.horizontal_flip


class CropBox(NamedTuple):
    """A square in pixels of the stored image."""

    x: int
    y: int
    side: int
    flip: bool


def crop_box(
    recipe: CropRecipe, epoch: int, sample: int, width: int, height: int, data_set: int = 0
) -> CropBox:
    """The crop of a sample in an epoch; `sample` is its number in its split of the `data_set`-th
    set of a mixture."""
    short_side = min(width, height)
    if recipe.is_trivial and width == height == recipe.crop_size:
        return CropBox(0, 0, short_side, False)
    purpose = f"crop {data_set}" if data_set else "crop"
    scale, left, top, mirror = four_uniform(recipe.seed, purpose, epoch, sample)
    span = recipe.short_side_max - recipe.short_side_min + 1
    target = recipe.short_side_min + int(scale * span)
    side = min(short_side, max(1, round(recipe.crop_size * short_side / target)))
    return CropBox(
        x=int(left * (width - side + 1)),
        y=int(top * (height - side + 1)),
        side=side,
        flip=recipe.horizontal_flip and mirror < 0.5,
    )


def decode_crop(
    data: memoryview | bytes, box: CropBox, width: int, height: int, out: np.ndarray
) -> None:
    """Fills `out` (S, S, 3) uint8 RGB, contiguous. `width` and `height` are what the image has to
    have; ValueError if it is broken or has another size."""
    size = out.shape[0]
    if width == height == size == box.side and not box.flip:
        decode_image(data, out.reshape(-1), width, height)
        return
    scratch = _scratch(height * width * 3 + out.nbytes)
    resized = scratch[: out.nbytes].reshape(out.shape)
    pixels = decode_image(data, scratch[out.nbytes :], width, height)
    region = pixels[box.y : box.y + box.side, box.x : box.x + box.side]
    if not box.flip:
        _resize(region, out)
    else:  # a second pass: OpenCV's resizing cannot mirror
        _resize(region, resized)
        cv2.flip(resized, 1, dst=out)


def _resize(region: np.ndarray, out: np.ndarray) -> None:
    if region.shape == out.shape:
        np.copyto(out, region)
        return
    # Averaging over areas keeps shrunken images free of aliasing; it cannot enlarge.
    shrinks = region.shape[0] > out.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    cv2.resize(region, out.shape[1::-1], dst=out, interpolation=method)


_thread = threading.local()


def _scratch(num_bytes: int) -> np.ndarray:
    """Memory of this thread, kept: fresh pages for every image would cost a third of its time."""
    memory: np.ndarray | None = getattr(_thread, "memory", None)
    if memory is None or memory.nbytes < num_bytes:
        memory = _thread.memory = np.empty(num_bytes, dtype=np.uint8)
    return memory
