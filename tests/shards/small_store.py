"""Shards of a few bytes in a store in memory, and what a cache has kept of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from shards.format.manifest import ShardEntry
from shards.storage.files import join_url, write_bytes

STORE = "memory://set-to-be-cached"
FOLDER_LOCK = ".glcic-shards.lock"


def stored_shard(data: bytes, number: int = 0) -> ShardEntry:
    """The shard and its index, which holds the same bytes reversed."""
    name = f"train-{number:06d}.tar"
    write_bytes(join_url(STORE, name), data)
    write_bytes(join_url(STORE, name.replace(".tar", ".idx")), data[::-1])
    digest, index_digest = (hashlib.sha256(one).hexdigest() for one in (data, data[::-1]))
    return ShardEntry(name, 1, len(data), digest, index_digest)


def stored_shards(count: int) -> list[ShardEntry]:
    """Of ten bytes each."""
    return [stored_shard(f"shard {number:04d}".encode(), number) for number in range(count)]


def cached_names(folder: Path) -> set[str]:
    """The whole files; nothing else of the cache's may be there."""
    names = set(os.listdir(folder)) - {FOLDER_LOCK}
    assert not [name for name in names if name.startswith(".")], names
    return {name.split("-", 1)[1] for name in names}
