"""Draws packed samples: the original, the masked image and the mask, one row each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shards.format.index import sample_key
from shards.masks.drawing import mask_of_rectangles
from shards.reading.packed_set import ShardSet
from shards.sampling.crops import CropBox

Fill = Literal["gray", "mean"]

COLUMNS = ("original", "masked image", "mask")
_GAP = 8  # pixels between pictures
_TEXT_SIZE = 14
_LINE = 20  # pixels of a line of text


@dataclass(frozen=True)
class PreviewSample:
    crop: np.ndarray  # uint8 RGB, (crop_size, crop_size, 3)
    mask: np.ndarray  # bool, (crop_size, crop_size), true in the holes
    caption: str


def draw_preview(
    url: str, split: str = "train", count: int = 4, fill: Fill = "gray", shard: str = ""
) -> Image.Image:
    """`count` samples spread evenly over the split, or over the one shard that is named.

    The crop is the centre square scaled to the crop size; training cuts its crops at random. Of a
    remote set, the shards that hold the samples are fetched. Raises ValueError if the split is
    empty, has no such shard or a sample is damaged, and what `ShardSet` raises.
    """
    shard_set = ShardSet(url, split)
    try:
        samples = read_samples(shard_set, count, shard)
    finally:
        shard_set.close()
    color = shard_set.manifest.mean_color if fill == "mean" else (0.5, 0.5, 0.5)
    return _compose(samples, tuple(round(255 * channel) for channel in color))


def read_samples(shard_set: ShardSet, count: int, shard: str = "") -> list[PreviewSample]:
    """No image twice; neighbouring rows show different masks where an image has several."""
    masks_per_image = shard_set.masks_per_image
    first, end = sample_range(shard_set, shard)
    return [
        _read_sample(shard_set, first + image * masks_per_image + row % masks_per_image)
        for row, image in enumerate(spread((end - first) // masks_per_image, count))
    ]


def sample_range(shard_set: ShardSet, shard: str = "") -> tuple[int, int]:
    """First sample and end of the split, or of its shard of that name, with or without `.tar`.

    ValueError if there is no such shard or no sample.
    """
    names = [entry.name for entry in shard_set.entries]
    name = shard if not shard or shard.endswith(".tar") else f"{shard}.tar"
    if name and name not in names:
        raise ValueError(
            f"{shard_set.url} has no shard {name} in the split {shard_set.split!r}; "
            f"it has {', '.join([*names[:3], *(['...'] if len(names) > 3 else [])])}"
        )
    first, end = 0, shard_set.num_samples
    if name:
        number = names.index(name)
        first = shard_set.sample_number(number, 0)
        end = first + shard_set.entries[number].num_images * shard_set.masks_per_image
    if first == end:
        manifest = shard_set.manifest
        filled = [name for name in manifest.splits if manifest.num_images(name)]
        raise ValueError(
            f"{shard_set.url} has no images in the split {shard_set.split!r}; "
            f"it has {', '.join(filled)}"
        )
    return first, end


def spread(total: int, count: int) -> list[int]:
    """At most `count` different positions below `total`, evenly spread, both ends among them."""
    if count < 1:
        raise ValueError(f"cannot draw {count} samples; at least 1")
    positions: list[int] = np.unique(np.linspace(0, total - 1, min(count, total)).round()).tolist()
    return [int(position) for position in positions]


def _read_sample(shard_set: ShardSet, sample: int) -> PreviewSample:
    shard, position = shard_set.locate(sample)
    image, mask_number = divmod(position, shard_set.masks_per_image)
    opened, recipe = shard_set.open(shard), shard_set.manifest.recipe
    record = opened.records[image]
    crop = np.empty((recipe.crop_size, recipe.crop_size, 3), dtype=np.uint8)
    opened.decode(image, _centre_square(record), crop)
    if recipe.masks.kind == "strokes":
        masks = opened.masks(image, shard_set.masks_per_image, recipe.crop_size)
        mask = masks[mask_number]
    else:
        mask = mask_of_rectangles(record["completion_holes"][mask_number], recipe.crop_size)
    caption = (
        f"{sample_key(record['image_number'])}, mask {mask_number}, "
        f"{shard_set.manifest.classes[record['label']]}: {mask.mean():.0%} missing"
    )
    return PreviewSample(crop, mask, caption)


def _centre_square(record: np.void) -> CropBox:
    width, height = int(record["image_width"]), int(record["image_height"])
    side = min(width, height)
    return CropBox(x=(width - side) // 2, y=(height - side) // 2, side=side, flip=False)


def _compose(samples: list[PreviewSample], fill_color: tuple[int, ...]) -> Image.Image:
    size = samples[0].mask.shape[0]
    # Small crops are drawn larger, so that the headings fit: whole multiples keep pixels square.
    side = size * max(1, -(-128 // size))
    row_height = side + _LINE + _GAP
    width = len(COLUMNS) * (side + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _LINE + _GAP + row_height * len(samples)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_TEXT_SIZE)
    for column, heading in enumerate(COLUMNS):
        draw.text((_GAP + column * (side + _GAP), 2), heading, fill="black", font=font)
    for row, sample in enumerate(samples):
        top = _LINE + row * row_height
        for column, picture in enumerate(_pictures(sample, fill_color)):
            tile = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (_GAP + column * (side + _GAP), top))
        draw.text((_GAP, top + side + 1), sample.caption, fill="black", font=font)
    return sheet


def _pictures(sample: PreviewSample, fill_color: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    masked = sample.crop.copy()
    masked[sample.mask] = fill_color
    mask = np.repeat(sample.mask[..., None], 3, axis=2).astype(np.uint8) * 255
    return sample.crop, masked, mask
