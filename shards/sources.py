"""What is packed, from where, and in which order: image classes in folders.

The first-level folder of SOURCE is the class of everything below it. Images directly in SOURCE
form one class, named after SOURCE. If SOURCE has both a folder `train` and a folder `val`, these
are the splits and the classes lie in them; otherwise a fraction of every class becomes "val".
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.conversion import has_image_content, has_image_extension
from shards.manifest import RefusedImage
from shards.randomness import permutation, raw
from shards.recipe import PackRecipe

SPLITS = ("train", "val")
HIDDEN = "ignored, hidden"
NOT_AN_IMAGE = "ignored, not an image"
OUTSIDE_SPLITS = "ignored, beside train/ and val/"


@dataclass(frozen=True)
class SourceImage:
    path: Path
    name: str  # relative to the source folder, with forward slashes
    class_name: str


@dataclass(frozen=True)
class PackPlan:
    splits: dict[str, list[SourceImage]]  # in the order of packing, classes mixed
    classes: list[str]  # sorted; the position is the label
    ignored: list[RefusedImage]  # files that are not images of a class


def is_ignored(image: RefusedImage) -> bool:
    """Whether a file was left out because it was never meant as an image of a class."""
    return image.reason in (HIDDEN, NOT_AN_IMAGE, OUTSIDE_SPLITS)


def plan_packing(source: Path, recipe: PackRecipe) -> PackPlan:
    """The same files and the same seed give the same plan. ValueError if there is no image."""
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder; name the folder that holds the image classes")
    ready = all((source / split).is_dir() for split in SPLITS)
    found: dict[str, list[SourceImage]] = {split: [] for split in SPLITS}
    ignored = []
    for path in _walk(source, ()):
        name = path.relative_to(source).as_posix()
        split = name.split("/")[0] if ready else "train"
        reason = _reason_to_ignore(path, split, name)
        if reason:
            ignored.append(RefusedImage(name, reason))
            continue
        folders = name.split("/")[ready:-1]
        class_name = folders[0] if folders else source.resolve().name
        found[split].append(SourceImage(path, name, class_name))
    images = [*found["train"], *found["val"]]
    if not images:
        raise ValueError(f"{source} holds no image ({len(ignored)} other files); nothing to pack")
    if not ready:
        found["train"], found["val"] = _split(images, recipe)
    return PackPlan(
        splits={split: _shuffled(found[split], split, recipe.seed) for split in SPLITS},
        classes=sorted({image.class_name for image in images}),
        ignored=ignored,
    )


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Files and hidden folders below `folder`, sorted; links are followed, circles are not."""
    real = folder.resolve()
    if real in above:
        return
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _walk(Path(entry.path), (*above, real))
        else:
            yield Path(entry.path)


def _reason_to_ignore(path: Path, split: str, name: str) -> str:
    if path.name.startswith("."):
        return HIDDEN
    if split not in SPLITS:
        return OUTSIDE_SPLITS
    if not has_image_extension(path) and not has_image_content(path):
        return NOT_AN_IMAGE
    return ""


def _split(
    images: list[SourceImage], recipe: PackRecipe
) -> tuple[list[SourceImage], list[SourceImage]]:
    """Training and validation images: of each class its share, the remainders by largest part."""
    fraction = recipe.validation_fraction
    wanted = int(fraction * len(images) + 0.5)
    if fraction > 0 and len(images) >= 2:
        wanted = min(max(wanted, 1), len(images) - 1)
    classes: dict[str, list[SourceImage]] = defaultdict(list)
    for image in images:
        classes[image.class_name].append(image)
    shares = np.array([fraction * len(members) for members in classes.values()])
    counts = np.floor(shares).astype(int)
    ties = raw(recipe.seed, "ties of the validation split", count=len(classes))
    by_remainder = np.lexsort((ties, counts - shares))
    counts[by_remainder[: wanted - counts.sum()]] += 1

    train: list[SourceImage] = []
    val: list[SourceImage] = []
    for number, (members, count) in enumerate(zip(classes.values(), counts, strict=True)):
        order = permutation(recipe.seed, "validation split", number, count=len(members))
        chosen = set(order[:count].tolist())
        for position, image in enumerate(members):
            (val if position in chosen else train).append(image)
    return train, val


def _shuffled(images: list[SourceImage], split: str, seed: int) -> list[SourceImage]:
    order = permutation(seed, f"order of {split}", count=len(images))
    return [images[position] for position in order]
