"""From a source file, whatever it holds, to the JPEG that is stored: 8-bit RGB, upright, scaled.

Plain JPEGs take a fast path (scaled decoding in libjpeg, area averaging); the rest goes through
Pillow. What had to be changed is named, so that it can be counted.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from shards.recipe import PackRecipe

# Formats with a signature that can be trusted; others would run interpreters (EPS) or guess (TGA).
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
_LONGEST_SIDE = 65_500  # libjpeg's limit
_SIDE_MARGIN = 2  # scaled decoding keeps at least this many times the wanted side: see _decode_jpeg
_ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE_TAG, _PLANES_TAG = 258, 284  # of TIFF; the planes are apart if the latter is 2
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnusableImage(ValueError):
    """An image that cannot be stored; the message is the reason, without the path."""


@dataclass(frozen=True)
class StoredImage:
    jpeg: bytes
    width: int
    height: int
    original_size: tuple[int, int]  # width and height of the upright source image
    color_sum: np.ndarray  # float64, (3,): sum over the pixels of each of R, G, B in [0, 255]
    conversions: tuple[str, ...]  # what had to be changed, by kind


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@lru_cache(maxsize=1)
def _extensions() -> dict[str, str]:
    return {
        suffix: name for suffix, name in Image.registered_extensions().items() if name in _formats()
    }


def has_image_extension(path: Path) -> bool:
    return path.suffix.lower() in _extensions()


def has_image_content(path: Path) -> bool:
    """Whether the file begins like an image; an unreadable file does not."""
    try:
        with Image.open(path, formats=_formats()):
            return True
    except Image.DecompressionBombError:
        return True
    except (OSError, ValueError, SyntaxError):
        return False


def convert_image(path: Path, split: str, recipe: PackRecipe) -> StoredImage:
    """Read, decode, turn upright, scale and encode one image.

    "train": the short side becomes min(original, recipe.short_side), the aspect stays. "val": the
    centre square is scaled to recipe.crop_size. Raises UnusableImage with the reason.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnusableImage(f"cannot be read: {error.strerror or error}") from error
    if not data:
        raise UnusableImage("the file is empty")
    try:
        return _convert(data, path, split, recipe)
    except UnusableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnusableImage("not an image, or damaged at its beginning") from error
    except Image.DecompressionBombError as error:
        raise UnusableImage(f"too many pixels: {error}") from error
    except Exception as error:  # decoders meet damage with every kind of exception
        raise UnusableImage(f"damaged: {str(error) or type(error).__name__}") from error


def _convert(data: bytes, path: Path, split: str, recipe: PackRecipe) -> StoredImage:
    image = Image.open(io.BytesIO(data), formats=_formats())
    conversions = list(_conversions_of_file(image, path))
    short_side = min(image.size)
    if short_side < recipe.crop_size:
        raise UnusableImage(
            f"too small: {image.width}x{image.height}, the short side must be at least "
            f"{recipe.crop_size}"
        )
    target = recipe.crop_size if split == "val" else min(short_side, recipe.short_side)
    if max(image.size) * target / short_side > _LONGEST_SIDE:
        raise UnusableImage(f"too elongated: {image.width}x{image.height}")
    is_deep = has_more_than_8_bits(image)  # before the EXIF, for which Pillow decodes a PNG
    orientation = image.getexif().get(_ORIENTATION_TAG, 1)

    size = image.size
    pixels, conversions_of_pixels = _decode(data, image, target, is_deep)
    pixels = _square(pixels, target) if split == "val" else _scaled(pixels, size, target)
    conversions += conversions_of_pixels
    if orientation in _TURNS:
        pixels = np.asarray(Image.fromarray(pixels).transpose(_TURNS[orientation]))
        size = size[::-1] if orientation >= 5 else size
        conversions.append("rotated as its EXIF says")
    return _encode(pixels, size, recipe.jpeg_quality, tuple(conversions))


def _encode(
    pixels: np.ndarray, original_size: tuple[int, int], quality: int, conversions: tuple[str, ...]
) -> StoredImage:
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    return StoredImage(
        jpeg=simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420"),
        width=width,
        height=height,
        original_size=original_size,
        color_sum=np.array(cv2.sumElems(pixels)[:3]),
        conversions=conversions,
    )


def _conversions_of_file(image: Image.Image, path: Path) -> list[str]:
    kinds = []
    expected = _extensions().get(path.suffix.lower())
    same_family = {"MPO": "JPEG"}  # a JPEG with further pictures behind the first
    name = image.format or ""
    if expected is None or same_family.get(expected, expected) != same_family.get(name, name):
        kinds.append("named otherwise than its content")
    if getattr(image, "n_frames", 1) > 1 and name != "MPO":
        kinds.append("first of several frames")
    return kinds


