"""Post-processing of a completion: its gradients under the colours around the hole (paper, 3.4).

The destination is the hole filled by fast marching from its border, so nothing of what was once in
the hole is needed; the completion is cloned onto it by solving Poisson's equation.
"""

from __future__ import annotations

import cv2
import numpy as np

_TELEA_RADIUS_PX = 1
# seamlessClone wants room around the mask: it fixes the colours on the border of the mask's box and
# refuses, or shifts, a box that reaches beyond the image.
_PADDING_PX = 8
_SMALLEST_SIDE_PX = 3  # of a box with an inside that could be solved for


def blended(completed: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the completion with its colours fitted to the surroundings; known pixels stay.

    `completed` uint8 (H, W, 3), `mask` bool (H, W) with True in the hole. Each connected hole is
    blended for itself. OpenCV takes no gradients of the completion within 3 pixels of the border,
    so a hole less than 7 pixels wide is the destination: nothing of the completion is left in it.
    A mask over the whole image leaves no surroundings, and the completion comes back as it is.
    """
    if mask.all():
        return completed.copy()
    hole = mask.astype(np.uint8)
    hidden = np.where(mask[..., None], np.uint8(128), completed)  # it is read at the image's border
    destination = cv2.inpaint(hidden, hole, _TELEA_RADIUS_PX, cv2.INPAINT_TELEA)
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(hole, connectivity=8)
    result = completed.copy()
    for label in range(1, count):
        x, y, width, height = (int(value) for value in boxes[label][:4])
        window = (slice(y, y + height), slice(x, x + width))
        component = labels[window] == label
        if min(width, height) < _SMALLEST_SIDE_PX:
            result[window][component] = destination[window][component]
            continue
        cloned = _clone_seamlessly(completed[window], destination[window], component)
        result[window][component] = cloned[component]
    return result


def _clone_seamlessly(
    source: np.ndarray, destination: np.ndarray, component: np.ndarray
) -> np.ndarray:
    """`source` cloned onto `destination` where `component` is True; all are the box of a hole."""

    def padded(array: np.ndarray, border: int) -> np.ndarray:
        room = _PADDING_PX
        return cv2.copyMakeBorder(array, room, room, room, room, border, value=0)

    height, width = component.shape
    # With this centre the box of the mask falls onto itself.
    centre = (_PADDING_PX + width // 2, _PADDING_PX + height // 2)
    cloned = cv2.seamlessClone(
        padded(source, cv2.BORDER_REPLICATE),
        padded(destination, cv2.BORDER_REPLICATE),
        padded(component.astype(np.uint8) * 255, cv2.BORDER_CONSTANT),
        centre,
        cv2.NORMAL_CLONE,
    )
    return cloned[_PADDING_PX : _PADDING_PX + height, _PADDING_PX : _PADDING_PX + width]
