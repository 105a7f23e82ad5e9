"""What packers leave in the destination for those who come after them: one record for each finished
shard, one for each finished slice.

They lie in `pack-records/` until the manifest has taken up what they say. A record is written after
its shard, so what has a record is whole; all of them carry the digest of the plan that they follow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from shards.format.manifest import RECORDS, SPLITS, RefusedImage, ShardEntry, parse_recipe
from shards.format.recipe import PackRecipe
from shards.sources.plan import PackPlan
from shards.storage.files import join_url, list_names, read_bytes, remove_tree, write_bytes

_PLAN = "plan.json"
_READERS = 16  # records are small: on object storage their latency is what costs


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard. `entry` is None where every image of it was refused: no file is written."""

    plan_sha256: str
    split: str
    name: str
    entry: ShardEntry | None
    color_sum: tuple[int, int, int]  # over its pixels, of each of R, G, B in [0, 255]
    num_pixels: int
    converted: dict[str, int]
    refused: list[RefusedImage]


@dataclass(frozen=True)
class SliceRecord:
    """A finished slice: what all of the plan's slices have in common, and which one it is."""

    plan_sha256: str
    number: int
    of: int
    recipe: PackRecipe
    classes: list[str]
    num_planned: dict[str, int]  # images of each split
    ignored: list[RefusedImage]

    @property
    def name(self) -> str:
        return f"slice-{self.number:05d}-of-{self.of:05d}"


@dataclass(frozen=True)
class PlannedShard:
    """A shard's place in the plan: images [start, stop) of its split."""

    split: str
    name: str
    start: int
    stop: int
    first_image_number: int  # of its first image: training images come before validation images


def planned_shards(num_planned: dict[str, int], images_per_shard: int) -> list[PlannedShard]:
    """Every shard of a plan, training before validation."""
    shards, before = [], 0
    for split in SPLITS:
        count = num_planned.get(split, 0)
        for number, start in enumerate(range(0, count, images_per_shard)):
            stop = min(start + images_per_shard, count)
            name = f"{split}-{number:06d}.tar"
            shards.append(PlannedShard(split, name, start, stop, before + start))
        before += count
    return shards


def slice_record(plan: PackPlan, recipe: PackRecipe, number: int, of: int) -> SliceRecord:
    return SliceRecord(
        plan_sha256=plan.sha256,
        number=number,
        of=of,
        recipe=recipe,
        classes=plan.classes,
        num_planned={split: len(images) for split, images in plan.splits.items()},
        ignored=plan.ignored,
    )


def save_record(destination: str, record: ShardRecord | SliceRecord) -> None:
    content = json.dumps(asdict(record), separators=(",", ":")).encode()
    write_bytes(_record_url(destination, record.name), content)


def read_shard_records(destination: str, names: Iterable[str]) -> dict[str, ShardRecord]:
    """Return the records of the shards `names`, by name; those that do not exist are left out.

    Raises ValueError, naming the file, for what is not a record.
    """
    urls = {name: _record_url(destination, name) for name in names}
    there = set(list_names(join_url(destination, RECORDS)))
    wanted = {name: url for name, url in urls.items() if url.rsplit("/", 1)[-1] in there}
    with ThreadPoolExecutor(_READERS) as pool:
        contents = pool.map(_read, wanted.values())
        return {
            name: _parse_record(_shard_record, content, url)
            for (name, url), content in zip(wanted.items(), contents, strict=True)
            if content is not None  # removed since it was listed
        }


def read_slice_records(destination: str) -> list[SliceRecord]:
    """By number. Raises ValueError, naming the file, for what is not a record."""
    folder = join_url(destination, RECORDS)
    records = []
    for name in list_names(folder):
        content = _read(join_url(folder, name)) if name.startswith("slice-") else None
        if content is not None:
            records.append(_parse_record(_slice_record, content, join_url(folder, name)))
    return sorted(records, key=lambda record: (record.of, record.number))


def save_plan(destination: str, plan_sha256: str) -> None:
    """Before the first shard: from here on the destination belongs to this plan."""
    content = json.dumps({"plan_sha256": plan_sha256}).encode()
    write_bytes(join_url(destination, RECORDS, _PLAN), content)


def read_plan_sha256(destination: str) -> str:
    """Return the plan to which an unfinished pack belongs; empty if there is none."""
    url = join_url(destination, RECORDS, _PLAN)
    content = _read(url)
    if content is None:
        return ""
    return str(_parse_record(lambda values: str(values["plan_sha256"]), content, url))


def remove_records(destination: str) -> None:
    remove_tree(join_url(destination, RECORDS))


def _record_url(destination: str, name: str) -> str:
    return join_url(destination, RECORDS, f"{name.removesuffix('.tar')}.json")


def _read(url: str) -> bytes | None:
    try:
        return read_bytes(url)
    except FileNotFoundError:
        return None


def _parse_record(parse: Any, content: bytes, url: str) -> Any:
    try:
        return parse(json.loads(content))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{url} is not the record of a packer ({error!r}); remove it and pack again"
        ) from error


def _shard_record(values: dict[str, Any]) -> ShardRecord:
    entry = values["entry"]
    red, green, blue = values["color_sum"]
    return ShardRecord(
        **{
            **values,
            "entry": None if entry is None else ShardEntry(**entry),
            "color_sum": (red, green, blue),
            "refused": [RefusedImage(**image) for image in values["refused"]],
        }
    )


def _slice_record(values: dict[str, Any]) -> SliceRecord:
    return SliceRecord(
        **{
            **values,
            "recipe": parse_recipe(values["recipe"]),
            "ignored": [RefusedImage(**image) for image in values["ignored"]],
        }
    )
