"""Pictures as anyone may send them: bounded before they are decoded, scaled to what is served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.inference.photograph import Photograph, read_photograph
from shards.images.conversion import has_image_content

MAX_PIXELS = 50_000_000  # of a file: 150 MB of RGB
MAX_FILE_MB = 20


@dataclass(frozen=True)
class Picture:
    name: str
    photograph: Photograph
    original_size: tuple[int, int]  # height and width, upright, before it was scaled

    @property
    def is_scaled(self) -> bool:
        return self.photograph.size != self.original_size


def read_picture(path: Path, longest_side: int) -> Picture:
    """Scaled down to `longest_side` pixels where it is larger.

    Raises ValueError, which names the file without its folder, for what is no 8-bit image, is
    larger than MAX_FILE_MB, or would have more than MAX_PIXELS once it is decoded.
    """
    if path.stat().st_size > MAX_FILE_MB * 10**6:
        raise ValueError(f"{path.name} has more than {MAX_FILE_MB} MB; save it smaller")
    _require_bounded(path)
    try:
        photograph = read_photograph(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), path.name)) from error
    return Picture(path.name, scaled(photograph, longest_side), photograph.size)


def scaled(photograph: Photograph, longest_side: int) -> Photograph:
    """At most `longest_side` pixels high and wide; the same object where it is no larger."""
    height, width = photograph.size
    scale = longest_side / max(height, width)
    if scale >= 1:
        return photograph
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Pillow weighs colours by their alpha, which OpenCV does not.
    small = np.asarray(pillow_image(photograph).resize(size, Image.Resampling.LANCZOS))
    return Photograph(small.reshape(size[1], size[0], -1), photograph.icc_profile)


def pillow_image(photograph: Photograph) -> Image.Image:
    """In its own mode, with its profile of colours, which Pillow writes into a PNG."""
    pixels = photograph.pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if photograph.icc_profile:
        image.info["icc_profile"] = photograph.icc_profile
    return image


def _require_bounded(path: Path) -> None:
    """Read no more than the file's header for its size."""
    if not has_image_content(path.read_bytes()):
        raise ValueError(
            f"{path.name} is no image that can be read; JPEG, PNG, WebP, TIFF, GIF and BMP can"
        )
    try:
        with Image.open(path) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path.name} would have more than {MAX_PIXELS:,} pixels; save it smaller"
        ) from error
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{path.name} would have {width} x {height} pixels, more than {MAX_PIXELS:,} in all; "
            "save it smaller"
        )
