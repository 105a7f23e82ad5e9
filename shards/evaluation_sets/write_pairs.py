"""Write images and masks as files that every model can be evaluated on."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from shards.evaluation_sets.image_mask_pairs import LIST_NAME
from shards.format.manifest import MANIFEST_NAME, RefusedImage, load_manifest
from shards.format.recipe import PackRecipe
from shards.images.conversion import UnusableImage, convert_image
from shards.images.encodings import encode_image
from shards.masks.drawing import mask_of_rectangles
from shards.masks.presets import MASK_PRESETS, NAMED_SIZE, MaskMixture, draw_mask
from shards.reading.in_order import read_in_order
from shards.sources.plan import plan_packing, read_source_image
from shards.storage.files import exists, join_url, list_names, write_bytes

PACKED = "packed"  # the set of masks of the recipe, or those of the packed samples


@dataclass
class FixedFiles:
    """What was written."""

    num_images: int = 0
    size: int = 0  # side, pixels
    refused: list[RefusedImage] = field(default_factory=list)


def write_fixed_files(
    source: str,
    folder: str,
    recipe: PackRecipe,
    sets: list[str],
    *,
    split: str = "val",
    limit: int = 0,
) -> FixedFiles:
    """Images of a source or of a packed set as PNG, one mask of every set for each, and their list.

    Centre squares of `recipe.crop_size`, chosen and drawn by `recipe.seed`; of a packed set, its
    samples as they are. `split` "all" takes the images of both. The list is written last. Raises
    ValueError for a set that is not known or made for another size, and where the folder is not
    empty.
    """
    packed = exists(join_url(source, MANIFEST_NAME))
    if packed and split != "val":
        raise ValueError(
            f"{source} is a packed set, of which only the split val is stored at the size of the "
            f"crop, not {split}; name the images that it was packed from"
        )
    size = load_manifest(source).recipe.crop_size if packed else recipe.crop_size
    mixtures = {name: _mixture(name, recipe, size) for name in sets}
    if list_names(folder):
        raise ValueError(f"{folder} is not empty: name a new folder, or remove what is there")
    written = FixedFiles(size=size)
    if packed:
        images = _packed_images(source, limit)
    else:
        images = _source_images(source, recipe, split, limit, written.refused)
    rows = []
    for number, (name, data, own_mask) in enumerate(images):
        stem = f"{number:06d}"
        write_bytes(join_url(folder, f"images/{stem}.png"), data)
        row = {"image": f"images/{stem}.png", "sha256": _sha256(data), "source": name}
        for set_name, mixture in mixtures.items():
            pixels = own_mask
            if pixels is None or set_name != PACKED:
                pixels = draw_mask(mixture, size, recipe.seed, number)
            mask = _mask_png(pixels)
            write_bytes(join_url(folder, f"{set_name}/{stem}.png"), mask)
            row[set_name] = _sha256(mask)
        rows.append(row)
    if not rows:
        raise ValueError(f"{source} has no image of the split {split} that could be written")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(join_url(folder, LIST_NAME), text.getvalue().encode(errors="surrogateescape"))
    written.num_images = len(rows)
    return written


def _mixture(name: str, recipe: PackRecipe, size: int) -> MaskMixture:
    if name == PACKED:
        return MaskMixture(((1.0, recipe.masks),))
    if name not in MASK_PRESETS:
        known = ", ".join([PACKED, *MASK_PRESETS])
        raise ValueError(f"there is no recipe of masks named {name!r}; there are {known}")
    if size != NAMED_SIZE:
        raise ValueError(
            f"the masks named {name} are made for {NAMED_SIZE} pixels, but the images have {size}; "
            f"set --pack.crop_size {NAMED_SIZE}, or take {PACKED} with a recipe of your own"
        )
    return MASK_PRESETS[name]


_Images = Iterator[tuple[str, bytes, np.ndarray | None]]  # name, PNG, own mask


def _source_images(
    source: str, recipe: PackRecipe, split: str, limit: int, refused: list[RefusedImage]
) -> _Images:
    splits = plan_packing(source, recipe).splits
    images = [image for name in splits if split in (name, "all") for image in splits[name]]
    as_png = replace(recipe, encoding="png")
    count = 0
    for image in images:
        if limit and count == limit:
            return
        try:
            data = convert_image(read_source_image(source, image), image.name, "val", as_png).data
        except UnusableImage as error:
            refused.append(RefusedImage(image.name, str(error)))
            continue
        count += 1
        yield image.name, data, None


def _packed_images(shards_url: str, limit: int) -> _Images:
    manifest = load_manifest(shards_url)
    total = manifest.num_samples("val")
    count = min(limit or total, total)
    samples = [position * total // count for position in range(count)]  # neighbours share a class
    png = replace(manifest.recipe, encoding="png")
    for batch in read_in_order(shards_url, "val", samples, batch_size=16):
        for row, sample in enumerate(batch.samples.tolist()):
            size = manifest.recipe.crop_size
            mask = mask_of_rectangles(batch.completion_holes[row], size)
            if batch.mask_bits.size:
                mask = np.unpackbits(batch.mask_bits[row], axis=-1, count=size).view(bool)
            yield f"val sample {sample}", encode_image(batch.images[row], png), mask


def _mask_png(pixels: np.ndarray) -> bytes:
    written, encoded = cv2.imencode(".png", pixels.astype(np.uint8) * 255)
    assert written
    return bytes(encoded)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
