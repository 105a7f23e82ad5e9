from __future__ import annotations

import numpy as np
import pytest

from pipeline.demo.hole import bounding_rectangles, canvas_factor, canvas_picture, painted_mask


def mask_of(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def painted(mask: np.ndarray) -> np.ndarray:
    """A layer of the canvas where just the mask's pixels were painted."""
    factor = canvas_factor((mask.shape[0], mask.shape[1]))
    layer = np.zeros((mask.shape[0] * factor, mask.shape[1] * factor, 4), dtype=np.uint8)
    layer[mask.repeat(factor, axis=0).repeat(factor, axis=1)] = (226, 62, 87, 190)
    return layer


@pytest.mark.parametrize("size", [(1, 3), (5, 7), (96, 128), (333, 250), (700, 900)])
def test_what_is_painted_is_the_hole_to_the_pixel(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(size) < 0.3
    assert np.array_equal(painted_mask([painted(mask)], size), mask)


@pytest.mark.parametrize("size", [(5, 7), (96, 128), (700, 900)])
def test_the_canvas_is_large_enough_to_paint_on(size: tuple[int, int]) -> None:
    assert max(canvas_picture(np.zeros((*size, 3), dtype=np.uint8)).shape) > 320


def test_a_hole_that_is_there_already_is_inked_and_the_rest_is_the_picture() -> None:
    rgb = np.full((20, 30, 3), 100, dtype=np.uint8)
    mask = mask_of(20, 30, (2, 3, 8, 9))
    canvas = canvas_picture(rgb, mask)
    assert np.array_equal((canvas != 100).all(axis=2), painted(mask)[..., 3] > 0)
    assert (rgb == 100).all(), "the picture itself was painted on"


def test_a_pixel_that_the_brush_has_touched_is_in_the_hole() -> None:
    layer = np.zeros((40, 40, 4), dtype=np.uint8)
    layer[21, 33, 3] = 1
    expected = mask_of(10, 10, (5, 8, 6, 9))
    assert np.array_equal(painted_mask([layer], (10, 10)), expected)


def test_layers_are_united_and_none_is_no_hole() -> None:
    first, second = mask_of(20, 20, (2, 2, 4, 4)), mask_of(20, 20, (10, 10, 12, 15))
    layers = [painted(first), painted(second)]
    assert np.array_equal(painted_mask(layers, (20, 20)), first | second)
    assert not painted_mask([], (20, 20)).any()


def test_every_patch_becomes_the_rectangle_around_it() -> None:
    mask = mask_of(20, 20, (2, 2, 3, 8), (2, 2, 9, 3), (15, 15, 17, 16))
    expected = mask_of(20, 20, (2, 2, 9, 8), (15, 15, 17, 16))
    assert np.array_equal(bounding_rectangles(mask), expected)
