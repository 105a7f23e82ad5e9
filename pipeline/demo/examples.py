"""Photographs to try the page on, with a hole each: no rights reserved, and shipped offline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.demo.picture import Picture, scaled
from pipeline.photograph import Photograph
from shards.sample_photographs import SAMPLE_PHOTOGRAPHS, read_sample_photograph

# (x, y, width, height) of the hole as shares of the picture
_HOLES = {
    "chelsea": (0.2, 0.56, 0.3, 0.3),
    "coffee": (0.2, 0.3, 0.3, 0.3),
    "rocket": (0.5, 0.35, 0.3, 0.3),
    "astronaut": (0.4, 0.62, 0.3, 0.3),
    "brick": (0.35, 0.35, 0.3, 0.3),
}


@dataclass(frozen=True)
class Example:
    picture: Picture
    mask: np.ndarray  # bool (H, W), True in the hole
    credit: str


def examples(longest_side: int) -> list[Example]:
    """Of the strips that `glcic samples` keeps for validation: a quickstart has not seen them."""
    found = []
    for sample in SAMPLE_PHOTOGRAPHS:
        if sample.name not in _HOLES:
            continue
        first, last = sample.val_strip
        pixels = read_sample_photograph(sample)[:, first:last]
        side = min(pixels.shape[:2])
        top = (pixels.shape[0] - side) // 2
        square = Photograph(np.ascontiguousarray(pixels[top : top + side, :side]))
        picture = Picture(sample.name, scaled(square, longest_side), square.size)
        found.append(Example(picture, _mask(sample.name, picture), sample.credit))
    return found


def _mask(name: str, picture: Picture) -> np.ndarray:
    height, width = picture.photograph.size
    left, top, across, down = _HOLES[name]
    mask = np.zeros((height, width), dtype=bool)
    rows = slice(round(top * height), round((top + down) * height))
    mask[rows, round(left * width) : round((left + across) * width)] = True
    return mask
