from __future__ import annotations

import numpy as np
import pytest

from pipeline.demo.hole import bounding_rectangles, canvas_layer, canvas_picture, painted_mask


def mask_of(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("size", [(1, 3), (5, 7), (96, 128), (333, 250), (700, 900)])
def test_a_hole_survives_being_put_on_the_canvas_and_read_from_it(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(size) < 0.3
    assert np.array_equal(painted_mask([canvas_layer(mask)], size), mask)


@pytest.mark.parametrize("size", [(5, 7), (96, 128), (700, 900)])
def test_the_layer_lies_over_the_picture(size: tuple[int, int]) -> None:
    shape = canvas_picture(np.zeros((*size, 3), dtype=np.uint8)).shape
    assert shape[:2] == canvas_layer(np.zeros(size, dtype=bool)).shape[:2]
    assert max(shape) > 320


def test_a_pixel_that_the_brush_has_touched_is_in_the_hole() -> None:
    layer = np.zeros((40, 40, 4), dtype=np.uint8)
    layer[21, 33, 3] = 1
    expected = mask_of(10, 10, (5, 8, 6, 9))
    assert np.array_equal(painted_mask([layer], (10, 10)), expected)


def test_layers_are_united_and_none_is_no_hole() -> None:
    first, second = mask_of(20, 20, (2, 2, 4, 4)), mask_of(20, 20, (10, 10, 12, 15))
    layers = [canvas_layer(first), canvas_layer(second)]
    assert np.array_equal(painted_mask(layers, (20, 20)), first | second)
    assert not painted_mask([], (20, 20)).any()


def test_every_patch_becomes_the_rectangle_around_it() -> None:
    mask = mask_of(20, 20, (2, 2, 3, 8), (2, 2, 9, 3), (15, 15, 17, 16))
    expected = mask_of(20, 20, (2, 2, 9, 8), (15, 15, 17, 16))
    assert np.array_equal(bounding_rectangles(mask), expected)
