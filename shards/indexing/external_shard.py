"""Read a WebDataset shard of unknown origin, trusting nothing of it."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shards.format.manifest import RefusedImage
from shards.format.tar_reader import BLOCK, archive_members
from shards.images.encodings import decode_image, image_size
from shards.storage.files import map_file

_IMAGES = ("jpg", "jpeg", "png", "webp")
_LABEL_BYTES = 1 << 20  # of a label or a description; what is larger is not looked into
_MAX_SIDE = 65_500  # of what packing stores, which the index can say
_MAX_PIXELS = 1 << 28  # of one image: its pixels would take 800 MB
_COLORS_EVERY = 50  # images of which one is decoded for the mean colour
_NO_LABEL = "0"


@dataclass(frozen=True)
class ExternalImage:
    offset: int
    num_bytes: int
    crc32: int
    width: int
    height: int
    label: str


@dataclass
class ExternalShard:
    name: str
    size_bytes: int
    sha256: str
    images: list[ExternalImage] = field(default_factory=list)
    refused: list[RefusedImage] = field(default_factory=list)
    sampled_colors: list[np.ndarray] = field(default_factory=list)  # mean RGB in [0, 1]


def read_external_shard(path: Path, name: str, side_min: int = 1) -> ExternalShard:
    """Return what can be used of a shard: images whose short side has at least `side_min` pixels.

    ValueError, naming the shard, where the archive itself is broken.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{name} is empty; copy it again from its source")
    data = map_file(path)
    shard = ExternalShard(name, data.nbytes, hashlib.sha256(data).hexdigest())
    for key, members in _samples(data, name, shard).items():
        images = [extension for extension in members if extension in _IMAGES]
        if len(images) != 1:
            what = "several images in one sample" if images else "no image in the sample"
            shard.refused.append(RefusedImage(f"{name}/{key}", what))
            continue
        _take_image(data, key, members, images[0], shard, side_min)
    if not shard.images and not shard.refused:
        shard.refused.append(RefusedImage(name, "no sample in the shard"))
    return shard


def _samples(
    data: memoryview, name: str, shard: ExternalShard
) -> dict[str, dict[str, tuple[int, int]]]:
    """Offset and size of each member by key and extension, in the order of the archive."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    last_end = 0
    try:
        for member in archive_members(data):
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            extension = extension.lower()  # as webdataset does
            last_end = member.offset_data + _data_blocks(member)
            if last_end > data.nbytes:
                raise ValueError(f"{member.name!r} is cut off")
            if not member.isreg() or member.issparse() or not stem:
                continue  # folders, links and devices are nothing to read
            key = f"{folder}/{stem}" if folder else stem
            members = samples.setdefault(key, {})
            if extension in members:
                shard.refused.append(RefusedImage(f"{name}/{member.name}", "named twice"))
                continue
            members[extension] = (member.offset_data, member.size)
    except ValueError as error:
        raise ValueError(
            f"{name} is not a whole tar archive ({error}); copy it again from its source"
        ) from error
    # The library takes an archive that is cut between two members for one that ends there.
    if any(data[last_end : last_end + BLOCK]) or data.nbytes - last_end < BLOCK:
        raise ValueError(f"{name} lacks the end of an archive; copy it again from its source")
    return samples


def _data_blocks(member: tarfile.TarInfo) -> int:
    """Bytes from a member's data to the next header, as the library counts them."""
    has_data = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
    return -(-member.size // BLOCK) * BLOCK if has_data and not member.issparse() else 0


def _take_image(
    data: memoryview,
    key: str,
    members: dict[str, tuple[int, int]],
    extension: str,
    shard: ExternalShard,
    side_min: int,
) -> None:
    offset, num_bytes = members[extension]
    content = data[offset : offset + num_bytes]
    try:
        width, height = image_size(content)
        if max(width, height) > _MAX_SIDE or width * height > _MAX_PIXELS:
            raise ValueError(f"too many pixels: {width}x{height}")
        if min(width, height) < side_min:
            raise ValueError(
                f"too small: {width}x{height}, the short side must be at least {side_min}"
            )
        if len(shard.images) % _COLORS_EVERY == 0:
            memory = np.empty(width * height * 3, dtype=np.uint8)
            pixels = decode_image(content, memory, width, height)
            shard.sampled_colors.append(pixels.reshape(-1, 3).mean(axis=0) / 255)
    except ValueError as error:
        shard.refused.append(RefusedImage(f"{shard.name}/{key}.{extension}", str(error)))
        return
    label = _label(data, members)
    crc32 = zlib.crc32(content)
    shard.images.append(ExternalImage(offset, num_bytes, crc32, width, height, label))


def _label(data: memoryview, members: dict[str, tuple[int, int]]) -> str:
    """Return the class as a word: the text of .cls, "class" or "label" of .json, or one for all."""
    for extension in ("cls", "json"):
        offset, num_bytes = members.get(extension, (0, 0))
        if not 0 < num_bytes <= _LABEL_BYTES:
            continue
        text = bytes(data[offset : offset + num_bytes]).decode(errors="replace").strip()
        if extension == "cls":
            return text or _NO_LABEL
        try:
            description = json.loads(text)
        except (ValueError, RecursionError):
            continue
        for name in ("class", "label"):
            value = description.get(name) if isinstance(description, dict) else None
            if isinstance(value, str) or type(value) is int:
                return str(value)
    return _NO_LABEL
