import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from shards.format.recipe import MaskRecipe, PackRecipe, StrokeRecipe, recipe_errors
from shards.masks.presets import MASK_PRESETS, MaskMixture, draw_mask


@pytest.mark.parametrize("name", MASK_PRESETS)
def test_every_recipe_could_be_packed_with(name: str) -> None:
    for _, masks in MASK_PRESETS[name].recipes:
        assert recipe_errors(PackRecipe(masks=masks)) == []


@pytest.mark.parametrize("name", MASK_PRESETS)
def test_a_mask_depends_on_its_seed_and_number_alone(name: str) -> None:
    first = draw_mask(MASK_PRESETS[name], 256, seed=3, number=5)
    assert np.array_equal(first, draw_mask(MASK_PRESETS[name], 256, seed=3, number=5))
    assert not np.array_equal(first, draw_mask(MASK_PRESETS[name], 256, seed=4, number=5))
    assert not np.array_equal(first, draw_mask(MASK_PRESETS[name], 256, seed=3, number=6))


def test_thicker_sets_have_larger_holes_and_never_more_than_half() -> None:
    means = []
    for name in ("thin", "medium", "thick"):
        masks = [draw_mask(MASK_PRESETS[name], 256, seed=0, number=n) for n in range(40)]
        shares = [mask.mean() for mask in masks]
        assert min(shares) > 0
        assert max(shares) <= 0.5
        means.append(np.mean([mask.sum() / perimeter(mask) for mask in masks]))
    assert means[0] < means[1] < means[2]


def perimeter(mask: np.ndarray) -> int:
    return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())


def test_the_box_of_mmagic_has_its_sides_and_margin() -> None:
    sides = set()
    for number in range(60):
        rows, columns = np.nonzero(draw_mask(MASK_PRESETS["mmagic"], 256, seed=0, number=number))
        assert min(rows.min(), columns.min()) >= 20
        assert max(rows.max(), columns.max()) < 236
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width
        sides |= {int(height), int(width)}
    assert (min(sides), max(sides)) == (108, 128)


def test_recipes_are_drawn_by_their_weights() -> None:
    small, large = (MaskRecipe(side_min=side, side_max=side) for side in (4, 8))
    mixture = MaskMixture(((3.0, small), (1.0, large)))
    areas = [int(draw_mask(mixture, 32, seed=0, number=n).sum()) for n in range(400)]
    assert set(areas) == {16, 64}
    assert 250 < areas.count(16) < 350


def test_a_mixture_that_leaves_too_little_is_refused() -> None:
    whole = replace(MaskRecipe(), side_min=32, side_max=32)
    with pytest.raises(ValueError, match="leave less than 50%"):
        draw_mask(MaskMixture(((1.0, whole),), area_max=0.5), 32, seed=0, number=0)


def test_the_parameters_for_packing_in_the_documentation_are_those_of_the_sets() -> None:
    text = Path(__file__).parents[3].joinpath("docs", "evaluation.md").read_text()
    written = [yaml.safe_load(line) for line in re.findall(r'--pack\.masks "(.*)"', text)]
    assert len(written) == 3
    for name, mapping in zip(("thin", "medium", "thick"), written, strict=True):
        masks = MaskRecipe(**{**mapping, "strokes": StrokeRecipe(**mapping["strokes"])})
        assert recipe_errors(PackRecipe(masks=masks)) == []
        boxes = {"boxes_max": 0, "boxes_probability": 1.0}
        assert replace(masks.strokes, **boxes) == MASK_PRESETS[name].recipes[0][1].strokes
        assert masks.area_max == MASK_PRESETS[name].area_max
