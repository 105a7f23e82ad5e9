"""Shards of a remote set, fetched whole into a local folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import uuid
from collections import defaultdict
from pathlib import Path

from shards.manifest import ShardEntry
from shards.storage import download_file, join_url


class ShardCache:
    """Several processes may share one folder: a shard has its name only once it is verified.

    Without a folder a temporary one is made, which `close` removes.
    """

    def __init__(self, url: str, folder: str = "") -> None:
        self._url = url
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="glcic-shards-")
        self._folder = Path(folder or (self._temporary.name if self._temporary else ""))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def fetch(self, entry: ShardEntry) -> Path:
        """The local copy. ValueError if the store holds other bytes than the manifest says."""
        # Named by its content, so that sets may share a folder and a repacked one is fetched anew.
        path = self._folder / f"{entry.sha256[:16]}-{entry.name}"
        with self._locks[entry.name]:
            if not (path.exists() and path.stat().st_size == entry.size_bytes):
                self._download(entry, path)
        return path

    def _download(self, entry: ShardEntry, path: Path) -> None:
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            download_file(join_url(self._url, entry.name), part)
            check_shard_file(part, entry, join_url(self._url, entry.name))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def close(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()


def check_shard_size(size_bytes: int, entry: ShardEntry, name: str) -> None:
    if size_bytes != entry.size_bytes:
        raise ValueError(
            f"{name} has {size_bytes} bytes where the manifest says {entry.size_bytes}; "
            "copy it again from its source or run `glcic pack` again"
        )


def check_shard_file(path: Path, entry: ShardEntry, name: str) -> None:
    """Size and SHA-256 against the manifest. Raises ValueError, calling the file `name`."""
    check_shard_size(path.stat().st_size, entry, name)
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != entry.sha256:
        raise ValueError(
            f"{name} has SHA-256 {sha256} where the manifest says {entry.sha256}; "
            "copy it again from its source or run `glcic pack` again"
        )
