"""Write one shard: a WebDataset tar and its index.

A shard grows in a `.part` file and appears under its name only when it is whole and on the disk: a
pack that is killed leaves no truncated shard to be trained on.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from zlib_ng.zlib_ng import crc32

from shards.format.index import encode_index, index_dtype, index_name, sample_key
from shards.format.manifest import SPLITS, ShardEntry
from shards.format.recipe import PackRecipe
from shards.images.conversion import StoredImage
from shards.masks.drawing import DrawnMasks, encode_masks
from shards.packing.hashed_file import HashedFileWriter
from shards.packing.tar_header import BLOCK, END, member_header, padding
from shards.storage.files import (
    is_local,
    join_url,
    list_names,
    open_filesystem,
    remove_tree,
    upload_file,
    write_bytes,
)

PROBE = ".writable-"  # begins the names of files by which a destination is tried
_TO_JSON = json.JSONEncoder(separators=(",", ":")).encode
_NOWHERE = (0, 0, 0)  # offset, size and CRC-32 of the masks where they are only rectangles


class ShardWriter:
    """Fills the shard `name` of a set; `finish` or `abandon` must end it."""

    def __init__(self, destination: str, name: str, recipe: PackRecipe) -> None:
        self._destination = destination
        self._name = name
        masks = recipe.masks
        self._dtype = index_dtype(masks.masks_per_image, masks.holes_per_mask)
        self._extension = recipe.extension.encode()
        self._part = _Part(destination, name)
        self._records: list[tuple] = []

    def add(
        self,
        image_number: int,
        image: StoredImage,
        label: int,
        description: dict[str, Any],
        masks: DrawnMasks,
    ) -> None:
        """`description` is the JSON member but for its masks, which come from `masks`."""
        holes = masks.completion_holes.tolist()
        regions = masks.discriminator_holes.tolist()
        pairs = [
            {"completion": completion, "discriminator": discriminator}
            for completion, discriminator in zip(holes, regions, strict=True)
        ]
        text = _TO_JSON({**description, "masks": pairs}).encode()
        key = sample_key(image_number).encode()
        image_place = self._write(key + b"." + self._extension, image.data)
        json_place = self._write(key + b".json", text)
        mask_place = _NOWHERE
        if masks.pixels is not None:
            mask_place = self._write(key + b".masks.png", encode_masks(masks.pixels))
        self._records.append(
            (
                *image_place,
                *json_place,
                *mask_place,
                image_number,
                image.width,
                image.height,
                label,
                holes,
                regions,
            )
        )

    def finish(self) -> ShardEntry:
        """Publish the shard, then its index."""
        self._part.file.append(END)
        sha256 = self._part.publish()
        index = encode_index(np.array(self._records, dtype=self._dtype))
        write_bytes(join_url(self._destination, index_name(self._name)), index)
        return ShardEntry(
            name=self._name,
            num_images=len(self._records),
            size_bytes=self._part.file.size_bytes,
            sha256=sha256,
            index_sha256=hashlib.sha256(index).hexdigest(),
        )

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._part.remove()

    def _write(self, name: bytes, member: bytes) -> tuple[int, int, int]:
        """Offset, size and CRC-32 of the member."""
        file = self._part.file
        offset = file.size_bytes + BLOCK
        file.append(member_header(name, len(member)))
        file.append(member)
        file.append(padding(len(member)))
        return offset, len(member), crc32(member)


class _Part:
    """The file in which a shard grows: beside its final place, or in a temporary folder before an
    upload. Its name is its writer's own: two that pack the same shard do not meet in one file."""

    def __init__(self, destination: str, name: str) -> None:
        self._url = join_url(destination, name)
        self._temporary: tempfile.TemporaryDirectory | None = None
        if is_local(destination):
            folder = Path(open_filesystem(destination)[1])
            folder.mkdir(parents=True, exist_ok=True)
            self._final = folder / name
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="glcic-pack-")
            folder = Path(self._temporary.name)
        self._path = folder / f".{name}.{uuid.uuid4().hex[:8]}.part"
        self.file = HashedFileWriter(self._path)

    def publish(self) -> str:
        """Return the SHA-256."""
        sha256 = self.file.flush()
        if self._temporary is None:
            os.replace(self._path, self._final)
        else:
            upload_file(self._path, self._url)
        self.remove()
        return sha256

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
        self._path.unlink(missing_ok=True)
        if self._temporary is not None:
            self._temporary.cleanup()


def remove_abandoned_parts(destination: str) -> None:
    """What killed writers of shards have left in a local destination; those at work keep theirs."""
    for part in _parts(destination, ".tar"):
        with contextlib.suppress(OSError), open(part, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def remove_all_parts(destination: str) -> None:
    """Of shards, indexes and probes: for when every shard is there, and nobody is at work."""
    for part in (*_parts(destination, ""), *_parts(destination, "", f".{PROBE}")):
        part.unlink(missing_ok=True)
    for name in list_names(destination):
        if name.startswith(PROBE):
            remove_tree(join_url(destination, name))


def _parts(destination: str, suffix: str, start: str = "") -> list[Path]:
    """Return the files in which others are written, whose names begin with a dot and `start`."""
    if not is_local(destination):
        return []
    folder = Path(open_filesystem(destination)[1])
    starts = [start] if start else [f".{split}-" for split in SPLITS]
    return [path for start in starts for path in folder.glob(f"{start}*{suffix}.*.part")]
