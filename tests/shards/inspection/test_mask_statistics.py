import numpy as np
import pytest

from shards.format.recipe import MaskRecipe, PackRecipe, StrokeRecipe
from shards.inspection.mask_statistics import (
    MaskStatistics,
    draw_statistics,
    measure_masks,
    statistics_lines,
)
from shards.masks.drawing import draw_masks
from shards.packing.pack import pack_images
from tests.shards.pictures import write_class_folders

RECTANGLES = MaskRecipe(masks_per_image=2, holes_per_mask=3, side_min=4, side_max=10)
STROKES = MaskRecipe(
    kind="strokes", masks_per_image=2, holes_per_mask=2, strokes=StrokeRecipe(1, 2, 3, 3, 12, 2, 6)
)


def packed(folder, masks):
    source = write_class_folders(folder / "source")
    recipe = PackRecipe(crop_size=32, short_side=48, images_per_shard=4, masks=masks)
    pack_images(source, str(folder / "set"), recipe, workers=1)
    return folder / "set", recipe


def expected(recipe, numbers):
    """Masks, (N, S, S), and the sides of their holes, drawn anew."""
    pixels, sides = [], []
    for number in numbers:
        drawn = draw_masks(recipe, number)
        for index, holes in enumerate(drawn.completion_holes):
            sides.append(holes[:, 2:])
            mask = np.zeros((32, 32), bool)
            for x, y, width, height in holes.tolist():
                mask[y : y + height, x : x + width] = True
            pixels.append(mask if drawn.pixels is None else drawn.pixels[index])
    return np.array(pixels), np.concatenate(sides)


@pytest.mark.parametrize("masks", [RECTANGLES, STROKES], ids=["rectangles", "strokes"])
def test_the_statistics_are_those_of_the_masks(tmp_path, masks):
    url, recipe = packed(tmp_path, masks)
    statistics = measure_masks(str(url))
    pixels, sides = expected(recipe, range(11))
    assert np.allclose(statistics.areas, pixels.mean(axis=(1, 2)))
    assert np.allclose(statistics.missing, pixels.mean(axis=0))
    assert np.array_equal(statistics.sides, sides)


def test_of_rectangles_no_shard_is_opened(tmp_path):
    url, recipe = packed(tmp_path, RECTANGLES)
    for shard in url.glob("*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    pixels, _ = expected(recipe, range(11))
    assert np.allclose(measure_masks(str(url)).missing, pixels.mean(axis=0))


def test_samples_are_spread_over_the_split_or_lie_in_one_shard(tmp_path):
    url, recipe = packed(tmp_path, RECTANGLES)
    few = measure_masks(str(url), count=2)
    pixels, _ = expected(recipe, [0, 10])
    assert np.allclose(few.areas, pixels[[0, 3]].mean(axis=(1, 2)))
    pixels, _ = expected(recipe, range(4, 8))
    in_shard = measure_masks(str(url), shard="train-000001")
    assert np.allclose(in_shard.areas, pixels.mean(axis=(1, 2)))


def test_a_missing_shard_or_count_is_refused(tmp_path):
    url, _ = packed(tmp_path, RECTANGLES)
    with pytest.raises(ValueError, match=r"no shard train-000009\.tar"):
        measure_masks(str(url), shard="train-000009")
    with pytest.raises(ValueError, match="cannot draw 0 samples"):
        measure_masks(str(url), count=0)


def test_holes_that_touch_count_as_one_region(tmp_path):
    whole = MaskRecipe(holes_per_mask=3, side_min=32, side_max=32)
    url, _ = packed(tmp_path, whole)
    statistics = measure_masks(str(url))
    assert set(statistics.regions.tolist()) == {1}
    assert set(statistics.areas.tolist()) == {1.0}


SIMPLE = MaskStatistics(
    areas=np.array([0.1, 0.2, 0.3]),
    regions=np.array([1, 1, 2]),
    sides=np.array([[3, 5], [4, 5], [5, 5]], np.uint16),
    missing=np.linspace(0, 0.5, 64).reshape(8, 8),
)


def test_the_figures_are_means_and_percentiles():
    lines = statistics_lines(SIMPLE)
    assert lines[0].split()[:3] == ["3", "masks", "mean"]
    rows = {line[:30].strip(): line[30:].split() for line in lines}
    assert rows["missing share of the crop, %"] == ["20.0", "11.0", "15.0", "20.0", "25.0", "29.0"]
    assert rows["width of a hole, pixels"][:1] == ["4.0"]
    assert rows["height of a hole, pixels"] == ["5.0"] * 6
    assert lines[-1].startswith("a pixel is missing in 0.0 % to 50.0 %")


def test_the_picture_has_a_panel_for_each_distribution(tmp_path):
    figure = draw_statistics(SIMPLE, "a set")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:4] == ["Area", "Place: how often a pixel is missing, %", "Number", "Sides"]
    assert np.allclose(figure.axes[1].images[0].get_array(), 100 * SIMPLE.missing)
    assert [bar.get_height() for bar in figure.axes[2].patches] == [2, 1]
    figure.savefig(tmp_path / "masks.png")
    assert (tmp_path / "masks.png").stat().st_size > 10_000
