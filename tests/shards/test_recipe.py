from dataclasses import replace

import pytest

from shards.recipe import MaskRecipe, PackRecipe, recipe_faults


def test_the_defaults_are_without_fault():
    assert recipe_faults(PackRecipe()) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"crop_size": 130, "short_side": 130}, "pack.crop_size is 130"),
        ({"crop_size": 12, "masks": MaskRecipe(side_min=4, side_max=8)}, "pack.crop_size is 12"),
        ({"short_side": 255}, "pack.short_side is 255"),
        ({"jpeg_quality": 101}, "pack.jpeg_quality is 101"),
        ({"images_per_shard": 0}, "pack.images_per_shard is 0"),
        ({"validation_fraction": 1.0}, "pack.validation_fraction is 1.0"),
        ({"seed": -1}, "pack.seed is -1"),
        ({"masks": MaskRecipe(masks_per_image=0)}, "pack.masks.masks_per_image is 0"),
        ({"masks": MaskRecipe(holes_per_mask=0)}, "pack.masks.holes_per_mask is 0"),
        ({"masks": MaskRecipe(side_max=257)}, "side_max is 96 and 257"),
        ({"masks": MaskRecipe(side_min=129)}, "side_max is 129 and 128"),
    ],
)
def test_a_fault_is_named_with_its_value(change, field):
    faults = recipe_faults(replace(PackRecipe(), **change))
    assert len(faults) == 1
    assert field in faults[0]


def test_all_faults_are_reported_at_once():
    recipe = PackRecipe(jpeg_quality=3, seed=-4, images_per_shard=0)
    assert len(recipe_faults(recipe)) == 3
