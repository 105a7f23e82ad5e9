"""Completions without learned weights, to compare a network with.

A network that does not beat the membrane, a smooth surface through the colours around the hole, has
added nothing to what the border already says.

Images are uint8 (H, W, 3) RGB, masks bool (H, W) with True in the hole. Known pixels are kept, and
no method sees what the original has in the hole. Where a mask covers the whole image, there is
nothing to continue from: the hole becomes grey, or the mean colour.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from skimage.restoration import inpaint_biharmonic

from pipeline.config.baseline_names import BASELINE_NAMES
from pipeline.inference.poisson_blending import blended

RADIUS_PX = 3  # neighbourhood of OpenCV's methods, the value of its tutorial
MID_GREY = (0.5, 0.5, 0.5)

Baseline = Callable[[np.ndarray, np.ndarray], np.ndarray]


def fill_with_color(image: np.ndarray, mask: np.ndarray, color: Sequence[float]) -> np.ndarray:
    """Return the image with one colour in the hole; `color` is RGB in [0, 1]."""
    filled = image.copy()
    filled[mask] = np.rint(np.asarray(color) * 255).astype(np.uint8)
    return filled


def membrane(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a flat grey hole after the paper's post-processing: Laplace's equation, no network.

    What a network's blended completion is worth shows in its distance from this one.
    """
    return blended(fill_with_color(image, mask, MID_GREY), mask)


def biharmonic(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Continue colours and slopes into the hole, by the biharmonic equation (scikit-image).

    Where so little is known that the equation has no one solution, return the membrane.
    """
    if mask.all():
        return fill_with_color(image, mask, MID_GREY)
    hidden = fill_with_color(image, mask, MID_GREY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a singular matrix: looked for below
        values = inpaint_biharmonic(hidden, mask, channel_axis=2)
    if not np.isfinite(values).all():
        return membrane(image, mask)
    filled = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.where(mask[..., None], filled, image)


def telea(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """March from the hole's border inwards (Telea 2004)."""
    return _inpainted_by_opencv(image, mask, cv2.INPAINT_TELEA)


def navier_stokes(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Continue isophotes into the hole as a fluid's streamlines (Bertalmio et al. 2001)."""
    return _inpainted_by_opencv(image, mask, cv2.INPAINT_NS)


def frequency_selective(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Continue the surroundings as a sum of few frequencies (FSR, Genser et al. 2018).

    Only where OpenCV has its module xphoto, see `baselines_left_out`.
    """
    if mask.all():
        return fill_with_color(image, mask, MID_GREY)
    known = np.where(mask, 0, 255).astype(np.uint8)  # this function's masks are 0 in the hole
    blue_first = cv2.cvtColor(fill_with_color(image, mask, MID_GREY), cv2.COLOR_RGB2BGR)
    result = np.zeros_like(blue_first)
    xphoto = getattr(cv2, "xphoto")  # noqa: B009 - most builds of OpenCV have none
    xphoto.inpaint(blue_first, known, result, xphoto.INPAINT_FSR_FAST)
    return np.where(mask[..., None], cv2.cvtColor(result, cv2.COLOR_BGR2RGB), image)


def _inpainted_by_opencv(image: np.ndarray, mask: np.ndarray, method: int) -> np.ndarray:
    hidden = fill_with_color(image, mask, MID_GREY)  # OpenCV's reads the hole at the image's border
    if mask.all():
        return hidden
    result = cv2.inpaint(hidden, mask.astype(np.uint8), RADIUS_PX, method)
    return np.where(mask[..., None], result, image)


def classic_baselines(
    mean_color: Sequence[float], names: Sequence[str] = BASELINE_NAMES
) -> dict[str, Baseline]:
    """Return the named methods that this installation has, in the order of the tables.

    `mean_color` is RGB in [0, 1].
    """
    methods: dict[str, Baseline] = {
        "mean colour": lambda image, mask: fill_with_color(image, mask, mean_color),
        "membrane": membrane,
        "biharmonic": biharmonic,
        "Telea": telea,
        "Navier-Stokes": navier_stokes,
        "FSR": frequency_selective,
    }
    missing = baselines_left_out(names)
    return {
        name: method for name, method in methods.items() if name in names and name not in missing
    }


def baselines_left_out(names: Sequence[str]) -> dict[str, str]:
    """Return the named methods that this installation lacks, each with the reason."""
    if "FSR" in names and not hasattr(cv2, "xphoto"):
        return {"FSR": "this OpenCV has no module xphoto; opencv-contrib-python-headless has it"}
    return {}
