"""Small pictures and small packed sets for the tests of this and other rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from shards.format.recipe import MaskRecipe, PackRecipe
from shards.packing.pack import pack_images
from shards.reading.reader_spec import ReaderSpec


def picture(size: tuple[int, int] = (96, 72), seed: int = 0) -> np.ndarray:
    """A smooth random coloured picture, uint8 (height, width, 3); `size` is (width, height)."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (5, 6, 3)).astype(np.float32)
    fine = generator.normal(0, 4, (size[1], size[0], 3)).astype(np.float32)
    smooth = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + fine, 0, 255).astype(np.uint8)


def write_class_folders(
    folder: Path,
    classes: int = 3,
    images_per_class: int = 4,
    size: tuple[int, int] = (96, 72),
    seed: int = 0,
) -> Path:
    """`folder`/class-0/picture-0.jpg and so on, every third one a PNG. Returns `folder`."""
    for label in range(classes):
        class_folder = folder / f"class-{label}"
        class_folder.mkdir(parents=True, exist_ok=True)
        for number in range(images_per_class):
            pixels = picture(size, seed=(seed * 1000 + label) * 1000 + number)
            suffix = "png" if number % 3 == 2 else "jpg"
            Image.fromarray(pixels).save(class_folder / f"picture-{number}.{suffix}", quality=95)
    return folder


def small_recipe(
    crop_size: int = 32,
    short_side: int = 48,
    images_per_shard: int = 5,
    masks_per_image: int = 1,
    holes_per_mask: int = 1,
    validation_fraction: float = 0.25,
    seed: int = 0,
    jpeg_quality: int = 95,
) -> PackRecipe:
    masks = MaskRecipe(
        masks_per_image=masks_per_image,
        holes_per_mask=holes_per_mask,
        side_min=crop_size // 4,
        side_max=crop_size // 2,
    )
    return PackRecipe(
        crop_size=crop_size,
        short_side=short_side,
        jpeg_quality=jpeg_quality,
        images_per_shard=images_per_shard,
        validation_fraction=validation_fraction,
        seed=seed,
        masks=masks,
    )


def small_spec(url: str | Path, **changes: Any) -> ReaderSpec:
    """Reads a small set whole, crops of random scale and flips included; `changes` are fields."""
    fields: dict[str, Any] = {
        "split": "train", "batch_size": 8, "rank": 0, "world_size": 1, "seed": 7,
        "short_side_min": 32, "short_side_max": 48, "horizontal_flip": True, "decode_threads": 2,
    }  # fmt: skip
    return ReaderSpec(shards=str(url), **{**fields, **changes})


def pack_small_set(
    tmp_path: Path,
    crop_size: int = 32,
    images: int = 24,
    images_per_shard: int = 5,
    masks_per_image: int = 1,
    holes_per_mask: int = 1,
    validation_fraction: float = 0.25,
    size: tuple[int, int] = (96, 72),
    seed: int = 0,
    classes: int = 3,
    name: str = "set",
) -> str:
    """Packs `images` pictures, training and validation together, rounded down to full classes.

    Returns the folder of the set. Several sets in one `tmp_path` need several names.
    """
    source = tmp_path / f"{name}-source"
    write_class_folders(source, classes, images // classes, size, seed)
    recipe = small_recipe(
        crop_size=crop_size,
        short_side=max(crop_size, min(48 * crop_size // 32, min(size))),
        images_per_shard=images_per_shard,
        masks_per_image=masks_per_image,
        holes_per_mask=holes_per_mask,
        validation_fraction=validation_fraction,
        seed=seed,
    )
    destination = tmp_path / name
    pack_images(source, str(destination), recipe, workers=1)
    return str(destination)