def _decode(
    data: bytes, image: Image.Image, target: int, is_deep: bool
) -> tuple[np.ndarray, list[str]]:
    """Pixels, uint8 (height, width, 3), not upright yet, and what was converted."""
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        kinds = ["greyscale to RGB"] if image.mode == "L" else []
        return _decode_jpeg(data, image.size, target), kinds
    if is_deep:
        if _tiff_tags(image).get(_PLANES_TAG) == 2:  # OpenCV and Pillow would scramble them
            raise UnusableImage("more than 8 bits in separate colour planes; save it interleaved")
        return _decode_deep(data, _ppm_maximum(image) or 65_535)
    image.load()
    mode, kinds = image.mode, []
    if mode in ("P", "PA"):
        kinds.append("palette to RGB")
    elif mode in ("1", "L", "LA", "La"):
        kinds.append("greyscale to RGB")
    elif mode == "CMYK":
        kinds.append("CMYK to RGB")
    elif mode not in ("RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "LAB", "HSV"):
        raise UnusableImage(f"pixels of kind {mode} have no known range")
    if image.has_transparency_data:
        pixels, kind = _over_white(np.asarray(image.convert("RGBA")))
        return pixels, [*kinds, kind]
    return np.asarray(image.convert("RGB")), kinds


def _decode_jpeg(data: bytes, size: tuple[int, int], target: int) -> np.ndarray:
    """Decode at 1, 1/2, 1/4 or 1/8, keeping at least twice the wanted short side.

    Only powers of two: the other scales of libjpeg are no faster and cost 13 dB. Below twice the
    wanted side its scaling would decide the sharpness, instead of the area average that follows.
    """
    factor = 8
    while factor > 1 and min(size) < _SIDE_MARGIN * target * factor:
        factor //= 2
    width, height = (-(-side // factor) for side in size)
    pixels: np.ndarray = simplejpeg.decode_jpeg(
        data, "RGB", min_factor=factor, min_width=width, min_height=height
    )
    assert pixels.shape == (height, width, 3), (pixels.shape, size, factor)
    return pixels


def has_more_than_8_bits(image: Image.Image) -> bool:
    """Whether a channel has more than 8 bits, of which Pillow keeps only 8 where its mode is RGB.

    To be asked before load(), after which Pillow no longer knows. JPEG 2000 and AVIF in colour
    never say so: they count as 8 bits.
    """
    if image.mode.startswith(("I", "F")) or (_ppm_maximum(image) or 0) > 255:
        return True
    if max(_tiff_tags(image).get(_BITS_PER_SAMPLE_TAG, ()), default=1) > 8:
        return True
    # What the decoder is told names the depth; BGR;16, of bitmaps, has 5, 6 and 5 bits.
    tiles = [str(tile) for tile in getattr(image, "tile", [])]
    return any(";16" in tile and "BGR;16" not in tile for tile in tiles)


def _tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    return getattr(image, "tag_v2", {})


def _ppm_maximum(image: Image.Image) -> int | None:
    """The value that is white, which the header of a PPM file names."""
    for codec, _, _, arguments in getattr(image, "tile", []):
        if codec.startswith("ppm"):
            return int(arguments[-1])
    return None


def _decode_deep(data: bytes, maximum: int) -> tuple[np.ndarray, list[str]]:
    kinds = ["16-bit to 8-bit"]
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UnusableImage("damaged: its pixels of more than 8 bits cannot be decoded")
    if pixels.dtype != np.uint16:
        raise UnusableImage(f"pixels of kind {pixels.dtype} have no known range")
    levels = (pixels.astype(np.uint32) * 255 + maximum // 2) // maximum
    pixels = np.minimum(levels, 255).astype(np.uint8)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), [*kinds, "greyscale to RGB"]
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), kinds
    pixels, kind = _over_white(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))
    return pixels, [*kinds, kind]


def _over_white(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    """RGBA, uint8, to RGB on a white ground."""
    color, alpha = pixels[..., :3], pixels[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(color), "opaque alpha dropped"
    blended = (color * alpha + 255 * (255 - alpha) + 127) // 255
    return blended.astype(np.uint8), "transparency laid over white"


def _scaled(pixels: np.ndarray, original_size: tuple[int, int], target: int) -> np.ndarray:
    """`target` is the new short side; the aspect is the original's, not the scaled decoding's."""
    short_side = min(original_size)
    width, height = (round(side * target / short_side) for side in original_size)
    return _resized(pixels, width, height)


def _square(pixels: np.ndarray, target: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _resized(pixels[top : top + side, left : left + side], target, target)


def _resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
