import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from shards.images.resizing import shrink, whole_reduction

PHOTOGRAPHS = {
    name: getattr(data, name)()[..., :3] for name in ("astronaut", "coffee", "chelsea", "rocket")
}


def bicubic(pixels, width, height):
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def psnr(pixels, expected):
    error = ((pixels.astype(float) - expected) ** 2).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


def size_at(pixels, scale):
    return round(pixels.shape[1] / scale), round(pixels.shape[0] / scale)


@pytest.mark.parametrize("scale", [1.02, 1.2, 1.465, 1.7, 2, 2.4, 2.9, 3.5, 4, 5, 6.5])
def test_photographs_come_out_as_from_pillows_bicubic(scale):
    values = []
    for pixels in PHOTOGRAPHS.values():
        size = size_at(pixels, scale)
        values.append(psnr(shrink(pixels, *size), bicubic(pixels, *size)))
    assert np.median(values) > 42
    assert min(values) > 36


@pytest.mark.parametrize("scale", [1.2, 1.465, 1.9])
def test_photographs_are_nearer_to_bicubic_than_an_area_average(scale):
    for pixels in PHOTOGRAPHS.values():
        size = size_at(pixels, scale)
        area = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        assert psnr(shrink(pixels, *size), bicubic(pixels, *size)) > 3 + psnr(
            area, bicubic(pixels, *size)
        )


def test_what_has_its_size_already_is_not_touched():
    pixels = PHOTOGRAPHS["chelsea"]
    assert shrink(pixels, pixels.shape[1], pixels.shape[0]) is pixels


def test_a_flat_picture_stays_flat_to_its_border():
    for scale in (1.1, 2, 3.3, 9):
        pixels = np.full((301, 403, 3), (3, 128, 255), np.uint8)
        assert (shrink(pixels, *size_at(pixels, scale)) == (3, 128, 255)).all()


@pytest.mark.parametrize("scale", [1.5, 2.5, 4, 11])
def test_the_picture_is_neither_moved_nor_stretched(scale):
    row = np.linspace(20, 235, 451).round().astype(np.uint8)
    pixels = np.repeat(np.broadcast_to(row, (353, 451))[..., None], 3, axis=2).copy()
    for turned in (pixels, np.ascontiguousarray(pixels.transpose(1, 0, 2))):
        size = size_at(turned, scale)
        difference = shrink(turned, *size).astype(int) - bicubic(turned, *size)
        assert abs(difference[3:-3, 3:-3]).max() <= 1


def test_an_extent_places_a_picture_that_ends_within_its_last_pixel():
    pixels = PHOTOGRAPHS["astronaut"][:501, :499]
    padded = cv2.copyMakeBorder(pixels, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
    half = cv2.resize(padded, (250, 251), interpolation=cv2.INTER_AREA)
    expected = bicubic(pixels, 124, 125)
    placed = shrink(half, 124, 125, extent=(249.5, 250.5))
    assert placed.shape == (125, 124, 3)
    assert psnr(placed, expected) > 3 + psnr(shrink(half, 124, 125), expected)


def test_sizes_that_are_just_under_a_rounding_come_out_as_asked():
    pixels = PHOTOGRAPHS["chelsea"][:300, :401]
    for width in range(100, 400, 7):
        for extent in (401.0, 400.5, 400.01):
            assert shrink(pixels, width, 220, extent=(extent, 300.0)).shape == (220, width, 3)


def test_a_reduction_by_whole_pixels_leaves_enough_to_be_sharp():
    for scale in np.linspace(1, 40, 300):
        factor = whole_reduction(scale)
        assert factor == 1 or scale / factor >= 1.6
        assert scale / factor < 3.2
