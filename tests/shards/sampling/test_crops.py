from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
import simplejpeg

from shards.sampling.crops import CropBox, CropRecipe, crop_box, decode_crop
from tests.shards.pictures import picture


def recipe(low: int = 32, high: int = 48, flip: bool = True, seed: int = 0) -> CropRecipe:
    return CropRecipe(32, low, high, flip, seed)


def encode(pixels: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 95)


def cut(jpeg: bytes, box: CropBox, size: int = 32) -> np.ndarray:
    out = np.full((size, size, 3), 77, dtype=np.uint8)
    height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
    decode_crop(jpeg, box, width, height, out)
    return out


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def test_boxes_lie_inside_the_image_and_cover_all_of_it() -> None:
    boxes = [crop_box(recipe(), epoch, n, 80, 48) for epoch in range(5) for n in range(2000)]
    assert all(box.x >= 0 and box.x + box.side <= 80 for box in boxes)
    assert all(box.y >= 0 and box.y + box.side <= 48 for box in boxes)
    assert {box.x for box in boxes} >= {0, 48}
    assert {box.y for box in boxes} >= {0, 16}
    assert 0.48 < sum(box.flip for box in boxes) / len(boxes) < 0.52


def test_short_sides_are_drawn_evenly_between_the_limits() -> None:
    boxes = [crop_box(recipe(32, 35), 0, n, 320, 320) for n in range(8000)]
    sides = Counter(box.side for box in boxes)
    assert sorted(sides) == [round(32 * 320 / target) for target in (35, 34, 33, 32)]
    assert min(sides.values()) > 1800


def test_a_crop_depends_on_seed_epoch_and_sample_only() -> None:
    box = crop_box(recipe(seed=4), 2, 9, 80, 60)
    assert box == crop_box(recipe(seed=4), 2, 9, 80, 60)
    others = [(recipe(seed=5), 2, 9), (recipe(seed=4), 3, 9), (recipe(seed=4), 2, 10)]
    assert all(crop_box(*other, 80, 60) != box for other in others)


def test_without_the_flip_nothing_is_mirrored() -> None:
    assert not any(crop_box(recipe(flip=False), 0, n, 80, 60).flip for n in range(100))


def test_an_image_smaller_than_the_crop_is_enlarged_whole() -> None:
    box = crop_box(recipe(32, 32, flip=False), 0, 1, 20, 20)
    assert box == CropBox(0, 0, 20, False)
    pixels = picture((20, 20))
    assert distance(cut(encode(pixels), box), cv2.resize(pixels, (32, 32))) < 6


def test_where_no_scaling_is_asked_for_pixels_are_copied_unchanged() -> None:
    jpeg = encode(picture((60, 50)))
    stored = simplejpeg.decode_jpeg(jpeg)
    box = crop_box(recipe(50, 50, flip=False), 0, 3, 60, 50)
    assert box.side == 32
    expected = stored[box.y : box.y + 32, box.x : box.x + 32]
    assert np.array_equal(cut(jpeg, box), expected)
    mirrored = CropBox(box.x, box.y, box.side, flip=True)
    assert np.array_equal(cut(jpeg, mirrored), expected[:, ::-1])


@pytest.mark.parametrize("flip", [False, True])
def test_an_image_of_the_crops_size_is_decoded_as_it_is(flip: bool) -> None:
    jpeg = encode(picture((32, 32)))
    stored = simplejpeg.decode_jpeg(jpeg)
    expected = stored[:, ::-1] if flip else stored
    assert np.array_equal(cut(jpeg, CropBox(0, 0, 32, flip)), expected)


@pytest.mark.parametrize("flip", [False, True])
def test_resizing_the_region_equals_cropping_the_resized_image(flip: bool) -> None:
    jpeg = encode(picture((192, 128), seed=3))
    whole = cv2.resize(simplejpeg.decode_jpeg(jpeg), (96, 64), interpolation=cv2.INTER_AREA)
    expected = whole[10:42, 20:52]
    box = CropBox(x=40, y=20, side=64, flip=flip)
    assert np.array_equal(cut(jpeg, box), expected[:, ::-1] if flip else expected)


def test_shrinking_shows_no_aliasing() -> None:
    stripes = np.zeros((96, 96, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    shrunken = cut(encode(stripes), CropBox(0, 0, 96, False))
    assert np.ptp(shrunken.astype(int)) < 100
    assert abs(shrunken.mean() - 127.5) < 8


def test_a_smaller_image_after_a_larger_one_is_not_mixed_with_it() -> None:
    small = encode(picture((40, 40), seed=1))
    box = CropBox(0, 0, 40, True)
    alone = cut(small, box)
    cut(encode(picture((200, 150), seed=2)), CropBox(0, 0, 150, True))
    assert np.array_equal(cut(small, box), alone)


def test_a_broken_jpeg_is_refused() -> None:
    jpeg = encode(picture((60, 50)))
    box = CropBox(0, 0, 50, False)
    with pytest.raises(ValueError):  # noqa: PT011 - the decoder's own words
        cut(jpeg[:100], box)
    with pytest.raises(ValueError):  # noqa: PT011
        cut(jpeg[: len(jpeg) // 2], box)


def test_an_image_of_another_size_than_the_index_says_is_refused() -> None:
    out = np.empty((32, 32, 3), dtype=np.uint8)
    for width, height in ((60, 51), (61, 50), (32, 32), (6000, 5000)):
        with pytest.raises(ValueError, match="60 x 50 pixels, not"):
            decode_crop(encode(picture((60, 50))), CropBox(0, 0, 32, False), width, height, out)


def test_an_image_that_is_always_taken_whole_needs_no_draw() -> None:
    trivial = recipe(32, 32, flip=False)
    assert {crop_box(trivial, 0, n, 32, 32) for n in range(50)} == {CropBox(0, 0, 32, False)}
    assert len({crop_box(trivial, 0, n, 40, 32) for n in range(50)}) > 4
