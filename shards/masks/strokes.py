"""Free-form holes: strokes of a round brush, the recipe of LaMa (Suvorov et al. 2022) in our terms.

Its three kinds of evaluation masks are in `shards.masks.presets`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from shards.format.recipe import PackRecipe, StrokeRecipe
from shards.keyed_random import uniform

ATTEMPTS = 32  # at a mask whose area is in the range asked for; then the nearest is taken
_SHARPEST_TURN = 0.75 * math.pi  # between two segments, to either side


def draw_strokes(
    recipe: PackRecipe, purpose: str, number: int, mask_numbers: Sequence[int]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """M masks: bounding boxes of the holes, and the masks themselves.

    uint16 (M, H, 4): x, y, width, height; M of bool (S, S). Where `area_max` asks for a range of
    areas, a mask outside it is drawn again, up to ATTEMPTS times; if all miss, the one that missed
    by least is taken.
    """
    masks = [_draw_mask(recipe, purpose, number, mask_number) for mask_number in mask_numbers]
    holes, pixels = zip(*masks, strict=True)
    return np.stack(holes), list(pixels)


def _draw_mask(
    recipe: PackRecipe, purpose: str, number: int, mask_number: int
) -> tuple[np.ndarray, np.ndarray]:
    least, nearest = math.inf, None
    for attempt in range(ATTEMPTS if recipe.masks.area_max else 1):
        indices = (number, mask_number, attempt)
        shares = uniform(recipe.seed, purpose, *indices, count=_num_shares(recipe))
        drawn = _holes_of_mask(recipe, shares.reshape(recipe.masks.holes_per_mask, -1))
        missed = _missed_by(recipe, drawn[1])
        if missed < least:
            least, nearest = missed, drawn
        if missed == 0:
            break
    assert nearest is not None
    return nearest


def _missed_by(recipe: PackRecipe, pixels: np.ndarray) -> float:
    """How far the mask's share of the crop is from the range asked for; 0: inside."""
    masks = recipe.masks
    if not masks.area_max:
        return 0.0
    share = float(pixels.mean())
    return max(masks.area_min - share, share - masks.area_max, 0.0)


def _num_shares(recipe: PackRecipe) -> int:
    """Numbers for one mask. Each hole has all that it could need, so that every one has a place."""
    strokes = recipe.masks.strokes
    hole = 1 + strokes.strokes_max * _shares_of_stroke(strokes) + 2 + 4 * strokes.boxes_max
    return recipe.masks.holes_per_mask * hole


def _shares_of_stroke(strokes: StrokeRecipe) -> int:
    return 4 + 2 * strokes.segments_max  # width, start, number of segments; turn and length of each


def _holes_of_mask(recipe: PackRecipe, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, 4) bounding boxes, and their holes' union (S, S)."""
    size, margin = recipe.crop_size, recipe.masks.margin
    pixels = np.zeros((size, size), dtype=bool)
    inside = pixels[margin : size - margin, margin : size - margin]
    boxes = []
    for shares_of_hole in shares:
        hole = _draw_hole(recipe, shares_of_hole, inside.shape[0])
        x, y, width, height = cv2.boundingRect(hole)
        boxes.append((margin + x, margin + y, width, height))
        inside |= hole.astype(bool)
    return np.array(boxes, dtype=np.uint16), pixels


def _draw_hole(recipe: PackRecipe, shares: np.ndarray, side: int) -> np.ndarray:
    """uint8 (side, side), 255 in the hole. What leaves the canvas is cut off: so margins hold."""
    strokes = recipe.masks.strokes
    canvas = np.zeros((side, side), dtype=np.uint8)
    of_stroke = _shares_of_stroke(strokes)
    end = 1 + strokes.strokes_max * of_stroke
    count = _between(strokes.strokes_min, strokes.strokes_max, shares[0])
    for shares_of_stroke in shares[1:end].reshape(-1, of_stroke)[:count]:
        _draw_stroke(canvas, strokes, shares_of_stroke.tolist())
    if strokes.boxes_max and shares[end] < strokes.boxes_probability:
        num_boxes = _between(1, strokes.boxes_max, shares[end + 1])
        for shares_of_box in shares[end + 2 :].reshape(-1, 4)[:num_boxes]:
            _draw_box(canvas, recipe, shares_of_box.tolist())
    return canvas


def _draw_stroke(canvas: np.ndarray, recipe: StrokeRecipe, shares: list[float]) -> None:
    """A walk that begins anywhere; its points, not its whole width, stay on the canvas."""
    side = canvas.shape[0]
    width = _between(recipe.width_min, recipe.width_max, shares[0])
    # OpenCV's round brushes are of odd widths, and of one more than the even number it is told.
    thickness = max(1, (width - 1) // 2 * 2)
    x, y = int(shares[1] * side), int(shares[2] * side)
    heading = 0.0
    for segment in range(_between(1, recipe.segments_max, shares[3])):
        turn, length = shares[4 + 2 * segment : 6 + 2 * segment]
        heading += (2 * turn - 1) * (_SHARPEST_TURN if segment else math.pi)
        pixels = _between(recipe.length_min, recipe.length_max, length)
        next_x = min(max(round(x + pixels * math.cos(heading)), 0), side - 1)
        next_y = min(max(round(y + pixels * math.sin(heading)), 0), side - 1)
        cv2.line(canvas, (x, y), (next_x, next_y), 255, thickness)  # with round ends
        x, y = next_x, next_y


def _draw_box(canvas: np.ndarray, recipe: PackRecipe, shares: list[float]) -> None:
    side, masks = canvas.shape[0], recipe.masks
    width = _between(masks.side_min, masks.side_max, shares[2])
    height = _between(masks.side_min, masks.side_max, shares[3])
    x, y = int(shares[0] * (side - width + 1)), int(shares[1] * (side - height + 1))
    canvas[y : y + height, x : x + width] = 255


def _between(low: int, high: int, share: float) -> int:
    """Uniform in [low, high] for a uniform share in [0, 1)."""
    return low + int(share * (high - low + 1))
