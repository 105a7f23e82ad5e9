"""Recipes of masks by the names under which the field reports figures on them.

thin, medium and thick are those of LaMa (Suvorov et al. 2022) at 256 pixels, from its code: the
numbers of its configs/data_gen/random_*_256.yaml, turned into the ranges that its generator draws
from them: a brush of 5 to 4 + max_width, segments of 10 to 9 + max_len, up to max_times + 1 strokes
of up to 5 segments, and of 13 masks 3 of boxes instead; more than half of the image is drawn again.
Strokes here have one width each, and turn by any angle; there every segment draws its own width,
and one of eight headings. mmagic's is the box of its Global&Local configs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shards.format.recipe import MaskRecipe, PackRecipe, StrokeRecipe
from shards.keyed_random import chosen_by_weight, uniform
from shards.masks.drawing import draw_masks

NAMED_SIZE = 256  # pixels, of all the recipes here
_ATTEMPTS = 100  # at a mask that leaves half of the image
_NEXT_ATTEMPT = 1 << 40  # beyond any number of an image
_BOXES_WEIGHT = 0.3  # beside strokes of 1


@dataclass(frozen=True)
class MaskMixture:
    """Masks of which each follows one recipe, drawn by the weights."""

    recipes: tuple[tuple[float, MaskRecipe], ...]
    area_max: float = 1.0  # share of the image; a mask of more is drawn again


def _strokes(strokes_min: int, strokes_max: int, length_max: int, width_max: int) -> MaskRecipe:
    recipe = StrokeRecipe(
        strokes_min=strokes_min,
        strokes_max=strokes_max + 1,
        segments_max=5,
        length_min=10,
        length_max=9 + length_max,
        width_min=6,  # drawn as 5; there an even width is drawn as one more, here as one less
        width_max=5 + width_max,
    )
    return MaskRecipe(kind="strokes", strokes=recipe)


def _boxes(
    count_max: int, side_min: int, side_max: int, margin: int
) -> tuple[tuple[float, MaskRecipe], ...]:
    """1 to `count_max` of them, any number as often."""
    boxes = MaskRecipe(side_min=side_min, side_max=side_max, margin=margin)
    return tuple(
        (_BOXES_WEIGHT / count_max, replace(boxes, holes_per_mask=count))
        for count in range(1, count_max + 1)
    )


MASK_PRESETS = {
    "thin": MaskMixture(((1.0, _strokes(4, 50, 40, 10)),), area_max=0.5),
    "medium": MaskMixture(
        ((1.0, _strokes(4, 5, 100, 50)), *_boxes(5, 10, 50, margin=0)), area_max=0.5
    ),
    "thick": MaskMixture(
        ((1.0, _strokes(1, 5, 200, 100)), *_boxes(3, 30, 150, margin=10)), area_max=0.5
    ),
    "mmagic": MaskMixture(((1.0, MaskRecipe(side_min=108, side_max=128, margin=20)),)),
}


def draw_mask(mixture: MaskMixture, size: int, seed: int, number: int) -> np.ndarray:
    """bool (size, size), True in the hole: a pure function of the arguments."""
    share = uniform(seed, "recipe of a fixed mask", number, count=1)
    (chosen,) = chosen_by_weight([weight for weight, _ in mixture.recipes], share)
    masks = replace(mixture.recipes[chosen][1], masks_per_image=1)
    recipe = PackRecipe(crop_size=size, short_side=size, seed=seed, masks=masks)
    for attempt in range(_ATTEMPTS):
        holes = draw_masks(recipe, number + attempt * _NEXT_ATTEMPT)
        pixels = holes.all_pixels(size)[0]
        if pixels.mean() <= mixture.area_max:
            return pixels
    raise ValueError(
        f"{_ATTEMPTS} masks in a row leave less than {1 - mixture.area_max:.0%} of the image: "
        "draw fewer or smaller holes"
    )
