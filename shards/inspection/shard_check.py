"""One shard and its index, compared with each other and with the manifest."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shards.format.finding import Finding, shown
from shards.format.index import decode_index, encode_index, index_dtype, index_name, sample_key
from shards.format.manifest import Manifest, ShardEntry
from shards.format.recipe import PackRecipe
from shards.format.tar_reader import Member, ShardFile, walk_tar
from shards.inspection.sample_check import SampleCheck

_MEMBER = re.compile(r"(\d{8,20})\.([a-z.]+)")
_HASHED_AT_ONCE = 1 << 20  # bytes


@dataclass
class ShardResult:
    """What was found in one shard. `keys` are the image numbers of its samples, uint64."""

    split: str
    entry: ShardEntry
    findings: list[Finding] = field(default_factory=list)
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    num_images: int = 0  # whose pixels and description were checked
    num_bytes: int = 0


def check_shard(
    manifest: Manifest,
    split: str,
    entry: ShardEntry,
    read_index: Callable[[], bytes] | None,
    fetch: Callable[[], Path] | None,
) -> ShardResult:
    """`read_index` gives the index's bytes and `fetch` the shard's local path; None: missing."""
    result = ShardResult(split, entry)
    missing = "the file is missing although the manifest lists it"
    records = None
    if read_index is None:
        result.findings.append(Finding(index_name(entry.name), missing))
    else:
        records = _read_index(manifest, entry, read_index, result)
    if fetch is None:
        result.findings.append(Finding(entry.name, missing))
        return result
    try:
        with ShardFile(fetch()) as file:
            _check_content(manifest, file, records, result)
    except OSError as error:
        result.findings.append(
            Finding(entry.name, "the file cannot be read", "", shown(str(error)))
        )
    return result


def _read_index(
    manifest: Manifest, entry: ShardEntry, read: Callable[[], bytes], result: ShardResult
) -> np.ndarray | None:
    """None, with the finding reported, where the records cannot be used."""
    name, report = index_name(entry.name), result.findings.append
    try:
        data = read()
    except OSError as error:
        report(Finding(name, "the file cannot be read", "", shown(str(error))))
        return None
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != entry.index_sha256:
        report(Finding(name, "SHA-256 is not the manifest's", entry.index_sha256, sha256))
    try:
        records = decode_index(data, name)
    except Exception as error:  # NumPy's reader has many kinds of complaint
        report(Finding(name, "the index cannot be parsed", "", shown(str(error))))
        return None
    masks = manifest.recipe.masks
    dtype = index_dtype(masks.masks_per_image, masks.holes_per_mask)
    if records.dtype != dtype:
        report(Finding(name, "the records have another layout", shown(dtype), shown(records.dtype)))
        return None
    if encode_index(records) != data:
        size = str(len(encode_index(records)))
        report(Finding(name, "the file holds more than its records", size, str(len(data))))
    if len(records) != entry.num_images:
        what = "number of records is not the manifest's"
        report(Finding(name, what, str(entry.num_images), str(len(records))))
    return records


def _check_content(
    manifest: Manifest, file: ShardFile, records: np.ndarray | None, result: ShardResult
) -> None:
    entry, report = result.entry, result.findings.append
    result.num_bytes = file.size
    if file.size != entry.size_bytes:
        found = str(file.size)
        report(Finding(entry.name, "size is not the manifest's", str(entry.size_bytes), found))
    sha256 = _sha256(file)
    if sha256 != entry.sha256:
        report(Finding(entry.name, "SHA-256 is not the manifest's", entry.sha256, sha256))
    if not manifest.plan_sha256:
        _check_external_images(manifest, file, records, result)
        return
    members = walk_tar(file, entry.name, report)
    layout = MemberLayout(manifest.recipe)
    result.findings.extend(_order_findings(entry.name, members, layout))
    images = [member for member in members if layout.part(member)[1] == "image"]
    if len(images) != entry.num_images:
        what = "number of images is not the manifest's"
        report(Finding(entry.name, what, str(entry.num_images), str(len(images))))
    if records is None:
        result.keys = np.array([layout.part(member)[0] for member in images], np.uint64)
        samples = [(member, None) for member in members if layout.part(member)[1]]
    else:
        result.keys = records["image_number"]
        result.findings.extend(_index_findings(entry.name, members, records, layout))
        samples = [(indexed, record) for record in records for indexed in layout.indexed(record)]
    check = SampleCheck(manifest, result.split)
    for member, record in samples:
        result.findings.extend(_member_findings(check, file, entry.name, member, record, layout))
        result.num_images += layout.part(member)[1] == "image"


def _check_external_images(
    manifest: Manifest, file: ShardFile, records: np.ndarray | None, result: ShardResult
) -> None:
    """Of a shard that others packed, what is read of it: the images where the index says."""
    check = SampleCheck(manifest, "")  # validation images have the size they have
    layout = MemberLayout(manifest.recipe)
    if records is not None:
        result.keys = records["image_number"]
    for record in [] if records is None else records:
        member = next(iter(layout.indexed(record)))
        result.findings.extend(
            _member_findings(check, file, result.entry.name, member, record, layout)
        )
        result.num_images += 1


def _sha256(file: ShardFile) -> str:
    digest, position = hashlib.sha256(), 0
    while chunk := file.read(position, _HASHED_AT_ONCE):
        digest.update(chunk)
        position += len(chunk)
    return digest.hexdigest()


class MemberLayout:
    """Which members a sample has, in their order, and what the index calls them."""

    def __init__(self, recipe: PackRecipe) -> None:
        self.parts = {recipe.extension: "image", "json": "json"}
        if recipe.masks.kind == "strokes":
            self.parts["masks.png"] = "mask"

    def part(self, member: Member) -> tuple[int, str]:
        """Key and part; (0, "") where the name is not that of a sample's member."""
        match = _MEMBER.fullmatch(member.name)
        if match is None or sample_key(int(match[1])) != match[1] or int(match[1]) >= 2**64:
            return 0, ""
        return int(match[1]), self.parts.get(match[2], "")

    def after(self, member: Member) -> list[str]:
        """Return the names that must follow a sample's first member."""
        key = member.name.partition(".")[0]
        return [f"{key}.{extension}" for extension in list(self.parts)[1:]]

    def indexed(self, record: np.void) -> Iterator[Member]:
        """Yield the members of a sample, where its index record says that they lie."""
        for extension, part in self.parts.items():
            name = f"{sample_key(int(record['image_number']))}.{extension}"
            yield Member(name, int(record[f"{part}_offset"]), int(record[f"{part}_size"]))


