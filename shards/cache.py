"""Shards of a remote set, fetched whole into a local folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from pathlib import Path

from shards.manifest import ShardEntry
from shards.storage import download_file, join_url

_PREFIX = "glcic-shards-"
_OWNER = ".owner"  # locked for as long as the process lives whose folder it is
_ABANDONED_PART_S = 86_400.0  # no download takes a day


class ShardCache:
    """Several processes may share one folder: a shard has its name only once it is verified.

    Without a folder a temporary one is made, which `close` removes, and the next cache on this
    machine where the process was killed.
    """

    def __init__(self, url: str, folder: str = "") -> None:
        self._url = url
        self._temporary = None if folder else _TemporaryFolder()
        self._folder = self._temporary.path if self._temporary else Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned_parts(self._folder)
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
            self._temporary.remove()


class _TemporaryFolder:
    def __init__(self) -> None:
        _remove_abandoned_folders()
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
        self.path = Path(self._folder.name)
        # Locked before it has its name: whoever finds it unlocked knows that its owner is dead.
        unnamed = self.path / f"{_OWNER}.part"
        self._lock = open(unnamed, "wb")  # noqa: SIM115
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.replace(unnamed, self.path / _OWNER)

    def remove(self) -> None:
        self._folder.cleanup()
        self._lock.close()


def _remove_abandoned_folders() -> None:
    for owner in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}"):
        with contextlib.suppress(OSError), open(owner, "rb") as lock:  # alive, or another user's
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(owner.parent, ignore_errors=True)


def _remove_abandoned_parts(folder: Path) -> None:
    """What downloads that were killed have left in a folder that stays."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _ABANDONED_PART_S:
                part.unlink()


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
