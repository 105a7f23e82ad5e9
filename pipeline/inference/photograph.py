"""Photographs as files: any 8-bit mode in, the same mode out, known pixels untouched."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shards.images.conversion import has_more_than_8_bits
from shards.storage.files import write_local

_MASK_THRESHOLD = 128


@dataclass(frozen=True)
class Photograph:
    """Upright pixels, uint8 (H, W, C): grey, grey and alpha, RGB, or RGB and alpha."""

    pixels: np.ndarray
    icc_profile: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def has_alpha(self) -> bool:
        return self.pixels.shape[2] in (2, 4)

    @property
    def is_grey(self) -> bool:
        return self.pixels.shape[2] < 3

    def rgb(self) -> np.ndarray:
        """uint8 (H, W, 3), alpha left out."""
        if self.is_grey:
            return np.repeat(self.pixels[..., :1], 3, axis=2)
        return np.ascontiguousarray(self.pixels[..., :3])

    def with_hole(self, rgb: np.ndarray, mask: np.ndarray) -> Photograph:
        """This photograph with `rgb` (H, W, 3) in the hole, opaque there, in its own mode."""
        pixels = self.pixels.copy()
        if self.is_grey:
            pixels[mask, 0] = np.asarray(Image.fromarray(rgb).convert("L"))[mask]
        else:
            pixels[mask, :3] = rgb[mask]
        if self.has_alpha:
            pixels[mask, -1] = 255
        return Photograph(pixels, self.icc_profile)

    def save(self, path: Path) -> None:
        """As PNG, which loses nothing."""
        pixels = self.pixels[..., 0] if self.pixels.shape[2] == 1 else self.pixels
        buffer = io.BytesIO()
        options = {"icc_profile": self.icc_profile} if self.icc_profile else {}
        Image.fromarray(pixels).save(buffer, "PNG", **options)
        write_local(path, buffer.getvalue())


def read_photograph(path: Path) -> Photograph:
    """Turned upright as its EXIF data say. Raises ValueError if it is no 8-bit image."""
    image = _open_image(path)
    profile = image.info.get("icc_profile")
    transparent = image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info
    if image.mode in ("1", "L", "LA", "La"):
        mode = "LA" if transparent else "L"
    else:
        mode = "RGBA" if transparent else "RGB"
    if image.mode not in (mode, "P", "PA"):
        profile = None  # it describes another space of colours than the converted pixels have
    pixels = np.asarray(image.convert(mode))
    return Photograph(pixels.reshape(*pixels.shape[:2], -1), profile)


def read_mask(path: Path) -> np.ndarray:
    """bool (H, W): True, a hole, where the image is 128 or brighter. ValueError as for an image."""
    return np.asarray(_open_image(path).convert("L")) >= _MASK_THRESHOLD


def rectangle_mask(holes: list[tuple[int, int, int, int]], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W), the union of (x, y, width, height). ValueError for one outside of the image."""
    mask = np.zeros(size, dtype=bool)
    height, width = size
    for x, y, hole_width, hole_height in holes:
        inside = x >= 0 and y >= 0 and x + hole_width <= width and y + hole_height <= height
        if not inside or hole_width < 1 or hole_height < 1:
            raise ValueError(
                f"the hole {x},{y},{hole_width},{hole_height} (x,y,width,height) does not lie in "
                f"the image of {width}x{height} pixels"
            )
        mask[y : y + hole_height, x : x + hole_width] = True
    return mask


def _open_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            is_deep = has_more_than_8_bits(file)
            image = ImageOps.exif_transpose(file)
            image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error})") from error
    except OSError as error:
        if error.errno is not None:  # the file, not what is in it
            raise
        raise ValueError(f"{path} cannot be read as an image ({error})") from error
    if is_deep:
        raise ValueError(
            f"{path} has more than 8 bits per channel, which would be lost; convert it to 8 bits"
        )
    return image


def quantized(image: np.ndarray) -> np.ndarray:
    """uint8 of floats in [0, 1], rounded to the nearest level."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
