from dataclasses import replace

import cv2
import numpy as np
import pytest

from shards.format.recipe import MaskRecipe, PackRecipe, StrokeRecipe, recipe_errors
from shards.masks.drawing import draw_masks

RECIPE = PackRecipe(
    crop_size=64,
    masks=MaskRecipe(
        kind="strokes",
        masks_per_image=2,
        holes_per_mask=3,
        strokes=StrokeRecipe(1, 3, 4, 5, 20, 3, 8),
    ),
)
KINDS = {
    "thin": MaskRecipe(kind="strokes", area_max=0.5, strokes=StrokeRecipe(4, 50, 5, 10, 40, 1, 10)),
    "medium": MaskRecipe(
        kind="strokes",
        area_max=0.5,
        side_min=10,
        side_max=50,
        strokes=StrokeRecipe(4, 5, 5, 10, 100, 5, 50, boxes_max=5, boxes_probability=0.5),
    ),
    "thick": MaskRecipe(
        kind="strokes",
        area_max=0.5,
        side_min=30,
        side_max=150,
        strokes=StrokeRecipe(1, 5, 5, 10, 200, 5, 100, boxes_max=3, boxes_probability=0.3),
    ),
}


def changed(recipe=RECIPE, strokes=None, **changes):
    if strokes:
        changes["strokes"] = replace(recipe.masks.strokes, **strokes)
    return replace(recipe, masks=replace(recipe.masks, **changes))


def one_hole(**strokes):
    return changed(masks_per_image=1, holes_per_mask=1, strokes=strokes)


def bounds(mask):
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return [x, y, width, height]


def test_masks_and_boxes_have_the_shape_that_the_recipe_says():
    drawn = draw_masks(RECIPE, 0)
    assert drawn.pixels.shape == (2, 64, 64)
    assert drawn.pixels.dtype == bool
    assert drawn.completion_holes.shape == drawn.discriminator_holes.shape == (2, 3, 4)
    assert drawn.completion_holes.dtype == drawn.discriminator_holes.dtype == np.uint16


def test_a_single_holes_rectangle_is_the_box_around_it():
    for number in range(100):
        drawn = draw_masks(one_hole(), number)
        assert drawn.completion_holes[0, 0].tolist() == bounds(drawn.pixels[0])


def test_the_rectangles_of_several_holes_cover_the_mask_and_no_more():
    for number in range(50):
        drawn = draw_masks(RECIPE, number)
        for holes, pixels in zip(drawn.completion_holes, drawn.pixels, strict=True):
            corners = np.concatenate([holes[:, :2], holes[:, :2] + holes[:, 2:]], axis=1)
            covered = np.zeros_like(pixels)
            for left, top, right, bottom in corners.tolist():
                covered[top:bottom, left:right] = True
            assert not (pixels & ~covered).any()
            low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
            assert bounds(pixels) == [*low, *(high - low)]


def test_the_discriminators_regions_are_drawn_independently():
    drawn = [draw_masks(one_hole(), number) for number in range(400)]
    completion = np.array([masks.completion_holes[0, 0] for masks in drawn], float)
    discriminator = np.array([masks.discriminator_holes[0, 0] for masks in drawn], float)
    correlation = np.corrcoef(completion.T, discriminator.T)[:4, 4:]
    assert abs(correlation).max() < 5 / np.sqrt(400)
    assert abs(completion.mean(axis=0) - discriminator.mean(axis=0)).max() < 4


def test_strokes_depend_on_seed_and_image_number_alone():
    first = draw_masks(RECIPE, 5).pixels
    assert np.array_equal(first, draw_masks(RECIPE, 5).pixels)
    assert not np.array_equal(first, draw_masks(RECIPE, 6).pixels)
    assert not np.array_equal(first, draw_masks(replace(RECIPE, seed=1), 5).pixels)
    assert not np.array_equal(first[0], first[1])


