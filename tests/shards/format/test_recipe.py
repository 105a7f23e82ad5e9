from dataclasses import replace

import pytest

from shards.format.recipe import MaskRecipe, PackRecipe, StrokeRecipe, recipe_errors


def test_the_defaults_are_without_fault():
    assert recipe_errors(PackRecipe()) == []


def strokes(**changes):
    masks = {key: changes.pop(key) for key in ("side_max", "margin") if key in changes}
    return {"masks": MaskRecipe(kind="strokes", **masks, strokes=StrokeRecipe(**changes))}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"crop_size": 130, "short_side": 130}, "pack.crop_size is 130"),
        ({"crop_size": 12, "masks": MaskRecipe(side_min=4, side_max=8)}, "pack.crop_size is 12"),
        ({"short_side": 255}, "pack.short_side is 255"),
        ({"jpeg_quality": 101}, "pack.jpeg_quality is 101"),
        ({"images_per_shard": 0}, "pack.images_per_shard is 0"),
        ({"validation_fraction": 1.1}, "pack.validation_fraction is 1.1"),
        ({"seed": -1}, "pack.seed is -1"),
        ({"masks": MaskRecipe(masks_per_image=0)}, "pack.masks.masks_per_image is 0"),
        ({"masks": MaskRecipe(holes_per_mask=0)}, "pack.masks.holes_per_mask is 0"),
        ({"masks": MaskRecipe(side_max=257)}, "side_max is 96 and 257"),
        ({"masks": MaskRecipe(side_min=129)}, "side_max is 129 and 128"),
        ({"crop_size": 8196, "short_side": 8196}, "pack.crop_size is 8196"),
        ({"encoding": "gif"}, "pack.encoding is gif: jpeg, png, webp, raw"),
        ({"jpeg_subsampling": "422"}, "pack.jpeg_subsampling is 422: 420 or 444"),
        ({"masks": MaskRecipe(kind="circles")}, "masks.kind is circles: rectangles, strokes"),
        ({"masks": MaskRecipe(margin=-1)}, "pack.masks.margin is -1"),
        ({"masks": MaskRecipe(margin=128)}, "pack.masks.margin is 128: at least 0 and below half"),
        ({"masks": MaskRecipe(margin=65)}, "96 and 128: 1 <= side_min <= side_max <= 126"),
        ({"masks": MaskRecipe(aspect_max=0.5)}, "pack.masks.aspect_max is 0.5"),
        ({"masks": MaskRecipe(aspect_max=float("inf"))}, "pack.masks.aspect_max is inf"),
        ({"masks": MaskRecipe(area_min=0.1)}, "area_min and area_max is 0.1 and 0.0"),
        ({"masks": MaskRecipe(area_min=0.3, area_max=0.2)}, "area_max is 0.3 and 0.2"),
        ({"masks": MaskRecipe(area_max=0.3, margin=64)}, "area_min <= area_max <= 0.25"),
        (strokes(strokes_min=0), "pack.masks.strokes.strokes_min and strokes_max is 0 and 5"),
        (strokes(length_min=101), "pack.masks.strokes.length_min and length_max is 101 and 100"),
        (strokes(width_max=300), "pack.masks.strokes.width_max is 300: at most 256"),
        (strokes(margin=110), "pack.masks.strokes.width_max is 40: at most 36"),
        (strokes(segments_max=0), "pack.masks.strokes.segments_max is 0: 1 to 100"),
        (strokes(boxes_max=-1), "pack.masks.strokes.boxes_max is -1: 0 to 100"),
        (strokes(boxes_probability=1.1), "pack.masks.strokes.boxes_probability is 1.1: 0 to 1"),
        (strokes(boxes_max=1, side_max=257), "side_max is 96 and 257"),
    ],
)
def test_a_fault_is_named_with_its_value(change, field):
    errors = recipe_errors(replace(PackRecipe(), **change))
    assert len(errors) == 1
    assert field in errors[0]


def test_all_faults_are_reported_at_once():
    recipe = PackRecipe(jpeg_quality=3, seed=-4, images_per_shard=0)
    assert len(recipe_errors(recipe)) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"masks": MaskRecipe(side_max=999, area_min=0.1, area_max=0.2)},
        {"masks": MaskRecipe(area_min=0.25, area_max=0.25, margin=64)},
        strokes(side_max=999),
        strokes(strokes_max=1, segments_max=1),
    ],
)
def test_fields_that_a_kind_of_mask_does_not_use_are_not_judged(change):
    assert recipe_errors(replace(PackRecipe(), **change)) == []


def test_every_encoding_has_an_extension_of_its_own():
    extensions = [PackRecipe(encoding=name).extension for name in ("jpeg", "png", "webp", "raw")]
    assert extensions == ["jpg", "png", "webp", "npy"]
