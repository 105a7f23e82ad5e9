import cv2
import numpy as np
import pytest
from skimage import data

from pipeline.inference.poisson_blending import blended


def photograph() -> np.ndarray:
    return cv2.resize(data.astronaut(), (160, 120), interpolation=cv2.INTER_AREA)


def mask_of(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((120, 160), dtype=bool)
    for x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = True
    return mask


MASKS = {
    "inside": mask_of((50, 40, 41, 36)),
    "left border": mask_of((0, 30, 30, 41)),
    "bottom right corner": mask_of((120, 79, 40, 41)),
    "whole width": mask_of((0, 50, 160, 20)),
    "two holes": mask_of((10, 10, 30, 30), (100, 60, 33, 29)),
    "a single pixel and a line": mask_of((10, 10, 1, 1), (20, 20, 60, 2)),
    "all but a pixel": ~mask_of((3, 4, 1, 1)),
}


@pytest.mark.parametrize("name", MASKS)
def test_known_pixels_are_not_touched(name: str) -> None:
    image, mask = photograph(), MASKS[name]
    result = blended(image, mask)
    assert result.dtype == np.uint8
    assert result.shape == image.shape
    assert np.array_equal(result[~mask], image[~mask])


@pytest.mark.parametrize("name", ["inside", "left border", "bottom right corner", "two holes"])
def test_a_wrong_colour_is_fitted_to_the_surroundings(name: str) -> None:
    smooth = cv2.GaussianBlur(photograph(), (0, 0), 8)
    original = (smooth * 0.6 + 50).astype(np.uint8)  # far from the limits of 8 bits
    mask = MASKS[name]
    completed = original.copy()
    completed[mask] = original[mask].astype(int) + np.array([40, -25, 30])
    before = np.abs(completed[mask].astype(int) - original[mask]).mean()
    after = np.abs(blended(completed, mask)[mask].astype(int) - original[mask]).mean()
    assert after < 0.6 * before


@pytest.mark.parametrize("side", [40, 41])
@pytest.mark.parametrize("corner", [(60, 40), (0, 30), (119, 79)])
def test_the_structure_in_the_hole_stays_where_it_was(side: int, corner: tuple[int, int]) -> None:
    x, y = corner
    image = np.full((120, 160, 3), 120, dtype=np.uint8)
    image[y + 12 : y + 20, x + 15 : x + 27] = 220
    result = blended(image, mask_of((x, y, side, side)))
    rows, columns = np.nonzero(result[..., 0] > 170)
    assert (rows.min(), rows.max()) == (y + 12, y + 19)
    assert (columns.min(), columns.max()) == (x + 15, x + 26)


def test_the_rest_of_the_photograph_does_not_matter_beyond_the_holes_surroundings() -> None:
    image, mask = photograph(), MASKS["inside"]
    other = image.copy()
    other[:, 110:] = 0
    assert np.array_equal(blended(image, mask)[mask], blended(other, mask)[mask])


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_hole_too_narrow_for_an_inside_is_filled_from_its_border(width: int) -> None:
    image = np.full((120, 160, 3), 200, dtype=np.uint8)
    mask = mask_of((20, 30, width, 60))
    image[mask] = 0
    assert np.abs(blended(image, mask).astype(int) - 200).max() <= 2  # it rounds upwards


def test_a_mask_over_the_whole_image_leaves_nothing_to_fit_the_colours_to() -> None:
    image = photograph()
    everything = np.ones(image.shape[:2], dtype=bool)
    assert np.array_equal(blended(image, everything), image)
