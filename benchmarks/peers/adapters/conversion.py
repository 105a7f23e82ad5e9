"""From a photograph to the JPEG that is stored: this project's way and Pillow's."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.harness.photographs import benchmark_recipe
from shards.format.recipe import PackRecipe
from shards.images.conversion import convert_image

Convert = Callable[[str], bytes]  # of a path; must be picklable


def conversion(resize: str, short_side: int) -> Convert:
    """`resize` is "ours" or "pillow"."""
    recipe = benchmark_recipe(short_side, short_side, validation_fraction=0)
    return partial(_converted_by_us if resize == "ours" else _converted_by_pillow, recipe)


def _converted_by_us(recipe: PackRecipe, path: str) -> bytes:
    return convert_image(Path(path).read_bytes(), path, "train", recipe).data


def _converted_by_pillow(recipe: PackRecipe, path: str) -> bytes:
    image = resized_by_pillow(Path(path), recipe.short_side)
    assert image is not None, f"{path} is too small, which the benchmark leaves out"
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=recipe.jpeg_quality)
    return jpeg.getvalue()


def resized_by_pillow(path: Path, short_side: int) -> Image.Image | None:
    """Bicubic, the aspect kept; None for an image that would have to be enlarged."""
    with Image.open(path) as opened:
        if min(opened.size) < short_side:
            return None
        image = opened.convert("RGB")
    scale = short_side / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
