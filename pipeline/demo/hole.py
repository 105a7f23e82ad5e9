"""From what was painted over a picture to its hole."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_CANVAS_PX = 640  # longest side that a small picture is enlarged to for painting
_INK = (226, 62, 87)
_INK_SHARE = 0.75


def canvas_factor(size: tuple[int, int]) -> int:
    """How many pixels of the canvas, in a row, one of the picture (height, width) takes."""
    return max(1, _CANVAS_PX // max(size))


def canvas_picture(rgb: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The picture, uint8 (H, W, 3), at the size that it is painted on; its hole, if it has one
    already, under ink.
    """
    height, width = rgb.shape[:2]
    factor = canvas_factor((height, width))
    size = (width * factor, height * factor)
    canvas = cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC) if factor > 1 else rgb.copy()
    if mask is not None:
        inked = mask.repeat(factor, axis=0).repeat(factor, axis=1)
        mixed = _INK_SHARE * np.array(_INK) + (1 - _INK_SHARE) * canvas[inked]
        canvas[inked] = mixed.astype(np.uint8)
    return canvas


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
