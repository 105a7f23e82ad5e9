"""From what was painted over a picture to its hole, and back."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_CANVAS_PX = 640  # longest side that a small picture is enlarged to for painting
_INK = (226, 62, 87)
_INK_ALPHA = 190


def canvas_factor(size: tuple[int, int]) -> int:
    """How many pixels of the canvas, in a row, one of the picture (height, width) takes."""
    return max(1, _CANVAS_PX // max(size))


def canvas_picture(rgb: np.ndarray) -> np.ndarray:
    """The picture, uint8 (H, W, 3), at the size that it is painted on."""
    height, width = rgb.shape[:2]
    factor = canvas_factor((height, width))
    size = (width * factor, height * factor)
    return rgb if factor == 1 else cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC)


def canvas_layer(mask: np.ndarray) -> np.ndarray:
    """The hole, bool (H, W), as if it had been painted: uint8 RGBA at the canvas's size."""
    factor = canvas_factor((mask.shape[0], mask.shape[1]))
    painted = mask.repeat(factor, axis=0).repeat(factor, axis=1)
    layer = np.zeros((*painted.shape, 4), dtype=np.uint8)
    layer[painted] = (*_INK, _INK_ALPHA)
    return layer


def painted_mask(layers: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) of a picture of `size`: True where any layer (h, w, 4) has any colour at all."""
    height, width = size
    mask = np.zeros(size, dtype=bool)
    for layer in layers:
        touched = layer[..., 3] > 0
        if touched.shape != size:
            shares = touched.astype(np.float32)
            touched = cv2.resize(shares, (width, height), interpolation=cv2.INTER_AREA) > 0
        mask |= touched
    return mask


def bounding_rectangles(mask: np.ndarray) -> np.ndarray:
    """bool (H, W): every connected patch of the mask widened to the rectangle around it."""
    _, _, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    result = np.zeros_like(mask)
    for x, y, width, height in boxes[1:, :4]:  # the first is the background
        result[y : y + height, x : x + width] = True
    return result
