"""Damaging packed sets on purpose, down to damages that every hash agrees with."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shards.format.finding import Finding
from shards.format.index import decode_index, encode_index
from shards.format.manifest import load_manifest, save_manifest
from shards.inspection.verify import verify_set

SHARD, INDEX = "train-000001.tar", "train-000001.idx"
_KINDS = dict.fromkeys(("jpg", "png", "webp", "npy"), "image") | {
    "json": "json", "masks.png": "mask"
}  # fmt: skip
SECOND = 7  # an image in the middle of that shard


def findings_of(folder: Path, split: str = "", threads: int = 2) -> list[Finding]:
    return list(verify_set(str(folder), split, threads))


def rehash(folder: Path) -> None:
    """Makes the manifest agree with the files, so that only their content can betray a damage."""
    manifest = load_manifest(str(folder))
    splits = {
        split: [
            replace(
                entry,
                size_bytes=(folder / entry.name).stat().st_size,
                sha256=hashlib.sha256((folder / entry.name).read_bytes()).hexdigest(),
                index_sha256=hashlib.sha256(
                    (folder / entry.name).with_suffix(".idx").read_bytes()
                ).hexdigest(),
            )
            for entry in entries
        ]
        for split, entries in manifest.splits.items()
    }
    save_manifest(str(folder), replace(manifest, splits=splits))


def damage_bytes(path: Path, change: Callable[[bytearray], Any]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def records_of(folder: Path, index: str = INDEX) -> np.ndarray:
    return decode_index((folder / index).read_bytes(), index)


class Edited:
    """A shard, to be changed inside and written again with everything that guards it renewed."""

    def __init__(self, folder: Path, shard: str = SHARD) -> None:
        self.path = folder / shard
        self.records = records_of(folder, self.path.with_suffix(".idx").name)
        self.members: list[tuple[tarfile.TarInfo, bytes]] = []
        with tarfile.open(self.path) as tar:
            for member in tar:
                self.members.append((member, tar.extractfile(member).read()))  # type: ignore[union-attr]

    def place(self, name: str) -> int:
        return next(i for i, (member, _) in enumerate(self.members) if member.name == name)

    def replace(self, name: str, data: bytes) -> None:
        self.members[self.place(name)][0].size = len(data)
        self.members[self.place(name)] = (self.members[self.place(name)][0], data)

    def describe(self, change: Callable[[dict[str, Any]], Any], key: int = SECOND) -> None:
        name = f"{key:08d}.json"
        description = json.loads(self.members[self.place(name)][1])
        change(description)
        self.replace(name, json.dumps(description).encode())

    def record(self, key: int = SECOND) -> np.ndarray:
        """A view of the one record."""
        position = self.records["image_number"].tolist().index(key)
        return self.records[position : position + 1]

    def save(self) -> None:
        with tarfile.open(self.path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for member, data in self.members:
                tar.addfile(member, io.BytesIO(data) if member.isfile() else None)
        with tarfile.open(self.path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if not (key.isdigit() and int(key) in self.records["image_number"]):
                    continue
                kind = _KINDS.get(extension)
                if kind is None:
                    continue
                record = self.record(int(key))
                record[f"{kind}_offset"] = member.offset_data
                record[f"{kind}_size"] = member.size
                data = dict((m.name, d) for m, d in self.members)[member.name]
                record[f"{kind}_crc32"] = zlib.crc32(data)
        self.path.with_suffix(".idx").write_bytes(encode_index(self.records))
        rehash(self.path.parent)


def swap_members(folder: Path) -> None:
    edited = Edited(folder)
    first, second = edited.place("00000007.jpg"), edited.place("00000008.jpg")
    members = edited.members
    members[first], members[second] = members[second], members[first]
    edited.save()


def with_member(name: str, data: bytes, **fields: int) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        edited = Edited(folder, "val-000000.tar" if int(name[:8]) >= 18 else SHARD)
        edited.replace(name, data)
        for field, value in fields.items():
            edited.record(int(name[:8]))[field] = value
        edited.save()

    return put


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
