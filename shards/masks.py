"""The random rectangles of an image: a pure function of (seed, image number)."""

from __future__ import annotations

import math

import numpy as np

from shards.randomness import uniform
from shards.recipe import PackRecipe


def draw_masks(recipe: PackRecipe, image_number: int) -> tuple[np.ndarray, np.ndarray]:
    """The completion holes and the discriminator's regions of one image.

    Both are uint16 of shape (masks_per_image, holes_per_mask, 4): x, y, width, height in pixels of
    the training crop, fully inside it. Sides and then positions are uniform; the holes of one mask
    may overlap, since the mask is their union.
    """
    return (
        _draw_rectangles(recipe, "completion holes", image_number),
        _draw_rectangles(recipe, "discriminator holes", image_number),
    )


def _draw_rectangles(recipe: PackRecipe, purpose: str, image_number: int) -> np.ndarray:
    masks = recipe.masks
    shape = (masks.masks_per_image, masks.holes_per_mask, 4)
    shares = uniform(recipe.seed, purpose, image_number, count=math.prod(shape)).reshape(shape)
    sides = masks.side_min + np.floor(shares[..., 2:] * (masks.side_max - masks.side_min + 1))
    corners = np.floor(shares[..., :2] * (recipe.crop_size - sides + 1))
    return np.concatenate([corners, sides], axis=-1).astype(np.uint16)
