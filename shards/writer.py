"""Writes the shards of one split: WebDataset tars, each with its index.

A shard grows in a `.part` file and appears under its name only when it is complete, on the disk
and read back: a pack that is killed leaves no truncated shard to be trained on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from shards.conversion import StoredImage
from shards.index import encode_index, index_dtype, index_name
from shards.manifest import ShardEntry
from shards.recipe import PackRecipe
from shards.storage import is_local, join_url, open_filesystem, upload_file, write_bytes

_HEADER = 512  # bytes of a ustar header; members are padded to a multiple of it
_OWNER = "glcic"


def sample_key(image_number: int) -> str:
    """The WebDataset key: eight digits, no dots, which would split it."""
    return f"{image_number:08d}"


class ShardWriter:
    """Fills `split`-000000.tar and so on, `recipe.images_per_shard` images in each."""

    def __init__(self, destination: str, split: str, recipe: PackRecipe) -> None:
        self.destination = destination
        self.entries: list[ShardEntry] = []
        self._split = split
        self._capacity = recipe.images_per_shard
        masks = recipe.masks
        self._dtype = index_dtype(masks.masks_per_image, masks.holes_per_mask)
        self._staging = _Staging(destination)
        self._records: list[tuple] = []
        self._file: IO[bytes] | None = None
        self._tar: Any = None
        self._offset = 0

    @property
    def _name(self) -> str:
        return f"{self._split}-{len(self.entries):06d}.tar"

    def add(
        self,
        image_number: int,
        image: StoredImage,
        label: int,
        description: dict[str, Any],
        masks: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """`description` is the JSON member but for its masks, which come from `masks`."""
        if self._file is None:
            self._open()
        completion, discriminator = masks
        pairs = [
            {"completion": holes.tolist(), "discriminator": regions.tolist()}
            for holes, regions in zip(completion, discriminator, strict=True)
        ]
        text = json.dumps({**description, "masks": pairs}, separators=(",", ":")).encode()
        self._tar.write({"__key__": sample_key(image_number), "jpg": image.jpeg, "json": text})
        image_place = self._place(image.jpeg)  # the tar holds jpg before json: alphabetical order
        json_place = self._place(text)
        self._records.append(
            (
                *image_place,
                *json_place,
                image_number,
                image.width,
                image.height,
                label,
                completion,
                discriminator,
            )
        )
        if len(self._records) == self._capacity:
            self._finish()

    def close(self) -> list[ShardEntry]:
        """Finish the last shard. The entries of all of them."""
        if self._records:
            self._finish()
        self._staging.remove()
        return self.entries

    def abandon(self) -> None:
        """Drop the unfinished shard; finished ones stay."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # the disk may be full: its end is not needed
                self._tar.close()
                self._file.flush()
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        self._staging.remove()

    def _open(self) -> None:
        from webdataset import TarWriter  # here, because it imports torch where that is installed

        self._file = open(self._staging.path(self._name), "wb")  # noqa: SIM115
        self._tar = TarWriter(self._file, user=_OWNER, group=_OWNER, mtime=0, encoder=False)
        self._offset = 0

    def _place(self, member: bytes) -> tuple[int, int, int]:
        """Offset, size and CRC-32 of the member that was just written."""
        offset = self._offset + _HEADER
        self._offset = offset + -(-len(member) // _HEADER) * _HEADER
        return offset, len(member), zlib.crc32(member)

    def _finish(self) -> None:
        assert self._file is not None
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None

        name, records = self._name, np.array(self._records, dtype=self._dtype)
        part = self._staging.path(name)
        digest = _verified_digest(part, records)
        size = part.stat().st_size
        index = encode_index(records)
        self._staging.publish(name)
        write_bytes(join_url(self.destination, index_name(name)), index)
        self.entries.append(
            ShardEntry(name, len(records), size, digest, hashlib.sha256(index).hexdigest())
        )
        self._records = []


class _Staging:
    """Where a shard grows: beside its final place, or in a temporary folder before an upload."""

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._temporary: tempfile.TemporaryDirectory | None = None
        if is_local(destination):
            self._folder = Path(open_filesystem(destination)[1])
            self._folder.mkdir(parents=True, exist_ok=True)
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="glcic-pack-")
            self._folder = Path(self._temporary.name)
        self._last: Path | None = None

    def path(self, name: str) -> Path:
        self._last = self._folder / f".{name}.part"
        return self._last

    def publish(self, name: str) -> None:
        part = self.path(name)
        if self._temporary is None:
            os.replace(part, self._folder / name)
        else:
            upload_file(part, join_url(self._destination, name))
            part.unlink()

    def remove(self) -> None:
        if self._last is not None:
            self._last.unlink(missing_ok=True)
        if self._temporary is not None:
            self._temporary.cleanup()


def _verified_digest(path: Path, records: np.ndarray) -> str:
    """SHA-256 of the shard, after every member was found where the index says, byte for byte."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for record in records:
            for member in ("image", "json"):
                start, size = int(record[f"{member}_offset"]), int(record[f"{member}_size"])
                with memoryview(data)[start : start + size] as view:
                    if zlib.crc32(view) != int(record[f"{member}_crc32"]):
                        raise RuntimeError(
                            f"{path} does not read back as it was written (sample "
                            f"{sample_key(record['image_number'])}); check the disk"
                        )
        return hashlib.sha256(data).hexdigest()
