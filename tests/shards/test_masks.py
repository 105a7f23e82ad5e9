import numpy as np
import pytest

from shards.masks import draw_masks
from shards.recipe import MaskRecipe, PackRecipe

RECIPE = PackRecipe(
    crop_size=64, masks=MaskRecipe(masks_per_image=2, holes_per_mask=3, side_min=10, side_max=20)
)


def many(recipe=RECIPE, images=1000):
    """(completion, discriminator), each (images, masks, holes, 4)."""
    drawn = [draw_masks(recipe, number) for number in range(images)]
    return tuple(np.stack(part).astype(int) for part in zip(*drawn, strict=True))


def test_holes_have_the_shape_that_the_recipe_says():
    completion, discriminator = draw_masks(RECIPE, 0)
    assert completion.shape == discriminator.shape == (2, 3, 4)
    assert completion.dtype == discriminator.dtype == np.uint16


def test_every_hole_lies_inside_the_crop():
    for holes in many():
        x, y, width, height = np.moveaxis(holes, -1, 0)
        assert min(x.min(), y.min()) == 0
        assert (x + width).max() == (y + height).max() == 64


def test_sides_are_uniform_over_the_whole_range():
    for holes in many():
        for sides in (holes[..., 2], holes[..., 3]):
            counts = np.bincount(sides.ravel(), minlength=21)
            assert counts[:10].sum() == 0
            expected = sides.size / 11
            assert abs(counts[10:] - expected).max() < 5 * np.sqrt(expected)


def test_positions_are_uniform_over_what_the_side_leaves():
    x, y, width, height = np.moveaxis(many()[0], -1, 0)
    for corner, side in ((x, width), (y, height)):
        share = (corner + 0.5) / (64 - side + 1)
        counts = np.histogram(share, bins=8, range=(0, 1))[0]
        assert abs(counts - share.size / 8).max() < 5 * np.sqrt(share.size / 8)


def test_the_parts_of_a_hole_are_independent_of_one_another():
    completion, discriminator = many()
    parts = np.concatenate([completion, discriminator], axis=-1).reshape(-1, 8)
    # A corner's range depends on its side; its share of that range does not.
    for corner in (0, 1, 4, 5):
        parts[:, corner] = parts[:, corner] * 10_000 // (64 - parts[:, corner + 2] + 1)
    correlation = np.corrcoef(parts.T) - np.eye(8)
    assert abs(correlation).max() < 5 / np.sqrt(len(parts))


def test_neighbouring_images_and_masks_are_independent():
    first = many()[0][:, 0, 0]
    second = many()[0][:, 1, 0]
    for column in range(4):
        assert abs(np.corrcoef(first[1:, column], first[:-1, column])[0, 1]) < 0.16
        assert abs(np.corrcoef(first[:, column], second[:, column])[0, 1]) < 0.16


def test_masks_depend_on_seed_and_image_number_alone():
    assert np.array_equal(draw_masks(RECIPE, 5)[0], draw_masks(RECIPE, 5)[0])
    assert not np.array_equal(draw_masks(RECIPE, 5)[0], draw_masks(RECIPE, 6)[0])
    reseeded = PackRecipe(crop_size=64, seed=1, masks=RECIPE.masks)
    assert not np.array_equal(draw_masks(RECIPE, 5)[0], draw_masks(reseeded, 5)[0])


@pytest.mark.parametrize("side", [1, 64])
def test_the_smallest_and_the_largest_hole_are_possible(side):
    recipe = PackRecipe(crop_size=64, masks=MaskRecipe(side_min=side, side_max=side))
    x, y, width, height = np.moveaxis(many(recipe, images=300)[0], -1, 0)
    assert set(width.ravel()) == set(height.ravel()) == {side}
    assert x.max() == y.max() == 64 - side or side == 1
    assert (x + width).max() <= 64


def test_masks_stay_the_same_between_releases():
    recipe = PackRecipe(crop_size=128, masks=MaskRecipe(side_min=48, side_max=64))
    completion, discriminator = draw_masks(recipe, 12)
    assert completion.tolist() == [[[28, 39, 61, 60]]]
    assert discriminator.tolist() == [[[7, 50, 51, 57]]]
