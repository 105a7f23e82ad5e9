"""From a source file, whatever it holds, to the image that is stored: 8-bit RGB, upright, scaled.

Plain JPEGs take a fast path (scaled decoding in libjpeg); the rest goes through Pillow. What had to
be changed is named, so that it can be counted.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from shards.format.recipe import PackRecipe
from shards.images.encodings import MAX_SIDE, encode_image
from shards.images.resizing import shrink, whole_reduction

# Formats with a signature that can be trusted; others would run interpreters (EPS) or guess (TGA).
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 178_956_970  # of a source image: half a gigabyte of RGB, as Pillow refuses it too
_MAX_JPEG_REDUCTION = 8  # of libjpeg
_ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE_TAG, _PLANES_TAG = 258, 284  # of TIFF; the planes are apart if the latter is 2
_ZERO_TAG = 262  # of TIFF: what 0 stands for; white if it is 0
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")  # the chunks that decide over pixels
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
    data: bytes  # in the recipe's encoding
    width: int
    height: int
    original_size: tuple[int, int]  # width and height of the upright source image
    color_sum: np.ndarray  # float64, (3,): sum over the pixels of each of R, G, B in [0, 255]
    conversions: tuple[str, ...]  # what had to be changed, by kind


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    for plugin in ("Jpeg", "Mpo", "Png", "Gif", "Bmp", "WebP", "Tiff", "Ppm", "Jpeg2K", "Avif"):
        with suppress(ImportError):  # of AVIF before 11.3. Image.init takes 0.1 s: it has more
            import_module(f"PIL.{plugin}ImagePlugin")
    # What they would say of a bad file on stderr is said in its refusal.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@lru_cache(maxsize=1)
def _extensions() -> dict[str, str]:
    formats = _formats()  # before Pillow is asked for the extensions, which it learns there
    return {suffix: name for suffix, name in Image.EXTENSION.items() if name in formats}


def has_image_extension(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _extensions()


def has_image_content(data: bytes) -> bool:
    """Return whether a file of this content is an image. Some formats (TIFF) need the
    whole file.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_formats()):
            return True
    except Image.DecompressionBombError:
        return True
    except (OSError, ValueError, SyntaxError):
        return False


def convert_image(data: bytes, name: str, split: str, recipe: PackRecipe) -> StoredImage:
    """Decode, turn upright, scale and encode one image, the content of the file `name`.

    "train": the short side becomes min(original, recipe.short_side), the aspect stays. "val": the
    centre square is scaled to recipe.crop_size. Raises UnusableImage with the reason; images of
    more than MAX_PIXELS are refused before they are decoded.
    """
    if not data:
        raise UnusableImage("the file is empty")
    try:
        return _convert(data, name, split, recipe)
    except UnusableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnusableImage("not an image, or damaged at its beginning") from error
    except Image.DecompressionBombError as error:
        raise UnusableImage(f"too many pixels: more than {MAX_PIXELS}") from error
    except Exception as error:  # decoders meet damage with every kind of exception
        raise UnusableImage(f"damaged: {str(error) or type(error).__name__}") from error


def _convert(data: bytes, name: str, split: str, recipe: PackRecipe) -> StoredImage:
    image = Image.open(io.BytesIO(data), formats=_formats())
    _require_size(image.size, split, recipe)
    conversions = _conversions_of_file(image, name)
    is_deep = has_more_than_8_bits(image)  # before the EXIF, for which Pillow decodes a PNG
    orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    size = image.size
    target = _short_side(size, split, recipe)
    pixels, conversions_of_pixels = _decode(data, image, target, is_deep)
    pixels = _square(pixels, size, target) if split == "val" else _scale(pixels, size, target)
    conversions += conversions_of_pixels
    if orientation in _TURNS:
        if image.format != "TIFF":  # which Pillow and OpenCV have turned, and its size with it
            pixels = np.asarray(Image.fromarray(pixels).transpose(_TURNS[orientation]))
            size = size[::-1] if orientation >= 5 else size
        conversions.append("rotated as its EXIF says")
    return StoredImage(
        data=encode_image(pixels, recipe),
        width=pixels.shape[1],
        height=pixels.shape[0],
        original_size=size,
        color_sum=np.array(cv2.sumElems(pixels)[:3]),
        conversions=tuple(conversions),
    )