def _order_findings(shard: str, members: list[Member], layout: MemberLayout) -> Iterator[Finding]:
    """Check that the members of each sample stand together, the image first, with rising keys."""
    extensions = " or ".join(f".{extension}" for extension in layout.parts)
    last_key, awaited = -1, list[str]()  # `awaited`: the rest of the sample that has begun
    for member in members:
        place = f"{shard} {shown(member.name)}"
        key, part = layout.part(member)
        if not part:
            expected = f"eight digits and {extensions}"
            yield Finding(place, "the name is not that of a sample", expected, shown(member.name))
            continue
        expected = awaited[0] if awaited else f"an image with a key above {last_key}"
        is_next = member.name == awaited[0] if awaited else part == "image" and key > last_key
        if not is_next:
            yield Finding(place, "the member is out of order", expected, member.name)
        last_key = key
        if part == "image":
            awaited = layout.after(member)
        elif awaited and is_next:
            awaited = awaited[1:]
        else:  # lost: the next image begins again
            awaited = []
    for name in awaited:
        yield Finding(f"{shard} {name}", "the last sample lacks a member")


def _index_findings(
    shard: str, members: list[Member], records: np.ndarray, layout: MemberLayout
) -> Iterator[Finding]:
    at_offset = {member.offset: member for member in members}
    by_name = {member.name: member for member in members}
    indexed = [member for record in records for member in layout.indexed(record)]
    for member in indexed:
        place, there = f"{shard} {member.name}", at_offset.get(member.offset)
        if there is None:
            elsewhere = by_name.get(member.name)
            found = f"byte {elsewhere.offset}" if elsewhere else "none"
            what = "no member lies where the index says"
            yield Finding(place, what, f"byte {member.offset}", found)
            continue
        if there.name != member.name:
            what = "another member lies where the index says"
            yield Finding(f"{shard} at byte {member.offset}", what, member.name, shown(there.name))
        if there.size != member.size:
            what = "the size of the member is not the index's"
            yield Finding(place, what, str(member.size), str(there.size))
    places = {member.offset for member in indexed}
    for member in members:
        if member.offset not in places:
            yield Finding(f"{shard} {shown(member.name)}", "the member is not in the index")
    numbers = records["image_number"]
    for position in np.flatnonzero(numbers[1:] <= numbers[:-1]).tolist():
        place = f"{index_name(shard)} record {position + 1}"
        expected = f"above {numbers[position]}"
        yield Finding(place, "the keys do not rise", expected, str(numbers[position + 1]))


def _member_findings(
    check: SampleCheck,
    file: ShardFile,
    shard: str,
    member: Member,
    record: np.void | None,
    layout: MemberLayout,
) -> Iterator[Finding]:
    place, part = f"{shard} {member.name}", layout.part(member)[1]
    if part == "json" and member.size > check.json_bytes_max:
        expected = f"at most {check.json_bytes_max} bytes"
        yield Finding(place, "the description is too large", expected, f"{member.size} bytes")
        return
    if member.offset + member.size > file.size:
        expected = f"up to byte {member.offset + member.size}"
        yield Finding(
            place, "the member's bytes are missing", expected, f"{file.size} bytes in all"
        )
        return
    data = file.read(member.offset, member.size)
    if record is not None:
        indexed, crc32 = int(record[f"{part}_crc32"]), zlib.crc32(data)
        if crc32 != indexed:
            yield Finding(place, "CRC-32 is not the index's", f"{indexed:08x}", f"{crc32:08x}")
    if part == "image":
        yield from check.image_findings(place, data, record)
    elif part == "json":
        yield from check.json_findings(place, data, record)
    else:
        yield from check.mask_findings(place, data, record)
