"""The distribution of a packed set's masks: how much they take away, and where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from shards.inspection.preview import sample_range, spread
from shards.masks.drawing import mask_of_rectangles
from shards.reading.packed_set import ShardSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class MaskStatistics:
    """Of N masks of H holes each, in crops of S x S pixels."""

    areas: np.ndarray  # float64 (N,): missing share of the crop, of each mask
    regions: np.ndarray  # int64 (N,): separate holes; those that touch are one
    sides: np.ndarray  # uint16 (N * H, 2): width and height of each hole, or of its bounding box
    missing: np.ndarray  # float64 (S, S): in which share of the masks the pixel is missing


def measure_masks(
    url: str, split: str = "train", count: int = 10_000, shard: str = ""
) -> MaskStatistics:
    """The completion masks of at most `count` samples, spread evenly over the split or one shard.

    Rectangles are read from the indexes alone: no shard is opened. Raises what `draw_preview` does.
    """
    shard_set = ShardSet(url, split)
    try:
        size = shard_set.manifest.recipe.crop_size
        missing, areas, regions, sides = np.zeros((size, size)), [], [], []
        for mask, holes in _masks(shard_set, count, shard):
            missing += mask
            areas.append(mask.mean())
            regions.append(cv2.connectedComponents(mask.view(np.uint8))[0] - 1)
            sides.append(holes[:, 2:])
    finally:
        shard_set.close()
    return MaskStatistics(
        areas=np.array(areas),
        regions=np.array(regions),
        sides=np.concatenate(sides),
        missing=missing / len(areas),
    )


def _masks(
    shard_set: ShardSet, count: int, shard_name: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Mask, bool (S, S), and holes, uint16 (H, 4), of each sample."""
    recipe, masks_per_image = shard_set.manifest.recipe, shard_set.masks_per_image
    first, end = sample_range(shard_set, shard_name)
    current, records = -1, np.empty(0)
    for offset in spread(end - first, count):
        shard, position = shard_set.locate(first + offset)
        if shard != current:
            current, records = shard, shard_set.records(shard)
        image, number = divmod(position, masks_per_image)
        holes = records[image]["completion_holes"][number]
        if recipe.masks.kind == "strokes":
            pixels = shard_set.open(shard).masks(image, masks_per_image, recipe.crop_size)
            yield pixels[number], holes
        else:
            yield mask_of_rectangles(holes, recipe.crop_size), holes


def statistics_lines(statistics: MaskStatistics) -> list[str]:
    """The figures, one line of text each."""
    rows = {
        "missing share of the crop, %": 100 * statistics.areas,
        "separate holes of a mask": statistics.regions,
        "width of a hole, pixels": statistics.sides[:, 0],
        "height of a hole, pixels": statistics.sides[:, 1],
    }
    heading = f"{len(statistics.areas)} masks"
    lines = [f"{heading:30s}" + _columns(["mean", *(f"{share}th" for share in PERCENTILES)])]
    for name, values in rows.items():
        figures = [values.mean(), *np.percentile(values, PERCENTILES)]
        lines.append(f"{name:30s}" + _columns([f"{figure:.1f}" for figure in figures]))
    low, high = 100 * statistics.missing.min(), 100 * statistics.missing.max()
    lines.append(f"a pixel is missing in {low:.1f} % to {high:.1f} % of the masks, by its place")
    return lines


def _columns(texts: list[str]) -> str:
    return "".join(f"{text:>8s}" for text in texts)


def draw_statistics(statistics: MaskStatistics, title: str) -> Figure:
    """Four panels: areas, places, numbers and sides. `savefig` writes it; no display is needed."""
    from matplotlib.figure import Figure  # half a second to import: only when a picture is drawn

    figure = Figure(figsize=(10, 8), layout="constrained")
    figure.suptitle(f"{title}: {len(statistics.areas)} masks")
    areas, places, regions, sides = figure.subplots(2, 2).ravel()
    areas.hist(100 * statistics.areas, bins=40)
    _label(areas, "Area", "missing share of the crop, %", "masks")
    _draw_places(places, statistics.missing)
    numbers, counts = np.unique(statistics.regions, return_counts=True)
    regions.bar(numbers, counts)
    regions.xaxis.get_major_locator().set_params(integer=True)
    _label(regions, "Number", "separate holes of a mask", "masks")
    bins = np.arange(statistics.sides.min(), statistics.sides.max() + 2) - 0.5
    for column, name in enumerate(("width", "height")):
        sides.hist(statistics.sides[:, column], bins=bins, histtype="step", label=name)
    sides.legend()
    _label(sides, "Sides", "side of a hole, pixels", "holes")
    return figure


def _draw_places(axes: Axes, missing: np.ndarray) -> None:
    picture = axes.imshow(100 * missing, vmin=0)
    axes.figure.colorbar(picture, ax=axes)
    _label(axes, "Place: how often a pixel is missing, %", "x, pixels", "y, pixels")


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