def test_no_hole_is_empty_and_none_passes_the_margin():
    recipe = changed(margin=20, strokes={"length_max": 200})
    for number in range(100):
        drawn = draw_masks(recipe, number)
        assert (drawn.completion_holes[..., 2:] > 0).all()
        assert (drawn.discriminator_holes[..., 2:] > 0).all()
        outside = drawn.pixels.copy()
        outside[:, 20:44, 20:44] = False
        assert not outside.any()


def test_a_stroke_is_as_wide_as_its_brush():
    recipe = one_hole(
        strokes_max=1, segments_max=1, length_min=30, length_max=30, width_min=9, width_max=9
    )
    widths = []
    for number in range(100):
        mask = draw_masks(recipe, number).pixels[0]
        if not (mask[[0, -1]].any() or mask[:, [0, -1]].any()):  # else the border cuts it
            image = mask.astype(np.uint8)
            # Between pixels' centres: how far its middle is from what is not missing.
            middle = cv2.distanceTransform(image, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max()
            widths.append(2 * middle - 1)
    assert len(widths) > 10
    assert 7 < min(widths) <= max(widths) < 10


def test_the_number_of_strokes_grows_with_its_range():
    few = [draw_masks(one_hole(strokes_max=1), number).pixels.mean() for number in range(100)]
    many = one_hole(strokes_min=9, strokes_max=9)
    assert np.mean([draw_masks(many, n).pixels.mean() for n in range(100)]) > 2 * np.mean(few)


def test_boxes_are_drawn_as_often_as_they_are_asked_for():
    plain = one_hole(width_min=1, width_max=1, length_max=5)
    boxed = changed(
        plain, side_min=30, side_max=30, strokes={"boxes_max": 1, "boxes_probability": 0.3}
    )
    areas = [draw_masks(boxed, number).pixels.sum() for number in range(500)]
    share = np.mean(np.array(areas) >= 30 * 30)
    assert 0.3 - 5 * np.sqrt(0.21 / 500) < share < 0.3 + 5 * np.sqrt(0.21 / 500)
    assert max(draw_masks(plain, number).pixels.sum() for number in range(500)) < 30 * 30


@pytest.mark.parametrize(("area_min", "area_max"), [(0.2, 0.4), (0.0, 0.2)])
def test_a_mask_outside_the_range_of_areas_is_drawn_again(area_min, area_max):
    free = [draw_masks(RECIPE, n).pixels.mean(axis=(1, 2)) for n in range(100)]
    assert ((np.array(free) < area_min) | (np.array(free) > area_max)).any()
    recipe = changed(area_min=area_min, area_max=area_max)
    shares = np.array([draw_masks(recipe, n).pixels.mean(axis=(1, 2)) for n in range(100)])
    assert shares.min() >= area_min
    assert shares.max() <= area_max


def test_of_masks_that_all_miss_the_range_the_nearest_is_taken():
    unreachable = changed(one_hole(), area_min=0.999, area_max=1.0)
    nearest = [draw_masks(unreachable, n).pixels.mean() for n in range(30)]
    first = [draw_masks(one_hole(), n).pixels.mean() for n in range(30)]
    assert (np.array(nearest) >= np.array(first)).all()
    assert np.mean(nearest) > 1.5 * np.mean(first)


def test_strokes_stay_the_same_between_releases():
    drawn = draw_masks(one_hole(), 12)
    assert drawn.completion_holes.tolist() == [[[11, 16, 22, 21]]]
    assert drawn.discriminator_holes.tolist() == [[[10, 22, 54, 42]]]
    assert int(drawn.pixels.sum()) == 111


@pytest.mark.parametrize("kind", KINDS)
def test_the_three_kinds_of_lama_take_away_at_most_half(kind):
    recipe = PackRecipe(masks=KINDS[kind])
    assert recipe_errors(recipe) == []
    shares = np.array([draw_masks(recipe, number).pixels.mean() for number in range(60)])
    assert shares.max() <= 0.5
    assert 0.1 < shares.mean() < 0.4
