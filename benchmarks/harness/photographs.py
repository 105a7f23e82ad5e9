"""What the benchmarks work on: photographs, and a set that is packed from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shards.format.manifest import Manifest
from shards.format.recipe import MaskRecipe, PackRecipe
from shards.packing.pack import pack_images
from shards.sources.sample_photographs import available_photographs, read_sample_photograph

SHIPPED_LABEL = "parts, short side at most 384 pixels, of the photographs that ship"
_PART_SIDE = 384
_STRIDE = 32
_LOADED_IMAGES_PER_SHARD = 64  # several shards even of a small source


def write_shipped_parts(folder: Path) -> Path:
    """Squares of the photographs that ship, overlapping, as JPEG. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for photograph in available_photographs():
        pixels = read_sample_photograph(photograph)
        for number, part in enumerate(_parts(pixels)):
            Image.fromarray(part).save(folder / f"{photograph.name}-{number:03d}.jpg", quality=95)
    return folder


def _parts(pixels: np.ndarray) -> Iterator[np.ndarray]:
    height, width = pixels.shape[:2]
    side = min(_PART_SIDE, height, width)
    for y in range(0, height - side + 1, _STRIDE):
        for x in range(0, width - side + 1, _STRIDE):
            yield pixels[y : y + side, x : x + side]


def benchmark_recipe(crop_size: int, short_side: int, **others: Any) -> PackRecipe:
    """The paper's proportions of holes to the crop; `others` are further fields."""
    return PackRecipe(
        crop_size=crop_size,
        short_side=short_side,
        **others,
        masks=MaskRecipe(side_min=crop_size * 3 // 8, side_max=crop_size // 2),
    )


def pack_both_ways(
    source: Path, folder: Path, crop_size: int, repeat: int = 1, workers: int = 1
) -> tuple[str, Manifest]:
    """A set in which every photograph is both in "train" (aspect kept, short side up to 1.5 times
    the crop) and, `repeat` times, in "val" (square, as large as the crop); both once for each
    worker, whose shares are then as large as one's alone. Returns its folder and manifest."""
    both = folder / "both"
    both.mkdir(parents=True)
    for split, copies in (("train", workers), ("val", repeat * workers)):
        (both / split).mkdir()
        for number in range(copies):
            link = both / split / f"copy-{number}"
            link.symlink_to(source.resolve(), target_is_directory=True)
    destination = str(folder / "set")
    recipe = benchmark_recipe(
        crop_size, crop_size * 3 // 2, images_per_shard=_LOADED_IMAGES_PER_SHARD
    )
    return destination, pack_images(both, destination, recipe)
