"""Draws packed samples: the original, the masked image and the mask, one row each."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageDraw, ImageFont

from shards.index import decode_index, index_name
from shards.manifest import Manifest, ShardEntry, load_manifest
from shards.storage import join_url, open_filesystem, read_bytes
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

    The crop is the centre square scaled to the crop size; training cuts its crops at random.
    Raises ValueError if the split is empty or a sample is damaged.
    """
    manifest = load_manifest(url)
    samples = read_samples(url, manifest, split, count)
    color = manifest.mean_color if fill == "mean" else (0.5, 0.5, 0.5)
    return _compose(samples, tuple(round(255 * channel) for channel in color))


def read_samples(url: str, manifest: Manifest, split: str, count: int) -> list[PreviewSample]:
    if count < 1:
        raise ValueError(f"cannot draw {count} samples; at least 1")
    num_images = manifest.num_images(split) if split in manifest.splits else 0
    if num_images == 0:
        filled = [name for name in manifest.splits if manifest.num_images(name)]
        raise ValueError(f"{url} has no images in the split {split!r}; it has {', '.join(filled)}")
    positions = np.unique(np.linspace(0, num_images - 1, min(count, num_images)).round())
    masks_per_image = manifest.recipe.masks.masks_per_image
    return [
        _read_sample(url, manifest, split, int(position), row % masks_per_image)
        for row, position in enumerate(positions)
    ]


def _read_sample(
    url: str, manifest: Manifest, split: str, position: int, mask_number: int
) -> PreviewSample:
    shard, row = _locate(manifest.splits[split], position)
    name = index_name(shard.name)
    record = decode_index(read_bytes(join_url(url, name)), name)[row]
    description: dict[str, Any] = json.loads(_member(url, shard.name, record, "json"))
    pixels = simplejpeg.decode_jpeg(_member(url, shard.name, record, "image"))
    size = manifest.recipe.crop_size
    mask = np.zeros((size, size), dtype=bool)
    for x, y, width, height in description["masks"][mask_number]["completion"]:
        mask[y : y + height, x : x + width] = True
    caption = (
        f"{sample_key(record['image_number'])}, mask {mask_number}, {description['class']}: "
        f"{mask.mean():.0%} missing"
    )
    return PreviewSample(_centre_crop(pixels, size), mask, caption)


def _locate(shards: list[ShardEntry], position: int) -> tuple[ShardEntry, int]:
    """The shard that holds an image of the split, and its row there."""
    for shard in shards:
        if position < shard.num_images:
            return shard, position
        position -= shard.num_images
    raise AssertionError("the position lies past the split's end")


def _member(url: str, shard_name: str, record: np.void, member: str) -> bytes:
    filesystem, path = open_filesystem(join_url(url, shard_name))
    start, size = int(record[f"{member}_offset"]), int(record[f"{member}_size"])
    data: bytes = filesystem.cat_file(path, start=start, end=start + size)
    if zlib.crc32(data) != int(record[f"{member}_crc32"]):
        raise ValueError(
            f"{shard_name} is damaged: the {member} of sample "
            f"{sample_key(record['image_number'])} does not match its checksum; fetch the shard "
            "or pack the set again"
        )
    return data


def _centre_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    return (
        square if side == size else cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
    )


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
