"""Completions without a network, to compare one with: a flat colour and two classic methods.

Images are uint8 (H, W, 3) RGB, masks bool (H, W) with True in the hole. Known pixels are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

RADIUS_PX = 3  # neighbourhood of OpenCV's methods, the value of its tutorial

Baseline = Callable[[np.ndarray, np.ndarray], np.ndarray]


def fill_with_color(image: np.ndarray, mask: np.ndarray, color: Sequence[float]) -> np.ndarray:
    """`color` is RGB in [0, 1]."""
    filled = image.copy()
    filled[mask] = np.rint(np.asarray(color) * 255).astype(np.uint8)
    return filled


def telea(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fast marching from the hole's border inwards (Telea 2004)."""
    return _inpainted(image, mask, cv2.INPAINT_TELEA)


def navier_stokes(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Isophotes continued into the hole as a fluid's streamlines (Bertalmio et al. 2001)."""
    return _inpainted(image, mask, cv2.INPAINT_NS)


def _inpainted(image: np.ndarray, mask: np.ndarray, method: int) -> np.ndarray:
    if mask.all():
        raise ValueError("the mask covers the whole image: nothing is known to continue from")
    result = cv2.inpaint(np.ascontiguousarray(image), mask.astype(np.uint8), RADIUS_PX, method)
    return np.where(mask[..., None], result, image)


def classic_baselines(mean_color: Sequence[float]) -> dict[str, Baseline]:
    """By the name under which an evaluation reports them."""
    return {
        "mean colour": lambda image, mask: fill_with_color(image, mask, mean_color),
        "Telea": telea,
        "Navier-Stokes": navier_stokes,
    }
