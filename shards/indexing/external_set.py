"""Make a set of WebDataset shards that others have packed: an index beside each, and a manifest.

Nothing of the shards themselves is changed. Images are taken as they are, so validation images are
scaled when they are read, not before; masks are drawn as for a set of our own.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from shards.format.index import encode_index, index_dtype, index_name
from shards.format.manifest import MANIFEST_NAME, RECORDS, Manifest, ShardEntry, load_manifest
from shards.format.recipe import PackRecipe, recipe_errors
from shards.indexing.external_shard import ExternalShard, read_external_shard
from shards.masks.drawing import draw_masks
from shards.storage.files import (
    download_file,
    is_local,
    join_url,
    list_names,
    local_path,
    read_bytes,
    write_bytes,
)

_INDEX_START = b"\x93NUMPY"  # of every index of ours

Progress = Callable[[int, int], None]  # shards done, shards in all

# A word of a shard's name by which it belongs to the split "val".
_VALIDATION = re.compile(r"(?<![a-z])(val|valid|validation|test)(?![a-z])", re.IGNORECASE)


def index_external_shards(
    url: str, recipe: PackRecipe, progress: Progress = lambda done, total: None
) -> Manifest:
    """Write indexes and a manifest beside the `*.tar` of `url`, and return the manifest.

    A sample is one image (.jpg, .jpeg, .png or .webp) with, if there is one, a label (.cls, or
    "class" or "label" in .json). Shards in whose names a word is "val" or "test" are validation;
    where there are none, the last ones are, by recipe.validation_fraction (1: all). Of `recipe`
    only the crop, the seed, the fraction and the masks count. Images that cannot be used are
    refused by name. Raises ValueError for a broken archive, where there is nothing to read, or
    where a set was packed; OSError where the folder cannot be written.
    """
    _check(recipe)
    names = _shard_names(url)
    found: list[ExternalShard] = []
    for name in names:
        with _local(join_url(url, name)) as path:
            found.append(read_external_shard(path, name, recipe.crop_size))
        progress(len(found), len(names))
    classes = _classes(found)
    splits: dict[str, list[ShardEntry]] = {"train": [], "val": []}
    first_image = 0
    for shard, split in zip(found, _split(names, recipe), strict=True):
        if shard.images:
            index = encode_index(_records(shard, recipe, classes, first_image))
            _write(url, index_name(shard.name), index)
            digest = hashlib.sha256(index).hexdigest()
            entry = ShardEntry(
                shard.name, len(shard.images), shard.size_bytes, shard.sha256, digest
            )
            splits[split].append(entry)
        first_image += len(shard.images)
    is_for_judging = recipe.validation_fraction == 1
    if not splits["val" if is_for_judging else "train"]:
        purpose = "validation" if is_for_judging else "training"
        raise ValueError(f"{url}: no image of {len(names)} shards can be used for {purpose}")
    manifest = Manifest(
        recipe=replace(recipe, short_side=_max_short_side(found, recipe)),
        classes=list(classes),
        mean_color=_mean_color(found),
        splits=splits,
        refused=[image for shard in found for image in shard.refused],
    )
    _write(url, MANIFEST_NAME, manifest.to_json().encode())
    return manifest


def _check(recipe: PackRecipe) -> None:
    errors = recipe_errors(recipe)
    if recipe.masks.kind == "strokes":
        errors.append(
            "pack.masks.kind is strokes: free-form masks lie in the shards, which are not changed; "
            "pack the images again"
        )
    if errors:
        raise ValueError("the shards cannot be indexed so:\n  " + "\n  ".join(errors))


def _shard_names(url: str) -> list[str]:
    there = list_names(url)
    names = [name for name in there if name.endswith(".tar") and not name.startswith(".")]
    if not names:
        raise ValueError(f"{url} holds no shard: no file there ends in .tar")
    if RECORDS in there:
        raise ValueError(f"{url} holds a pack that was not finished; run its `glcic pack` again")
    if MANIFEST_NAME in there:
        _require_external(url)
    else:
        _require_no_other_indexes(url, {index_name(name) for name in names} & set(there))
    if is_local(url) and not os.access(local_path(url), os.W_OK):
        raise _not_writable(url, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return names


def _require_external(url: str) -> None:
    try:
        is_ours = bool(load_manifest(url).plan_sha256)
    except ValueError as error:
        raise ValueError(f"{error}; to index the shards there, remove it first") from error
    if is_ours:
        raise ValueError(f"{url} was packed by `glcic pack`: it has its indexes and its masks")


def _require_no_other_indexes(url: str, names: set[str]) -> None:
    """Other readers keep indexes of their own under the same names; what they need stays."""
    for name in sorted(names):
        if not read_bytes(join_url(url, name)).startswith(_INDEX_START):
            raise ValueError(
                f"{join_url(url, name)} is an index of another reader; move such files away"
            )


def _write(url: str, name: str, data: bytes) -> None:
    try:
        write_bytes(join_url(url, name), data)
    except OSError as error:
        raise _not_writable(url, error) from error


def _not_writable(url: str, error: OSError) -> OSError:
    return OSError(
        f"{url} cannot be written ({error.strerror or error}): indexes and manifest have to lie "
        "beside the shards; copy the shards to where you may write, or let their owner run "
        f"`glcic index {url}`"
    )


@contextmanager
def _local(url: str) -> Iterator[Path]:
    """The shard as a local file; one that had to be fetched is removed afterwards."""
    if is_local(url):
        yield local_path(url)
        return
    with tempfile.TemporaryDirectory(prefix="glcic-index-") as folder:
        path = Path(folder) / "shard.tar"
        download_file(url, path)
        yield path


def _classes(found: list[ExternalShard]) -> dict[str, int]:
    """Labels of all shards: numbers in the order of their values, then words by the alphabet."""
    names = {image.label for shard in found for image in shard.images}
    return {name: number for number, name in enumerate(sorted(names, key=_place_of_class))}


def _place_of_class(name: str) -> tuple[bool, int, str, str]:
    if not (name.isascii() and name.isdecimal()):
        return True, 0, name, name
    digits = name.lstrip("0")
    return False, len(digits), digits, name


def _split(names: list[str], recipe: PackRecipe) -> list[str]:
    named = [_VALIDATION.search(name) is not None for name in names]
    if not any(named) and recipe.validation_fraction == 1:
        named = [True] * len(names)
    elif not any(named) and recipe.validation_fraction > 0 and len(names) > 1:
        count = min(max(1, round(recipe.validation_fraction * len(names))), len(names) - 1)
        named = [position >= len(names) - count for position in range(len(names))]
    return ["val" if is_validation else "train" for is_validation in named]


def _records(
    shard: ExternalShard, recipe: PackRecipe, classes: dict[str, int], first_image: int
) -> np.ndarray:
    rows = []
    for number, image in enumerate(shard.images, start=first_image):
        masks = draw_masks(recipe, number)
        rows.append(
            (
                *(image.offset, image.num_bytes, image.crc32),
                *(0, 0, 0),  # descriptions of others are not read
                *(0, 0, 0),
                number,
                image.width,
                image.height,
                classes[image.label],
                masks.completion_holes.tolist(),
                masks.discriminator_holes.tolist(),
            )
        )
    dtype = index_dtype(recipe.masks.masks_per_image, recipe.masks.holes_per_mask)
    return np.array(rows, dtype=dtype)


def _max_short_side(found: list[ExternalShard], recipe: PackRecipe) -> int:
    sides = [min(image.width, image.height) for shard in found for image in shard.images]
    return max([recipe.crop_size, *sides])


def _mean_color(found: list[ExternalShard]) -> tuple[float, float, float]:
    """Over some images of every shard: decoding all of them would take as long as an epoch."""
    means = [mean for shard in found for mean in shard.sampled_colors]
    red, green, blue = (np.mean(means, axis=0) if means else np.full(3, 0.5)).tolist()
    return red, green, blue
