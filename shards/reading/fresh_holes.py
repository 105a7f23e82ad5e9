"""Holes that are drawn again for every sample of every step, instead of once at packing.

The holes of a sample are a pure function of (seed, step, lane), a lane being a place in the batch
of all workers together: however many workers share the batch, and wherever a run is taken up again,
they are the same, and nothing about them needs to be saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shards.format.recipe import MaskRecipe, PackRecipe, mask_errors
from shards.keyed_random import chosen_by_weight, uniform
from shards.masks.drawing import DrawnMasks, draw_masks
from shards.reading.ring import BatchArrays

_PURPOSE = "fresh "  # keeps these holes apart from the packed ones of the same seed and numbers


@dataclass(frozen=True)
class WeightedMasks:
    """A recipe of masks in a mixture; weights are relative to each other."""

    masks: MaskRecipe = field(default_factory=MaskRecipe)
    weight: float = 1.0


def fresh_mask_errors(
    fresh_masks: Sequence[WeightedMasks], crop_size: int, place: str = "data.fresh_masks"
) -> list[str]:
    """Return one sentence per error of recipes for crops of `crop_size` pixels, which stand at
    `place`.
    """
    errors = []
    for number, one in enumerate(fresh_masks):
        if not 0 < one.weight < float("inf"):
            errors.append(f"{place}.{number}.weight is {one.weight}: above 0, and finite")
        errors += mask_errors(one.masks, crop_size, f"{place}.{number}.masks")
        if one.masks.masks_per_image > 1:
            errors.append(
                f"{place}.{number}.masks.masks_per_image is {one.masks.masks_per_image}: leave it "
                "at 1, every sample gets one mask, drawn for it alone"
            )
    return errors


class FreshHoles:
    """Draws the holes of samples by their places in the training. May be used by several threads.

    With `weights`, one of each recipe, a sample's recipe is drawn by them; without,
    `recipe_of_lane` says for each lane of the batch which of `recipes` it follows.
    """

    def __init__(
        self,
        recipes: Sequence[MaskRecipe],
        crop_size: int,
        seed: int,
        *,
        weights: Sequence[float] = (),
        recipe_of_lane: Sequence[int] = (),
    ) -> None:
        self._recipes = [
            PackRecipe(crop_size=crop_size, short_side=crop_size, seed=seed, masks=masks)
            for masks in recipes
        ]
        self._crop_size = crop_size
        self._seed = seed
        self._weights = list(weights)
        self._recipe_of_lane = np.array(recipe_of_lane, dtype=np.int64)

    def fill(self, step: int, lanes: range, arrays: BatchArrays, first_row: int) -> None:
        """Write the holes of consecutive `lanes` at `step` into the rows from `first_row` on."""
        chosen = self._recipes_of(step, lanes)
        for number in np.unique(chosen).tolist():
            places = np.flatnonzero(chosen == number)
            mask_numbers = (lanes.start + places).tolist()
            drawn = draw_masks(self._recipes[number], step, mask_numbers, _PURPOSE)
            self._write(drawn, arrays, first_row + places)

    def _recipes_of(self, step: int, lanes: range) -> np.ndarray:
        """(number of lanes,) int64: which of the recipes each lane follows at `step`."""
        if not self._weights:
            return self._recipe_of_lane[lanes.start : lanes.stop]
        shares = uniform(self._seed, "fresh recipe", step, count=lanes.stop)[lanes.start :]
        return chosen_by_weight(self._weights, shares)

    def _write(self, drawn: DrawnMasks, arrays: BatchArrays, rows: np.ndarray) -> None:
        number = drawn.completion_holes.shape[1]
        for target, holes in (
            (arrays.completion_holes, drawn.completion_holes),
            (arrays.discriminator_holes, drawn.discriminator_holes),
        ):
            target[rows, :number] = holes
            target[rows, number:] = 0  # other recipes have more holes
        if arrays.mask_bits.size:
            arrays.mask_bits[rows] = np.packbits(drawn.all_pixels(self._crop_size), axis=-1)
