"""Join what the packers of all slices have left into one manifest."""

from __future__ import annotations

from collections import Counter

import numpy as np

from shards.format.manifest import (
    MANIFEST_NAME,
    SPLITS,
    Manifest,
    RefusedImage,
    load_manifest,
    save_manifest,
)
from shards.packing.records import (
    ShardRecord,
    SliceRecord,
    planned_shards,
    read_shard_records,
    read_slice_records,
    remove_records,
)
from shards.packing.shard_writer import remove_all_parts
from shards.storage.files import list_names, list_tree

_LISTED = 5  # names in a message


def merge_slices(destination: str) -> Manifest:
    """Write the manifest of a set whose slices are all packed, and remove the packers' records.

    Merged once more, it returns the manifest that is there. Raises ValueError for slices that are
    missing, that overlap, or that were packed from different sources or by different recipes.
    """
    slices = read_slice_records(destination)
    if not slices:
        if MANIFEST_NAME in list_names(destination):
            return load_manifest(destination)
        raise ValueError(
            f"{destination} holds no packed slice; run `glcic pack SOURCE {destination} --slice "
            "I/N` for every I from 0 to N - 1, then merge"
        )
    _require_one_plan(destination, slices)
    whole = slices[0]
    planned = planned_shards(whole.num_planned, whole.recipe.images_per_shard)
    records = read_shard_records(destination, (shard.name for shard in planned))
    _require_all(
        destination, [shard.name for shard in planned if shard.name not in records], "no record"
    )
    ordered = [records[shard.name] for shard in planned]
    _require_plan_of_records(destination, whole, ordered)
    _require_files(destination, ordered)
    manifest = _manifest(whole, ordered)
    _require_images(destination, whole, manifest, ordered)
    remove_all_parts(destination)
    save_manifest(destination, manifest)
    remove_records(destination)
    return manifest


def merge_if_last(destination: str, of: int) -> Manifest | None:
    """Merge once all `of` slices are packed; None while some are not.

    For the packer of a slice that has just ended: whichever ends last, or several at once, make
    the set. Raises what `merge_slices` raises.
    """
    if len(read_slice_records(destination)) < of and MANIFEST_NAME not in list_names(destination):
        return None
    try:
        return merge_slices(destination)
    except (ValueError, OSError):
        # Another packer was quicker, and has removed the records while they were read.
        if MANIFEST_NAME in list_names(destination):
            return load_manifest(destination)
        raise


def _require_one_plan(destination: str, slices: list[SliceRecord]) -> None:
    first = slices[0]
    for other in slices[1:]:
        if other.plan_sha256 != first.plan_sha256:
            raise ValueError(
                f"{destination}: {first.name} and {other.name} were not packed from the same "
                "source by the same recipe (the lists of images differ); pack them again alike, "
                "into an empty destination"
            )
    counts = sorted({record.of for record in slices})
    if len(counts) > 1:
        raise ValueError(
            f"{destination} holds slices of different divisions, of {' and of '.join(map(str, counts))}, "  # noqa: E501
            "which overlap; remove the records of one kind and merge again"
        )
    missing = sorted(set(range(first.of)) - {record.number for record in slices})
    if missing:
        names = _format_names([f"{number}/{first.of}" for number in missing])
        raise ValueError(
            f"{destination}: {len(missing)} of {first.of} slices are not packed: {names}; "
            "pack them, then merge again"
        )


def _format_names(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _require_all(destination: str, missing: list[str], what: str) -> None:
    if missing:
        raise ValueError(
            f"{destination}: {what} of {_format_names(missing)}, although all slices are packed; "
            "run the slices again: only what is missing is packed"
        )


def _require_plan_of_records(
    destination: str, whole: SliceRecord, records: list[ShardRecord]
) -> None:
    external = [record.name for record in records if record.plan_sha256 != whole.plan_sha256]
    if external:
        raise ValueError(
            f"{destination}: {external[0]} was packed from another source or by another recipe "
            "than the rest; remove its record and pack its slice again"
        )


def _require_files(destination: str, records: list[ShardRecord]) -> None:
    """Each shard in its size: what else is wrong with it, `glcic verify` finds."""
    sizes = dict(list_tree(destination))
    wrong = [
        record.name
        for record in records
        if record.entry is not None and sizes.get(record.name) != record.entry.size_bytes
    ]
    _require_all(destination, wrong, "the file is missing or of another size")


def _manifest(whole: SliceRecord, records: list[ShardRecord]) -> Manifest:
    converted: Counter[str] = Counter()
    refused: list[RefusedImage] = list(whole.ignored)
    color_sum, num_pixels = np.zeros(3, dtype=object), 0  # Python's integers: exact
    has_training_images = any(record.split == "train" for record in records)
    for record in records:
        converted.update(record.converted)
        refused += record.refused
        if record.split == "train" or not has_training_images:
            color_sum += np.array(record.color_sum, dtype=object)
            num_pixels += record.num_pixels
    red, green, blue = (channel / (255 * max(num_pixels, 1)) for channel in color_sum)
    entries = {
        split: [r.entry for r in records if r.split == split and r.entry is not None]
        for split in SPLITS
    }
    return Manifest(
        recipe=whole.recipe,
        classes=whole.classes,
        mean_color=(red, green, blue),
        splits=entries,
        plan_sha256=whole.plan_sha256,
        converted=dict(sorted(converted.items())),
        refused=sorted(refused, key=lambda image: (image.path, image.reason)),
    )


def _require_images(
    destination: str, whole: SliceRecord, manifest: Manifest, records: list[ShardRecord]
) -> None:
    """What the plan listed may all have been refused."""
    for split in SPLITS:
        listed = whole.num_planned.get(split, 0)
        if listed == 0 or manifest.splits[split]:
            continue
        if not any(manifest.splits.values()):
            remove_records(destination)  # nothing was stored: no pack is left to go on with
        refused = [image for record in records if record.split == split for image in record.refused]
        reasons = Counter(image.reason.split(":")[0] for image in refused)
        found = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
        remedy = (
            "add images, or change pack.validation_fraction or pack.seed"
            if split == "val"
            else "add images, or lower pack.crop_size"
        )
        raise ValueError(
            f"no image is left for the split {split!r} of {listed} listed ({found}); {remedy}"
        )
