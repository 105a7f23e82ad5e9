"""One shard and its index, held against each other and against the manifest."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shards.fault import Fault, shown
from shards.index import decode_index, encode_index, index_dtype, index_name
from shards.manifest import Manifest, ShardEntry
from shards.sample_check import SampleCheck
from shards.tar_walk import Member, ShardFile, walk_tar
from shards.writer import sample_key

_MEMBER = re.compile(r"(\d{8,20})\.(jpg|json)")
_EXTENSIONS = {"jpg": "image", "json": "json"}  # and what the index calls them
_HASHED_AT_ONCE = 1 << 20  # bytes


@dataclass
class ShardResult:
    """What was found in one shard. `keys` are the image numbers of its samples, uint64."""

    split: str
    entry: ShardEntry
    faults: list[Fault] = field(default_factory=list)
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    num_images: int = 0  # whose pixels and description were looked at
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
        result.faults.append(Fault(index_name(entry.name), missing))
    else:
        records = _read_index(manifest, entry, read_index, result)
    if fetch is None:
        result.faults.append(Fault(entry.name, missing))
        return result
    try:
        with ShardFile(fetch()) as file:
            _check_content(manifest, file, records, result)
    except OSError as error:
        result.faults.append(Fault(entry.name, "the file cannot be read", "", shown(str(error))))
    return result


def _read_index(
    manifest: Manifest, entry: ShardEntry, read: Callable[[], bytes], result: ShardResult
) -> np.ndarray | None:
    """None, with the fault reported, where the records cannot be used."""
    name, report = index_name(entry.name), result.faults.append
    try:
        data = read()
    except OSError as error:
        report(Fault(name, "the file cannot be read", "", shown(str(error))))
        return None
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != entry.index_sha256:
        report(Fault(name, "SHA-256 is not the manifest's", entry.index_sha256, sha256))
    try:
        records = decode_index(data, name)
    except Exception as error:  # NumPy's reader has many kinds of complaint
        report(Fault(name, "the index cannot be parsed", "", shown(str(error))))
        return None
    masks = manifest.recipe.masks
    dtype = index_dtype(masks.masks_per_image, masks.holes_per_mask)
    if records.dtype != dtype:
        report(Fault(name, "the records have another layout", shown(dtype), shown(records.dtype)))
        return None
    if encode_index(records) != data:
        size = str(len(encode_index(records)))
        report(Fault(name, "the file holds more than its records", size, str(len(data))))
    if len(records) != entry.num_images:
        what = "number of records is not the manifest's"
        report(Fault(name, what, str(entry.num_images), str(len(records))))
    return records


def _check_content(
    manifest: Manifest, file: ShardFile, records: np.ndarray | None, result: ShardResult
) -> None:
    entry, report = result.entry, result.faults.append
    result.num_bytes = file.size
    if file.size != entry.size_bytes:
        found = str(file.size)
        report(Fault(entry.name, "size is not the manifest's", str(entry.size_bytes), found))
    sha256 = _sha256(file)
    if sha256 != entry.sha256:
        report(Fault(entry.name, "SHA-256 is not the manifest's", entry.sha256, sha256))
    members = walk_tar(file, entry.name, report)
    result.faults.extend(_order_faults(entry.name, members))
    images = [member for member in members if member.name.endswith(".jpg")]
    if len(images) != entry.num_images:
        what = "number of images is not the manifest's"
        report(Fault(entry.name, what, str(entry.num_images), str(len(images))))
    if records is None:
        result.keys = np.array(
            [key for key, extension in map(_sample_name, images) if extension], np.uint64
        )
        samples = [(member, None) for member in members if _sample_name(member)[1]]
    else:
        result.keys = records["image_number"]
        result.faults.extend(_index_faults(entry.name, members, records))
        samples = [(indexed, record) for record in records for indexed in _indexed(record)]
    check = SampleCheck(manifest, result.split)
    for member, record in samples:
        result.faults.extend(_member_faults(check, file, entry.name, member, record))
        result.num_images += member.name.endswith(".jpg")


def _sha256(file: ShardFile) -> str:
    digest, position = hashlib.sha256(), 0
    while chunk := file.read(position, _HASHED_AT_ONCE):
        digest.update(chunk)
        position += len(chunk)
    return digest.hexdigest()


def _sample_name(member: Member) -> tuple[int, str]:
    """Key and extension; (0, "") where the name is not that of a sample's member."""
    match = _MEMBER.fullmatch(member.name)
    if match is None or sample_key(int(match[1])) != match[1] or int(match[1]) >= 2**64:
        return 0, ""
    return int(match[1]), match[2]


