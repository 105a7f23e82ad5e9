"""Pack a source of image classes into a set: shards, their indexes and the manifest.

The plan, a function of the source's listing and the recipe, says which images lie in which shard.
So shards are independent of each other: any process on any machine may pack any of them, and one
that is packed again has the same bytes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from shards.cores import available_cores
from shards.format.manifest import MANIFEST_NAME, RECORDS, SPLITS, Manifest, load_manifest
from shards.format.recipe import PackRecipe, recipe_errors
from shards.packing.merge import merge_slices
from shards.packing.pack_shard import ShardTask, usable_image
from shards.packing.processes import PackingProcesses
from shards.packing.records import (
    PlannedShard,
    ShardRecord,
    planned_shards,
    read_plan_sha256,
    read_shard_records,
    remove_records,
    save_plan,
    save_record,
    slice_record,
)
from shards.packing.shard_writer import PROBE, remove_abandoned_parts
from shards.sources.plan import PackPlan, plan_packing
from shards.storage.files import (
    is_local,
    join_url,
    list_names,
    open_filesystem,
    remove_tree,
    write_bytes,
)

Progress = Callable[[int, int], None]  # images done, images in all

_OURS = re.compile(r"(train|val)-\d{6}\.(tar|idx)")


class PackWatch(Protocol):
    """Metrics of a pack as it goes on."""

    def planned(self, shards: int, images: int) -> None: ...

    def images_done(self, images: int) -> None: ...

    def shard_done(self, record: ShardRecord, masks_per_image: int, *, earlier: bool) -> None:
        """`earlier`: by an attempt before this one."""


def pack_images(
    source: str | Path,
    destination: str,
    recipe: PackRecipe,
    *,
    workers: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
    watch: PackWatch | None = None,
) -> Manifest:
    """Pack `source`, a folder, archive, list or URL, into `destination`, a folder or URL.

    Images that cannot be stored are left out and listed in `Manifest.refused`, and so are files
    that were ignored. The result does not depend on `workers`, processes (0: all cores).

    What a killed or failed pack has finished is kept, and the same call goes on from there; a set
    that is complete is returned as it is. Raises ValueError for a recipe, source or destination
    that cannot be used, and OSError, naming the destination, if it cannot be written.

    With `overwrite`, whatever set is there is removed, once an image of the new one is known to be
    fit for storing: what ends the packing before that leaves the old set as it was.
    """
    _require_sound(str(source), destination, recipe)
    with PackingProcesses(workers or available_cores()) as processes:
        plan = _plan(str(source), recipe)
        state = _inspect(destination, plan, overwrite)
        if state.is_complete:
            remove_records(destination)  # left by a pack that was killed in its last moment
            return load_manifest(destination)
        if state.to_remove:
            _require_usable_image(plan, recipe)
            for name in state.to_remove:
                remove_tree(join_url(destination, name))
        _pack_slice(plan, destination, recipe, 0, 1, workers, processes, progress, watch)
    return merge_slices(destination)


def pack_slice(
    source: str | Path,
    destination: str,
    recipe: PackRecipe,
    number: int,
    of: int,
    *,
    workers: int = 0,
    progress: Progress | None = None,
    watch: PackWatch | None = None,
) -> int:
    """Pack slice `number` of `of`: every `of`-th shard of the plan. Returns the images stored.

    Slices need nothing of each other and may be packed at any time, in any order, on any machine;
    `shards.packing.merge.merge_slices` makes the set of them. Raises what `pack_images` raises.
    """
    if not 0 <= number < of:
        raise ValueError(f"the slice is {number}/{of}: must lie in 0 to {of - 1}")
    _require_sound(str(source), destination, recipe)
    with PackingProcesses(workers or available_cores()) as processes:
        plan = _plan(str(source), recipe)
        if _inspect(destination, plan, overwrite=False).is_complete:
            return 0
        return _pack_slice(
            plan, destination, recipe, number, of, workers, processes, progress, watch
        )


def _require_sound(source: str, destination: str, recipe: PackRecipe) -> None:
    errors = recipe_errors(recipe)
    if errors:
        raise ValueError("the images cannot be packed so:\n  " + "\n  ".join(errors))
    _refuse_nesting(source, destination)


def _plan(source: str, recipe: PackRecipe) -> PackPlan:
    plan = plan_packing(source, recipe)
    _refuse_empty_splits(plan, recipe)
    return plan


def _pack_slice(
    plan: PackPlan,
    destination: str,
    recipe: PackRecipe,
    number: int,
    of: int,
    workers: int,
    processes: PackingProcesses,
    progress: Progress | None,
    watch: PackWatch | None,
) -> int:
    num_planned = {split: len(images) for split, images in plan.splits.items()}
    shards = planned_shards(num_planned, recipe.images_per_shard)[number::of]
    total = sum(shard.stop - shard.start for shard in shards)
    done = num_stored = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        if watch is not None:
            watch.images_done(done)
        if progress is not None and images:
            progress(done, total)

    def count(record: ShardRecord, earlier: bool) -> None:
        nonlocal num_stored
        num_stored += record.entry.num_images if record.entry is not None else 0
        if watch is not None:
            watch.shard_done(record, recipe.masks.masks_per_image, earlier=earlier)

    if watch is not None:
        watch.planned(len(shards), total)
    try:
        save_plan(destination, plan.sha256)
        remove_abandoned_parts(destination)
        finished = read_shard_records(destination, (shard.name for shard in shards))
        missing = [shard for shard in shards if shard.name not in finished]
        advance(sum(s.stop - s.start for s in shards if s.name in finished))
        for record in finished.values():
            count(record, earlier=True)
        workers = workers or available_cores()
        at_once = max(1, min(workers, len(missing)))
        tasks = _tasks(plan, destination, recipe, missing, threads=workers // at_once)
        for record in processes.pack(tasks, at_once, advance):
            count(record, earlier=False)
        save_record(destination, slice_record(plan, recipe, number, of))
    except OSError as error:
        raise OSError(
            f"packing into {destination} failed: {error}; the shards that are finished stay: mend "
            "the cause and run the same command again, or name another destination"
        ) from error
    return num_stored


def _tasks(
    plan: PackPlan,
    destination: str,
    recipe: PackRecipe,
    shards: list[PlannedShard],
    threads: int = 1,
) -> Iterator[ShardTask]:
    labels = {name: label for label, name in enumerate(plan.classes)}
    plan_sha256 = plan.sha256
    for shard in shards:
        images = plan.splits[shard.split][shard.start : shard.stop]
        needed = {image.class_name: labels[image.class_name] for image in images}
        yield ShardTask(
            plan.location, destination, recipe, plan_sha256, shard, images, needed, threads
        )


class _State:
    """What a destination holds."""

    def __init__(self, is_complete: bool, to_remove: list[str]) -> None:
        self.is_complete = is_complete  # the set of this very plan
        self.to_remove = to_remove  # in this order, before packing can begin


def _inspect(destination: str, plan: PackPlan, overwrite: bool) -> _State:
    """Make sure that the destination can be used and written, before hours of work."""
    names = probe_destination(destination)
    shards = [name for name in names if _OURS.fullmatch(name)]
    ours = [name for name in (MANIFEST_NAME, RECORDS) if name in names]
    # The manifest goes first: a set that is being removed is no set.
    everything = [*ours, *shards]
    if MANIFEST_NAME in names:
        if overwrite:
            return _State(False, everything)
        if load_manifest(destination).plan_sha256 == plan.sha256:
            return _State(True, [])
        raise ValueError(
            f"{destination} already holds a packed set, of another source or recipe; pass "
            "--overwrite to replace it, or name another destination"
        )
    packed_plan = read_plan_sha256(destination) if RECORDS in names else ""
    if packed_plan == plan.sha256 or overwrite or not (shards or packed_plan):
        return _State(False, [] if packed_plan == plan.sha256 else everything)
    if packed_plan:
        raise ValueError(
            f"{destination} holds an unfinished pack of another source or recipe; run that command "
            "again, pass --overwrite to replace it, or name another destination"
        )
    raise ValueError(
        f"{destination} holds {shards[0]} but no {MANIFEST_NAME}: shards of another origin; pass "
        "--overwrite to replace them, or name another destination"
    )


def probe_destination(destination: str) -> list[str]:
    """Return the names in a destination that can be written. OSError if it cannot be."""
    try:
        names = list_names(destination)
        probe = join_url(destination, f"{PROBE}{uuid.uuid4().hex[:8]}")  # others pack there too
        write_bytes(probe, b"")
        remove_tree(probe)
    except (RuntimeError, ValueError):
        raise
    except Exception as error:  # object stores have their own kinds of exception
        raise OSError(f"{destination} cannot be written: {error}") from error
    return names


def _require_usable_image(plan: PackPlan, recipe: PackRecipe) -> None:
    """Read images, in the order of the plan, until one is found that can be stored."""
    num_planned = {split: len(images) for split, images in plan.splits.items()}
    for task in _tasks(plan, "", recipe, planned_shards(num_planned, recipe.images_per_shard)):
        if usable_image(task):
            return
    raise ValueError(
        f"no image of {plan.location} can be stored by this recipe, so the set that is there stays "
        "as it is; lower pack.crop_size, or look at the images"
    )


def _refuse_empty_splits(plan: PackPlan, recipe: PackRecipe) -> None:
    """An empty split is an error, unless it was asked to be."""
    if not plan.splits["train"] and recipe.validation_fraction < 1:
        raise ValueError(
            "no image is listed for the split 'train'; add images, or set "
            "pack.validation_fraction to 1 for a set to judge on"
        )
    if not plan.splits["val"] and recipe.validation_fraction > 0:
        raise ValueError(
            "no image is listed for the split 'val'; add images, or set pack.validation_fraction "
            "to 0 to go without"
        )


def _refuse_nesting(source: str, destination: str) -> None:
    if not is_local(destination) or not is_local(source):
        return
    inner, outer = (Path(open_filesystem(place)[1]).resolve() for place in (destination, source))
    if inner.is_relative_to(outer):
        raise ValueError(f"{destination} lies in the source {source}; name a folder outside it")


assert set(SPLITS) == {"train", "val"}  # what _OURS knows of
