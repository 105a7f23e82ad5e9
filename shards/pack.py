"""Packs a folder of image classes into a set: shards, their indexes and the manifest."""

from __future__ import annotations

import contextlib
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from shards.conversion import StoredImage, UnusableImage, convert_image
from shards.cores import available_cores
from shards.manifest import MANIFEST_NAME, Manifest, RefusedImage, save_manifest
from shards.masks import draw_masks
from shards.recipe import PackRecipe, recipe_faults
from shards.sources import SPLITS, PackPlan, SourceImage, plan_packing
from shards.storage import is_local, join_url, list_names, open_filesystem, remove_tree, write_bytes
from shards.writer import ShardWriter

Progress = Callable[[int, int], None]  # images done, images in all

_OURS = re.compile(r"(train|val)-\d{6}\.(tar|idx)")
_PART = re.compile(r"\.(train|val)-\d{6}\.(tar|idx)\..*part|\.(train|val)-\d{6}\.tar\.part")
_PROBE = ".writable"


def pack_images(
    source: Path,
    destination: str,
    recipe: PackRecipe,
    *,
    threads: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Pack `source` into `destination`, a folder or URL, and return the manifest.

    Images that cannot be stored are left out and listed in `Manifest.refused`, and so are files
    that were ignored. The result does not depend on `threads` (0: all cores). Raises ValueError for
    a recipe, source or destination that cannot be used, and OSError, naming the destination, if it
    cannot be written; then nothing of the set stays behind.

    With `overwrite`, the old set is removed when the first image is ready to be stored. Whatever
    ends the packing before that leaves the old set as it was; after it, neither set is left. A
    process that is killed then leaves whole shards without a manifest, for `overwrite` to replace.
    """
    faults = recipe_faults(recipe)
    if faults:
        raise ValueError("the images cannot be packed so:\n  " + "\n  ".join(faults))
    plan = plan_packing(source, recipe)
    _refuse_empty_splits(plan, recipe)
    _refuse_nesting(source, destination)
    old_files = check_destination(destination, overwrite)
    packing = _Packing(plan, destination, recipe, old_files)
    try:
        return packing.run(threads or available_cores(), progress or (lambda done, total: None))
    except OSError as error:
        packing.undo()
        left = "no set was left there" if packing.has_written else "what it held is untouched"
        raise OSError(
            f"{destination} cannot be written: {error}; {left}, "
            "make room or name another destination"
        ) from error
    except BaseException:
        packing.undo()
        raise


def check_destination(destination: str, overwrite: bool) -> list[str]:
    """Make sure that the destination is free and can be written, before hours of work.

    Returns the names of what must give way to the new set, in the order of their removal: with
    `overwrite` a set that is there, and always the unfinished files of a killed pack.
    """
    try:
        names = list_names(destination)
        write_bytes(join_url(destination, _PROBE), b"")
        remove_tree(join_url(destination, _PROBE))
    except (RuntimeError, ValueError):
        raise
    except Exception as error:  # object stores have their own kinds of exception
        raise OSError(f"{destination} cannot be written: {error}") from error
    shards = [name for name in names if _OURS.fullmatch(name)]
    if not overwrite and MANIFEST_NAME in names:
        raise ValueError(
            f"{destination} already holds a packed set; pass --overwrite to replace it, or name "
            "another destination"
        )
    if not overwrite and shards:
        raise ValueError(
            f"{destination} holds {shards[0]} but no {MANIFEST_NAME}: an interrupted pack, or "
            "shards of another origin; pass --overwrite to replace them"
        )
    # The manifest goes first: a set that is being removed is no set.
    manifest = [name for name in names if name == MANIFEST_NAME]
    return [*manifest, *shards, *(name for name in names if _PART.fullmatch(name))]


def _refuse_empty_splits(plan: PackPlan, recipe: PackRecipe) -> None:
    """An empty split is an error, unless no validation was asked for."""
    if not plan.splits["train"]:
        raise ValueError("no image is listed for the split 'train'; add images")
    if not plan.splits["val"] and recipe.validation_fraction > 0:
        raise ValueError(
            "no image is listed for the split 'val'; add images, or set pack.validation_fraction "
            "to 0 to go without"
        )


def _refuse_nesting(source: Path, destination: str) -> None:
    if not is_local(destination):
        return
    if Path(open_filesystem(destination)[1]).resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{destination} lies in the source {source}; name a folder outside it")


class _Packing:
    """One run: what was counted and written so far."""

    def __init__(
        self, plan: PackPlan, destination: str, recipe: PackRecipe, old_files: list[str]
    ) -> None:
        self.has_written = False  # before that the old files are still there
        self._old_files = old_files
        self._plan = plan
        self._destination = destination
        self._recipe = recipe
        self._labels = {name: label for label, name in enumerate(plan.classes)}
        self._writers: dict[str, ShardWriter] = {}
        self._refused: list[RefusedImage] = list(plan.ignored)
        self._converted: Counter[str] = Counter()
        self._num_stored = 0
        self._color_sum = np.zeros(3)
        self._num_pixels = 0

    def run(self, threads: int, progress: Progress) -> Manifest:
        total = sum(len(images) for images in self._plan.splits.values())
        done = 0
        with ThreadPoolExecutor(threads) as pool:
            for split in SPLITS:
                writer = ShardWriter(self._destination, split, self._recipe)
                self._writers[split] = writer
                for image, result in self._results(pool, split, ahead=4 * threads):
                    self._take(split, image, result)
                    done += 1
                    progress(done, total)
                writer.close()
                self._require_images(split)
        manifest = Manifest(
            recipe=self._recipe,
            classes=self._plan.classes,
            mean_color=self._mean_color(),
            splits={split: writer.entries for split, writer in self._writers.items()},
            converted=dict(sorted(self._converted.items())),
            refused=sorted(self._refused, key=lambda image: image.path),
        )
        save_manifest(self._destination, manifest)
        return manifest

    def undo(self) -> None:
        """Remove what this run wrote, as far as the destination still allows."""
        for writer in self._writers.values():
            writer.abandon()
        if not self.has_written:
            return
        with contextlib.suppress(Exception):  # the error that led here says more
            for name in list_names(self._destination):
                if _OURS.fullmatch(name) or name == MANIFEST_NAME:
                    remove_tree(join_url(self._destination, name))

    def _results(
        self, pool: ThreadPoolExecutor, split: str, ahead: int
    ) -> Iterator[tuple[SourceImage, StoredImage | RefusedImage]]:
        """In the order of the plan, whichever thread is first; `ahead` bounds the memory."""
        waiting: deque[tuple[SourceImage, Future]] = deque()
        for image in self._plan.splits[split]:
            waiting.append((image, pool.submit(self._convert, image, split)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()

    def _convert(self, image: SourceImage, split: str) -> StoredImage | RefusedImage:
        try:
            return convert_image(image.path, split, self._recipe)
        except UnusableImage as error:
            return RefusedImage(image.name, str(error))

    def _take(self, split: str, image: SourceImage, result: StoredImage | RefusedImage) -> None:
        if isinstance(result, RefusedImage):
            self._refused.append(result)
            return
        description = {
            "class": image.class_name,
            "label": self._labels[image.class_name],
            "source": image.name,
            "original_size": list(result.original_size),
        }
        if not self.has_written:
            self._remove_old_files()
        masks = draw_masks(self._recipe, self._num_stored)
        self._writers[split].add(
            self._num_stored, result, self._labels[image.class_name], description, masks
        )
        self._num_stored += 1
        self._converted.update(result.conversions)
        if split == "train":
            self._color_sum += result.color_sum
            self._num_pixels += result.width * result.height

    def _remove_old_files(self) -> None:
        self.has_written = True
        for name in self._old_files:
            remove_tree(join_url(self._destination, name))

    def _mean_color(self) -> tuple[float, float, float]:
        red, green, blue = (self._color_sum / (255 * self._num_pixels)).tolist()
        return red, green, blue

    def _require_images(self, split: str) -> None:
        """What the plan listed may all have been refused."""
        listed = len(self._plan.splits[split])
        if listed == 0 or self._writers[split].entries:
            return
        reasons = Counter(image.reason.split(":")[0] for image in self._refused)
        found = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
        remedy = (
            "add images, or change pack.validation_fraction or pack.seed"
            if split == "val"
            else "add images, or lower pack.crop_size"
        )
        raise ValueError(
            f"no image is left for the split {split!r} of {listed} listed ({found}); {remedy}"
        )