def _order_faults(shard: str, members: list[Member]) -> Iterator[Fault]:
    """Members are pairs, the image first, with rising keys."""
    last_key, awaited = -1, ""  # `awaited` is the second half of the pair that has begun
    for member in members:
        place = f"{shard} {shown(member.name)}"
        key, extension = _sample_name(member)
        if not extension:
            expected = "eight digits and .jpg or .json"
            yield Fault(place, "the name is not that of a sample", expected, shown(member.name))
            continue
        expected = awaited or f"an image with a key above {last_key}"
        is_next = member.name == awaited if awaited else extension == "jpg" and key > last_key
        if not is_next:
            yield Fault(place, "the member is out of order", expected, member.name)
        last_key = key
        awaited = f"{sample_key(key)}.json" if extension == "jpg" else ""
    if awaited:
        yield Fault(f"{shard} {awaited}", "the pair of the last image is missing")


def _indexed(record: np.void) -> Iterator[Member]:
    """The two members of a sample, where its index record says that they lie."""
    for extension, kind in _EXTENSIONS.items():
        name = f"{sample_key(int(record['image_number']))}.{extension}"
        yield Member(name, int(record[f"{kind}_offset"]), int(record[f"{kind}_size"]))


def _index_faults(shard: str, members: list[Member], records: np.ndarray) -> Iterator[Fault]:
    at_offset = {member.offset: member for member in members}
    by_name = {member.name: member for member in members}
    indexed = [member for record in records for member in _indexed(record)]
    for member in indexed:
        place, there = f"{shard} {member.name}", at_offset.get(member.offset)
        if there is None:
            elsewhere = by_name.get(member.name)
            found = f"byte {elsewhere.offset}" if elsewhere else "none"
            what = "no member lies where the index says"
            yield Fault(place, what, f"byte {member.offset}", found)
            continue
        if there.name != member.name:
            what = "another member lies where the index says"
            yield Fault(f"{shard} at byte {member.offset}", what, member.name, shown(there.name))
        if there.size != member.size:
            what = "the size of the member is not the index's"
            yield Fault(place, what, str(member.size), str(there.size))
    places = {member.offset for member in indexed}
    for member in members:
        if member.offset not in places:
            yield Fault(f"{shard} {shown(member.name)}", "the member is not in the index")
    numbers = records["image_number"]
    for position in np.flatnonzero(numbers[1:] <= numbers[:-1]).tolist():
        place = f"{index_name(shard)} record {position + 1}"
        expected = f"above {numbers[position]}"
        yield Fault(place, "the keys do not rise", expected, str(numbers[position + 1]))


def _member_faults(
    check: SampleCheck, file: ShardFile, shard: str, member: Member, record: np.void | None
) -> Iterator[Fault]:
    place, extension = f"{shard} {member.name}", member.name.rpartition(".")[2]
    if extension == "json" and member.size > check.json_bytes_max:
        expected = f"at most {check.json_bytes_max} bytes"
        yield Fault(place, "the description is too large", expected, f"{member.size} bytes")
        return
    if member.offset + member.size > file.size:
        expected = f"up to byte {member.offset + member.size}"
        yield Fault(place, "the member's bytes are missing", expected, f"{file.size} bytes in all")
        return
    data = file.read(member.offset, member.size)
    if record is not None:
        indexed, crc32 = int(record[f"{_EXTENSIONS[extension]}_crc32"]), zlib.crc32(data)
        if crc32 != indexed:
            yield Fault(place, "CRC-32 is not the index's", f"{indexed:08x}", f"{crc32:08x}")
    if extension == "jpg":
        yield from check.image_faults(place, data, record)
    else:
        yield from check.json_faults(place, data, record)
