"""Shrinking photographs as Pillow's bicubic does, several times as fast.

A filter of five taps, whose weights depend on the scale, takes away what the smaller picture cannot
hold; cubic interpolation then reads it at the new places. OpenCV has vector code for both, unlike
for its area average. The weights were fitted to Pillow's bicubic on photographs: its result is met
at 49 to 51 dB up to a scale of 2 and above 42 dB beyond, the area average at 40 to 44 dB.
"""

from __future__ import annotations

import cv2
import numpy as np

# Pixels of the source for one of the result, and the weights of the neighbours beside the centre.
_SCALES = (1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.3, 2.6, 3.0, 3.5)
_NEXT = (0.010, 0.048, 0.111, 0.198, 0.262, 0.305, 0.315, 0.308, 0.276, 0.240)
_SECOND = (0.000, -0.005, -0.024, -0.042, -0.047, -0.038, -0.015, 0.016, 0.062, 0.119)
# Below it, what an average over whole pixels does to the sharpness can no longer be made good.
_LEAST_SCALE_LEFT = 1.6


def whole_reduction(scale: float) -> int:
    """Return the power of two by which pixels may be averaged first, of all that
    `scale` asks for.
    """
    factor = 1
    while scale >= 2 * factor * _LEAST_SCALE_LEFT:
        factor *= 2
    return factor


def shrink(
    pixels: np.ndarray, width: int, height: int, extent: tuple[float, float] | None = None
) -> np.ndarray:
    """uint8 (height, width, 3) from (h, w, 3); the same array where nothing is to be done.

    `extent` is (width, height) of the picture in pixels of the array, where it ends within the last
    column and row: a JPEG decoded at half its size of 501 pixels has an extent of 250.5 in 251.
    """
    rows, columns = pixels.shape[:2]
    across, down = extent or (columns, rows)
    if (rows, columns) == (height, width) == (down, across):
        return pixels
    assert columns - 1 < across <= columns, (extent, pixels.shape)
    assert rows - 1 < down <= rows, (extent, pixels.shape)
    factor = whole_reduction(min(across / width, down / height))
    if factor > 1:
        pixels, across, down = _average_blocks(pixels, factor), across / factor, down / factor
    weights = _weights(min(across / width, down / height))
    smooth = cv2.sepFilter2D(pixels, -1, weights, weights, borderType=cv2.BORDER_REPLICATE)
    # Asked for scales instead of a size, OpenCV places the pixels by the extent; the result then
    # holds what lies beyond it too, which is less than a pixel.
    result = cv2.resize(
        smooth, None, fx=width / across, fy=height / down, interpolation=cv2.INTER_CUBIC
    )
    return np.ascontiguousarray(result[:height, :width])


def _average_blocks(pixels: np.ndarray, factor: int) -> np.ndarray:
    rows, columns = pixels.shape[:2]
    below, right = -rows % factor, -columns % factor
    if below or right:
        pixels = cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE)
    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _weights(scale: float) -> np.ndarray:
    near, far = np.interp(scale, _SCALES, _NEXT), np.interp(scale, _SCALES, _SECOND)
    return np.array([far, near, 1 - 2 * (near + far), near, far], dtype=np.float32)
