"""What is packed, from where, and in which order.

A source is a tree of folders, a tar archive or a list, on a disk or in a store. In trees and
archives the first-level folder is the class of everything below it; images beside these folders
form one class, named after the source. If there are both `train` and `val` on the first level,
these are the splits and the classes lie in them; otherwise a fraction of every class becomes "val".
A tar in a tree stands for a folder of its name: `cat.tar` holds images of the class `cat`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import PurePosixPath

import numpy as np

from shards.format.manifest import MANIFEST_NAME, SPLITS, RefusedImage
from shards.format.recipe import PackRecipe
from shards.keyed_random import permutation, raw
from shards.sources.archives import list_archive, open_archives
from shards.sources.files import is_absolute, read_absolute, read_range, read_whole
from shards.sources.folders import list_tree, no_folder
from shards.sources.listing import (
    COMPRESSED,
    HIDDEN,
    NESTED,
    NOT_AN_IMAGE,
    OUTSIDE_SPLITS,
    Listing,
    SourceFile,
    SourceImage,
    is_archive,
    is_compressed,
    is_ignored,
    without_tar,
)
from shards.sources.lists import is_list, read_list
from shards.sources.selection import select_images
from shards.storage.filesystems import is_local, local_path, open_filesystem

__all__ = [
    "HIDDEN",
    "NOT_AN_IMAGE",
    "OUTSIDE_SPLITS",
    "SPLITS",
    "PackPlan",
    "SourceImage",
    "is_ignored",
    "plan_packing",
    "read_source_image",
]

_DIGEST_BATCH = 4096  # images
_SHARD = re.compile(r"(train|val)-\d{6}\.tar")


@dataclass(frozen=True)
class PackPlan:
    location: str  # folder, archive or list, as it was named
    splits: dict[str, list[SourceImage]]  # in the order of packing, classes mixed
    classes: list[str]  # sorted; the position is the label
    ignored: list[RefusedImage]  # files that are not images of a class, sorted by path
    recipe: PackRecipe

    @cached_property
    def sha256(self) -> str:
        """Equal for packers that look at the same source with the same recipe, wherever it lies."""
        digest = hashlib.sha256(b"glcic-pack-plan 2\n")
        digest.update(_with_length(json.dumps(asdict(self.recipe), sort_keys=True)))
        digest.update(b"classes %d\n" % len(self.classes))
        digest.update(b"".join(map(_with_length, self.classes)))
        for split in SPLITS:
            images = self.splits[split]
            digest.update(_with_length(split) + b"images %d\n" % len(images))
            for start in range(0, len(images), _DIGEST_BATCH):
                digest.update(b"".join(map(_identity, images[start : start + _DIGEST_BATCH])))
        return digest.hexdigest()


def _identity(image: SourceImage) -> bytes:
    return _with_length(image.name) + _with_length(image.class_name) + b"%d\n" % image.num_bytes


def _with_length(text: str) -> bytes:
    """Names may hold any separator, and bytes that are no text."""
    data = text.encode(errors="surrogateescape")
    return b"%d:%b" % (len(data), data)


def plan_packing(location: str, recipe: PackRecipe) -> PackPlan:
    """Plan a pack: the same files and the same seed give the same plan.

    Raises ValueError where the source is not one, is damaged or holds no image, OSError where it
    cannot be read, RuntimeError where what reads it is not installed.
    """
    folder, name = _folder_and_name(location)
    ignored: list[RefusedImage] = []
    if is_list(name):
        found = read_list(location, folder, name, SPLITS)
    else:
        found, ignored = _list_images(location, folder, name)
    images = [image for split in sorted(found) for image in found[split]]
    if not images:
        raise ValueError(_without_images(location, ignored))
    if "" in found:
        found = _split(images, recipe)
    return PackPlan(
        location=location,
        splits={split: _shuffle(found.get(split, []), split, recipe.seed) for split in SPLITS},
        classes=sorted({image.class_name for image in images}),
        ignored=sorted(ignored, key=attrgetter("path")),
        recipe=recipe,
    )


def read_source_image(location: str, image: SourceImage) -> bytes:
    """Return the bytes of one image of the plan of `location`. OSError if they cannot be read
    whole.
    """
    folder, name = _folder_and_name(location)
    if image.archive:
        return read_range(folder, image.archive, image.offset, image.num_bytes)
    if is_list(name) and is_absolute(image.name):
        return read_absolute(image.name)
    return read_whole(folder, image.name)


def _folder_and_name(location: str) -> tuple[str, str]:
    """Return the folder below which the images are named; the archive or list in it, or an empty
    name.
    """
    trimmed = str(local_path(location)) if is_local(location) else location.rstrip("/")
    if not (is_archive(trimmed) or is_list(trimmed) or is_compressed(trimmed)):
        return (trimmed if is_local(location) else location), ""
    folder, slash, name = trimmed.rpartition("/")
    is_bucket = folder.endswith(":/")
    if is_bucket or (is_local(trimmed) and os.path.isdir(trimmed)):
        return trimmed, ""
    return folder or slash or ".", name


def _list_images(
    location: str, folder: str, name: str
) -> tuple[dict[str, list[SourceImage]], list[RefusedImage]]:
    """Return the images of a tree or an archive by their splits, all under "" if it has none."""
    if is_compressed(name):
        raise ValueError(f"{location} is compressed; decompress it and name the .tar or the folder")
    listing = _list_one_archive(location, folder, name) if name else list_tree(folder, SPLITS)
    folders = listing.folders | {
        without_tar(file.name)
        for file in listing.files
        if "/" not in file.name and is_archive(file.name)
    }
    is_split = set(SPLITS) <= folders
    if is_split:
        _ignore_outside_splits(listing)
    if not name:
        _refuse_packed_set(location, listing)
        listing = open_archives(folder, listing)
    files = select_images(folder, listing)
    found: dict[str, list[SourceImage]] = defaultdict(list)
    root_class = _root_class(location)
    while files:  # emptied as the images are made: there may be ten million
        file = files.pop()
        parts = _folders(file)
        split = parts[0] if is_split else ""
        class_name = parts[is_split] if len(parts) > is_split else root_class
        image = SourceImage(
            file.name, sys.intern(class_name), file.num_bytes, sys.intern(file.archive), file.offset
        )
        found[split].append(image)
    for images in found.values():
        images.sort(key=attrgetter("name"))
    return found, listing.ignored


def _refuse_packed_set(location: str, listing: Listing) -> None:
    """Its shards would make fine archives, each a class of its own."""
    names = {file.name for file in listing.files if "/" not in file.name}
    if MANIFEST_NAME in names and any(_SHARD.fullmatch(name) for name in names):
        raise ValueError(f"{location} is a packed set; name the images that it was packed from")


def _list_one_archive(location: str, folder: str, name: str) -> Listing:
    try:
        return list_archive(folder, name)
    except FileNotFoundError as error:
        raise no_folder(location, "not there") from error


def _ignore_outside_splits(listing: Listing) -> None:
    inside = []
    for file in listing.files:
        if _first_folder(file.name) in SPLITS:
            inside.append(file)
        else:
            listing.ignore(file.name, OUTSIDE_SPLITS)
    listing.files = inside


def _first_folder(name: str) -> str:
    folder, slash, _ = name.partition("/")
    if slash:
        return folder
    return without_tar(name) if is_archive(name) else ""


def _folders(file: SourceFile) -> list[str]:
    """Return the folders in which a file lies, archives among them under the names they
    stand for.
    """
    folders = file.name.split("/")[:-1]
    if file.archive and file.name.startswith(f"{file.archive}/"):
        position = file.archive.count("/")
        folders[position] = without_tar(folders[position])
    return [folder for folder in folders if folder]  # keys of a store may hold empty ones


def _root_class(location: str) -> str:
    path = os.path.abspath(local_path(location)) if is_local(location) else ""
    name = PurePosixPath(path or open_filesystem(location)[1]).name
    return (without_tar(name) if is_archive(name) else name) or "images"


def _without_images(location: str, ignored: list[RefusedImage]) -> str:
    for reason in (COMPRESSED, NESTED):
        archives = [image.path for image in ignored if image.reason == reason]
        if archives:
            count = f"{len(archives):,} such file" + "s" * (len(archives) > 1)
            return f"{location} holds no image: {archives[0]} is {reason} ({count})"
    return f"{location} holds no image ({len(ignored):,} other files); nothing to pack"


def _split(images: list[SourceImage], recipe: PackRecipe) -> dict[str, list[SourceImage]]:
    """Training and validation images: of each class its share, the remainders by largest part."""
    fraction = recipe.validation_fraction
    wanted = int(fraction * len(images) + 0.5)
    if 0 < fraction < 1 and len(images) >= 2:
        wanted = min(max(wanted, 1), len(images) - 1)
    classes: dict[str, list[SourceImage]] = defaultdict(list)
    for image in images:
        classes[image.class_name].append(image)
    members = [classes[name] for name in sorted(classes)]
    shares = np.array([fraction * len(images_of_class) for images_of_class in members])
    counts = np.floor(shares).astype(int)
    ties = raw(recipe.seed, "ties of the validation split", count=len(classes))
    by_remainder = np.lexsort((ties, counts - shares))
    counts[by_remainder[: wanted - counts.sum()]] += 1
    splits: dict[str, list[SourceImage]] = {split: [] for split in SPLITS}
    for number, (images_of_class, count) in enumerate(zip(members, counts, strict=True)):
        for image, split in zip(
            images_of_class,
            _draw_splits(recipe.seed, number, len(images_of_class), count),
            strict=True,
        ):
            splits[split].append(image)
    return splits


def _draw_splits(seed: int, number: int, num_images: int, num_val: int) -> Iterator[str]:
    """Return the split of each image of a class."""
    is_val = np.zeros(num_images, dtype=bool)
    is_val[permutation(seed, "validation split", number, count=num_images)[:num_val]] = True
    return (SPLITS[chosen] for chosen in is_val.tolist())


def _shuffle(images: list[SourceImage], split: str, seed: int) -> list[SourceImage]:
    order = permutation(seed, f"order of {split}", count=len(images))
    return [images[position] for position in order]