def _require_size(size: tuple[int, int], split: str, recipe: PackRecipe) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise UnusableImage(f"too many pixels: {width}x{height}, more than {MAX_PIXELS}")
    if min(size) < recipe.crop_size:
        raise UnusableImage(
            f"too small: {width}x{height}, the short side must be at least {recipe.crop_size}"
        )
    longest = max(size) * _short_side(size, split, recipe) / min(size)
    if longest > MAX_SIDE[recipe.encoding]:
        raise UnusableImage(f"too elongated: {width}x{height}")


def _short_side(size: tuple[int, int], split: str, recipe: PackRecipe) -> int:
    """Of the stored image, which is never larger than the original."""
    return recipe.crop_size if split == "val" else min(*size, recipe.short_side)


def _conversions_of_file(image: Image.Image, name: str) -> list[str]:
    kinds = []
    expected = _extensions().get(PurePosixPath(name).suffix.lower())
    same_family = {"MPO": "JPEG"}  # a JPEG with further pictures behind the first
    actual = image.format or ""
    if expected is None or same_family.get(expected, expected) != same_family.get(actual, actual):
        kinds.append("named otherwise than its content")
    if getattr(image, "n_frames", 1) > 1 and actual != "MPO":
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
        deep = _only_pixels(data) if image.format == "PNG" else data
        is_negative = _tiff_tags(image).get(_ZERO_TAG) == 0  # of which OpenCV takes no notice
        return _decode_deep(deep, _ppm_maximum(image) or 65_535, is_negative)
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
    """Decode at 1, 1/2, 1/4 or 1/8, as far as the sharpness of the result does not suffer.

    Only powers of two: the other scales of libjpeg are no faster and cost 13 dB.
    """
    factor = min(whole_reduction(min(size) / target), _MAX_JPEG_REDUCTION)
    width, height = (-(-side // factor) for side in size)
    pixels: np.ndarray = simplejpeg.decode_jpeg(
        data, "RGB", min_factor=factor, min_width=width, min_height=height
    )
    assert pixels.shape == (height, width, 3), (pixels.shape, size, factor)
    return pixels


def has_more_than_8_bits(image: Image.Image) -> bool:
    """Return whether a channel has more than 8 bits, of which Pillow keeps only 8 where its mode is
    RGB.

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
    """Return the value that is white, which the header of a PPM file names."""
    for codec, _, _, arguments in getattr(image, "tile", []):
        if codec.startswith("ppm"):
            return int(arguments[-1])
    return None


def _only_pixels(png: bytes) -> bytes:
    """Return a PNG without what OpenCV would complain of on stderr: profiles, times, a
    missing end.
    """
    kept, position = [png[:8]], 8
    while position + 12 <= len(png):
        end = position + 12 + int.from_bytes(png[position : position + 4], "big")
        if png[position + 4 : position + 8] in _PNG_PIXELS:
            kept.append(png[position:end])
        position = end
    return b"".join([*kept, b"\0\0\0\0IEND\xaeB`\x82"])


def _decode_deep(data: bytes, maximum: int, is_negative: bool) -> tuple[np.ndarray, list[str]]:
    kinds = ["16-bit to 8-bit"]
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UnusableImage("damaged: its pixels of more than 8 bits cannot be decoded")
    if pixels.dtype != np.uint16:
        raise UnusableImage(f"pixels of kind {pixels.dtype} have no known range")
    levels = (pixels.astype(np.uint32) * 255 + maximum // 2) // maximum
    pixels = np.minimum(levels, 255).astype(np.uint8)
    pixels = 255 - pixels if is_negative else pixels
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


def _scale(pixels: np.ndarray, original_size: tuple[int, int], target: int) -> np.ndarray:
    """`target` is the new short side; the aspect is the original's, not the scaled decoding's."""
    short_side = min(original_size)
    width, height = (round(side * target / short_side) for side in original_size)
    factor = _factor(pixels, original_size)
    return shrink(pixels, width, height, (original_size[0] / factor, original_size[1] / factor))


def _square(pixels: np.ndarray, original_size: tuple[int, int], target: int) -> np.ndarray:
    """Return the centre square, to half a pixel of the decoded picture, at the size `target`."""
    extent = min(original_size) / _factor(pixels, original_size)
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    return shrink(square, target, target, (extent, extent))


def _factor(pixels: np.ndarray, original_size: tuple[int, int]) -> int:
    """Of a scaled decoding, whose sides are rounded up."""
    return round(max(original_size) / max(pixels.shape[:2]))
