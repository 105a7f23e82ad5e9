"""Photographs to try the page on, with a hole each: no rights reserved, and shipped offline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.demo.picture import Picture, scaled
from pipeline.inference.photograph import Photograph
from shards.sources.sample_photographs import SAMPLE_PHOTOGRAPHS, read_sample_photograph

# Of a square at the left or right end of a photograph: the hole's (x, y, width, height), as shares.
_HOLES = {
    ("chelsea", "left"): (0.35, 0.35, 0.3, 0.3),
    ("chelsea", "right"): (0.2, 0.56, 0.3, 0.3),
    ("coffee", "left"): (0.55, 0.3, 0.3, 0.3),
    ("coffee", "right"): (0.2, 0.3, 0.3, 0.3),
}


@dataclass(frozen=True)
class Example:
    picture: Picture
    mask: np.ndarray  # bool (H, W), True in the hole
    credit: str


def examples(longest_side: int) -> list[Example]:
    """Return squares of photographs that `glcic samples` validates on: unseen by a quickstart."""
    samples = {sample.name: sample for sample in SAMPLE_PHOTOGRAPHS}
    found = []
    for (name, end), hole in _HOLES.items():
        pixels = read_sample_photograph(samples[name])
        side = min(pixels.shape[:2])
        left = 0 if end == "left" else pixels.shape[1] - side
        square = Photograph(np.ascontiguousarray(pixels[:side, left : left + side]))
        picture = Picture(f"{name}, {end}", scaled(square, longest_side), square.size)
        found.append(Example(picture, _mask(hole, picture), samples[name].credit))
    return found


def _mask(hole: tuple[float, float, float, float], picture: Picture) -> np.ndarray:
    height, width = picture.photograph.size
    left, top, across, down = hole
    mask = np.zeros((height, width), dtype=bool)
    rows = slice(round(top * height), round((top + down) * height))
    mask[rows, round(left * width) : round((left + across) * width)] = True
    return mask
