"""Draws packed samples: the original, the masked image and the mask, one row each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shards.crops import CropBox, decode_crop
from shards.dataset import ShardSet
from shards.writer import sample_key

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
    url: str, split: str = "train", count: int = 4, fill: Fill = "gray"
) -> Image.Image:
    """`count` samples spread evenly over the split.

    The crop is the centre square scaled to the crop size; training cuts its crops at random. Of a
    remote set, the shards that hold the samples are fetched. Raises ValueError if the split is
    empty or a sample is damaged, and what `ShardSet` raises.
    """
    shard_set = ShardSet(url, split)
    try:
        samples = read_samples(shard_set, count)
    finally:
        shard_set.close()
    color = shard_set.manifest.mean_color if fill == "mean" else (0.5, 0.5, 0.5)
    return _compose(samples, tuple(round(255 * channel) for channel in color))


def read_samples(shard_set: ShardSet, count: int) -> list[PreviewSample]:
    """No image twice; neighbouring rows show different masks where an image has several."""
    if count < 1:
        raise ValueError(f"cannot draw {count} samples; at least 1")
    manifest, masks_per_image = shard_set.manifest, shard_set.masks_per_image
    num_images = manifest.num_images(shard_set.split)
    if num_images == 0:
        filled = [name for name in manifest.splits if manifest.num_images(name)]
        raise ValueError(
            f"{shard_set.url} has no images in the split {shard_set.split!r}; "
            f"it has {', '.join(filled)}"
        )
    images = np.unique(np.linspace(0, num_images - 1, min(count, num_images)).round())
    return [
        _read_sample(shard_set, int(image) * masks_per_image + row % masks_per_image)
        for row, image in enumerate(images)
    ]


def _read_sample(shard_set: ShardSet, sample: int) -> PreviewSample:
    shard, position = shard_set.locate(sample)
    image, mask_number = divmod(position, shard_set.masks_per_image)
    record = shard_set.records[shard][image]
    size = shard_set.manifest.recipe.crop_size
    crop = np.empty((size, size, 3), dtype=np.uint8)
    decode_crop(shard_set.image_bytes(shard, image), _centre_square(record), crop)
    mask = np.zeros((size, size), dtype=bool)
    for x, y, width, height in record["completion_holes"][mask_number].tolist():
        mask[y : y + height, x : x + width] = True
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
