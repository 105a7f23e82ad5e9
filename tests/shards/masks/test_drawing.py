import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from shards.format.recipe import MaskRecipe, PackRecipe
from shards.masks.drawing import decode_masks, draw_masks, encode_masks

RECIPE = PackRecipe(
    crop_size=64, masks=MaskRecipe(masks_per_image=2, holes_per_mask=3, side_min=10, side_max=20)
)


def many(recipe=RECIPE, images=1000):
    """(completion, discriminator), each (images, masks, holes, 4)."""
    drawn = [draw_masks(recipe, number) for number in range(images)]
    return (
        np.stack([masks.completion_holes for masks in drawn]).astype(int),
        np.stack([masks.discriminator_holes for masks in drawn]).astype(int),
    )


def by_area(area_min, area_max, aspect_max=1.0, margin=0, size=64):
    masks = MaskRecipe(area_min=area_min, area_max=area_max, aspect_max=aspect_max, margin=margin)
    return PackRecipe(crop_size=size, masks=masks)


def test_holes_have_the_shape_that_the_recipe_says():
    drawn = draw_masks(RECIPE, 0)
    completion, discriminator = drawn.completion_holes, drawn.discriminator_holes
    assert drawn.pixels is None
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
    first = draw_masks(RECIPE, 5).completion_holes
    assert np.array_equal(first, draw_masks(RECIPE, 5).completion_holes)
    assert not np.array_equal(first, draw_masks(RECIPE, 6).completion_holes)
    assert not np.array_equal(first, draw_masks(replace(RECIPE, seed=1), 5).completion_holes)


@pytest.mark.parametrize("side", [1, 64])
def test_the_smallest_and_the_largest_hole_are_possible(side):
    recipe = PackRecipe(crop_size=64, masks=MaskRecipe(side_min=side, side_max=side))
    x, y, width, height = np.moveaxis(many(recipe, images=300)[0], -1, 0)
    assert set(width.ravel()) == set(height.ravel()) == {side}
    assert x.max() == y.max() == 64 - side or side == 1
    assert (x + width).max() <= 64


def test_masks_stay_the_same_between_releases():
    recipe = PackRecipe(crop_size=128, masks=MaskRecipe(side_min=48, side_max=64))
    drawn = draw_masks(recipe, 12)
    assert drawn.completion_holes.tolist() == [[[28, 39, 61, 60]]]
    assert drawn.discriminator_holes.tolist() == [[[7, 50, 51, 57]]]


def test_a_margin_keeps_holes_from_the_border_and_uses_all_that_it_leaves():
    recipe = replace(RECIPE, masks=replace(RECIPE.masks, margin=7))
    for holes in many(recipe):
        x, y, width, height = np.moveaxis(holes, -1, 0)
        assert min(x.min(), y.min()) == 7
        assert (x + width).max() == (y + height).max() == 57


@pytest.mark.parametrize("aspect_max", [1.0, 3.0])
def test_areas_are_uniform_over_the_range_to_the_rounding_of_a_side(aspect_max):
    holes = many(by_area(0.1, 0.3, aspect_max), images=2000)[0].reshape(-1, 4)
    areas, slack = holes[:, 2] * holes[:, 3], holes[:, 2:].min(axis=1) / 2
    assert (areas >= 0.1 * 64**2 - slack).all()
    assert (areas <= 0.3 * 64**2 + slack).all()
    counts = np.histogram(areas / 64**2, bins=4, range=(0.1, 0.3))[0]
    assert abs(counts - counts.sum() / 4).max() < 5 * np.sqrt(counts.sum() / 4)


def test_aspects_are_uniform_in_their_logarithm_and_lie_and_stand_as_often():
    holes = many(by_area(0.05, 0.1, 4.0, size=256), images=2000)[0].reshape(-1, 4)
    logarithm = np.log(holes[:, 2] / holes[:, 3]) / np.log(4)
    assert abs(logarithm).max() < 1.03
    counts = np.histogram(logarithm, bins=6, range=(-1, 1))[0]
    assert abs(counts - len(holes) / 6).max() < 5 * np.sqrt(len(holes) / 6)


@pytest.mark.parametrize(("area", "margin"), [(1.0, 0), (0.25, 16), (0.24, 16)])
def test_an_aspect_gives_way_where_the_longer_side_would_not_fit(area, margin):
    holes = many(by_area(area, area, 8.0, margin), images=200)[0].reshape(-1, 4)
    assert (abs(holes[:, 2] * holes[:, 3] - area * 64**2) <= holes[:, 2:].min(axis=1) / 2).all()
    assert holes[:, :2].min() == margin
    assert (holes[:, :2] + holes[:, 2:]).max() == 64 - margin


def test_a_hole_of_almost_no_area_is_a_pixel():
    holes = many(by_area(0.0, 1e-9), images=20)[0]
    assert (holes[..., 2:] == 1).all()


@pytest.mark.parametrize("size", [16, 20, 64])
def test_masks_are_stored_as_a_png_that_anyone_can_read(size):
    pixels = np.random.default_rng(size).random((3, size, size)) < 0.4
    data = encode_masks(pixels)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "1"
        assert np.array_equal(np.asarray(image), pixels.reshape(3 * size, size))
    decoded = decode_masks(memoryview(data), 3, size)
    assert decoded.dtype == bool
    assert np.array_equal(decoded, pixels)


def test_masks_of_another_number_or_size_are_refused():
    data = encode_masks(np.zeros((2, 16, 16), bool))
    for count, size in ((1, 16), (2, 20), (1, 32)):
        with pytest.raises(ValueError, match=f"for {count} masks of {size} x {size} pixels"):
            decode_masks(data, count, size)


def test_every_damaged_byte_of_a_masks_picture_is_noticed():
    data = encode_masks(np.random.default_rng(0).random((1, 16, 16)) < 0.5)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 16
        with pytest.raises(ValueError, match="1-bit PNG"):
            decode_masks(bytes(damaged), 1, 16)
    for length in range(len(data)):
        with pytest.raises(ValueError, match="1-bit PNG"):
            decode_masks(data[:length], 1, 16)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (bytes(10**7), "too many or too few pixels"),
        (bytes(3 * 15), "too many or too few pixels"),
        (b"\1\0\0" * 16, "its rows are filtered"),
    ],
)
def test_a_picture_that_unpacks_to_something_else_is_refused(rows, reason):
    data = encode_masks(np.zeros((1, 16, 16), bool))
    content = zlib.compress(rows)
    checksum = struct.pack(">I", zlib.crc32(b"IDAT" + content))
    chunk = struct.pack(">I", len(content)) + b"IDAT" + content + checksum
    with pytest.raises(ValueError, match=reason):
        decode_masks(data[:33] + chunk + data[-12:], 1, 16)
