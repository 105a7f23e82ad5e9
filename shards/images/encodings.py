"""The encodings of stored images: JPEG, PNG, lossless WebP and raw pixels (.npy).

Reading believes no file: its size is compared with the expected one before anything is decoded, so
that no data, however hostile, takes more memory than the image it stands for.
"""

from __future__ import annotations

import io
import re

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from shards.format.recipe import PackRecipe

# The longest side that each can hold; beyond the widest, the index could not say it either.
MAX_SIDE = {"jpeg": 65_500, "png": 65_500, "webp": 16_383, "raw": 65_500}

_JPEG, _PNG, _NPY = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY"
_NPY_HEADER_SIZE = 128
# Of the settings within 4 % of the smallest file, the fastest to write and to read: the "average"
# filter where OpenCV knows it (4.12), at half the time of choosing the filter row by row.
_PNG_SETTINGS = [cv2.IMWRITE_PNG_COMPRESSION, 1]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    _PNG_SETTINGS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG]
_DECODE_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def encode_image(pixels: np.ndarray, recipe: PackRecipe) -> bytes:
    """uint8 RGB (height, width, 3) in the recipe's encoding."""
    if recipe.encoding == "jpeg":
        data: bytes = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels),
            quality=recipe.jpeg_quality,
            colorsubsampling=recipe.jpeg_subsampling,
        )
        return data
    if recipe.encoding == "png":
        written, encoded = cv2.imencode(
            ".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), _PNG_SETTINGS
        )
        assert written, pixels.shape
        return bytes(encoded)
    if recipe.encoding == "webp":
        return _encode_webp(pixels)
    assert recipe.encoding == "raw", recipe.encoding
    return _npy_header(pixels.shape[1], pixels.shape[0]) + pixels.tobytes()


def _encode_webp(pixels: np.ndarray) -> bytes:
    """Lossless. By Pillow: OpenCV only has a method that saves 8 % more in 20 times as long."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, quality=20, method=0)
    return buffer.getvalue()


def decode_image(
    data: memoryview | bytes, memory: np.ndarray, width: int, height: int
) -> np.ndarray:
    """uint8 RGB (height, width, 3), a view of `memory`: uint8, one axis, of that size or longer.

    The data's first bytes tell its encoding. ValueError if it is broken, or not of this size.
    """
    size = image_size(data)
    if size != (width, height):
        raise ValueError(f"it has {size[0]} x {size[1]} pixels, not {width} x {height}")
    pixels = memory[: height * width * 3].reshape(height, width, 3)
    if data[:2] == _JPEG:
        simplejpeg.decode_jpeg(data, "RGB", buffer=pixels.reshape(-1))
    elif data[:6] == _NPY:
        _copy_npy(data, pixels)
    else:
        _decode_with_opencv(data, pixels)
    return pixels


def image_size(data: memoryview | bytes) -> tuple[int, int]:
    """(width, height) as the first bytes say. ValueError if no stored image begins like this."""
    start = bytes(data[:_NPY_HEADER_SIZE])
    if start[:2] == _JPEG:
        return _jpeg_size(data)
    if start[:8] == _PNG and start[12:16] == b"IHDR" and len(start) >= 24:
        return int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _webp_size(start)
    if start[:6] == _NPY:
        return _npy_size(start)
    raise ValueError("it is neither JPEG, PNG, WebP nor .npy")


def _jpeg_size(data: memoryview | bytes) -> tuple[int, int]:
    height, width, color, _ = simplejpeg.decode_jpeg_header(data)  # takes a microsecond
    if color in ("CMYK", "YCCK"):
        raise ValueError("it is a JPEG in CMYK; stored images are RGB or grey")
    return width, height


def _webp_size(start: bytes) -> tuple[int, int]:
    """Of all three kinds of first chunk: lossless, lossy, extended."""
    kind, body = start[12:16], start[20:30]
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
        width, height = (int.from_bytes(body[first : first + 2], "little") for first in (6, 8))
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8X" and len(body) >= 10:
        width, height = (int.from_bytes(body[first : first + 3], "little") for first in (4, 7))
        return 1 + width, 1 + height
    raise ValueError("it is a damaged WebP: no header")


def _npy_size(start: bytes) -> tuple[int, int]:
    # Only our own header is known, and NumPy does not see it: it evaluates Python literals.
    found = re.match(rb".{10}\{.* \((\d{1,5}), (\d{1,5}), 3\), \} *\n", start, re.DOTALL)
    height, width = (int(side) for side in found.groups()) if found else (0, 0)
    if start != _npy_header(width, height):
        raise ValueError(
            "it is not a .npy of version 1.0 with an uint8 array of (rows, columns, 3)"
        )
    return width, height


def _npy_header(width: int, height: int) -> bytes:
    """As numpy.save writes it, in version 1.0 of the format."""
    shape = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({height}, {width}, 3), }}"
    length = _NPY_HEADER_SIZE - 10
    start = _NPY + b"\x01\x00" + length.to_bytes(2, "little")
    return start + shape.ljust(length - 1).encode() + b"\n"


def _copy_npy(data: memoryview | bytes, pixels: np.ndarray) -> None:
    expected = _NPY_HEADER_SIZE + pixels.nbytes
    if len(data) != expected:
        raise ValueError(f"it has {len(data)} bytes, not {expected}")
    content = np.frombuffer(data, np.uint8, offset=_NPY_HEADER_SIZE)
    np.copyto(pixels, content.reshape(pixels.shape))


def _decode_with_opencv(data: memoryview | bytes, pixels: np.ndarray) -> None:
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), _DECODE_FLAGS)
    except cv2.error as error:
        raise ValueError(f"it is damaged: {error}") from error
    if decoded is None or decoded.shape != pixels.shape:
        raise ValueError("it is damaged")
    cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=pixels)
