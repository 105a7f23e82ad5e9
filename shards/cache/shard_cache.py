"""Shards of a remote set, fetched whole, once per machine, into a bounded local folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from shards.cache.folder import CacheFolder, Room, default_folder
from shards.cache.locks import FileLock, open_shared
from shards.format.index import index_name
from shards.format.manifest import ShardEntry
from shards.storage.counters import Counters
from shards.storage.files import download_file, join_url

POLL_S = 0.05  # between checks whether another process has finished its download
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_REMEDY = "copy it again from its source or run `glcic pack` again"


@dataclass
class CacheCounters(Counters):
    """Of one cache. Index files count like shards."""

    hits: int = 0
    downloads: int = 0
    bytes_downloaded: int = 0
    download_seconds: float = 0.0  # of all threads together
    evictions: int = 0
    waits_for_others: int = 0  # for a download of another thread or process
    refetched: int = 0  # because the cached file or the download was damaged


class CachedFile:
    """A whole file of the cache, not evicted before it is closed.

    A memory map of `descriptor` shares its lock: the file is held until both are closed.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def read(self) -> bytes:
        """Return all of it."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            return file.read()

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> CachedFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Wanted:
    url: str
    path: Path
    sha256: str
    size_bytes: int  # -1: the manifest does not say


class ShardCache:
    """Any number of processes and threads share a folder, and each file is fetched by one of them.

    Without a folder it is the one of this user on this machine. It stays when the cache is closed.
    """

    def __init__(self, url: str, folder: str = "", limit_bytes: int = 0) -> None:
        self._url = url
        self._folder = CacheFolder(Path(folder) if folder else default_folder(), limit_bytes)
        self._closed = threading.Event()
        self.counters = CacheCounters()

    @property
    def folder(self) -> Path:
        return self._folder.path

    def open(self, entry: ShardEntry, verify: bool = False) -> CachedFile:
        """Return the shard, fetched if it is not there; `verify` hashes what is there already.

        ValueError if the store holds other bytes than the manifest says, OSError if it cannot be
        reached or the disk is full.
        """
        return self._open(entry.name, entry.sha256, entry.size_bytes, verify)

    def fetch(self, entry: ShardEntry) -> Path:
        """As `open`, but not held: it may be evicted before it is used."""
        with self.open(entry) as file:
            return file.path

    def fetch_index(self, entry: ShardEntry) -> bytes:
        """Return the shard's index file. Errors as of `open`.

        No room is made for it: the next shard that is fetched makes that as well.
        """
        with self._open(index_name(entry.name), entry.index_sha256, -1, verify=True) as file:
            return file.read()

    def close(self) -> None:
        """Whoever waits for another's download gets a RuntimeError. Opened files stay open."""
        self._closed.set()

    def _open(self, name: str, sha256: str, size_bytes: int, verify: bool) -> CachedFile:
        path = self._folder.file(sha256, name)
        wanted = _Wanted(join_url(self._url, name), path, sha256, size_bytes)
        descriptor = _find(wanted, verify)
        if descriptor is None:
            descriptor = self._find_or_fetch(wanted, verify)
        else:
            self.counters.add(hits=1)
        return CachedFile(path, descriptor)

    def _find_or_fetch(self, wanted: _Wanted, verify: bool) -> int:
        lock = self._folder.lock(wanted.path)
        acquired = lock.try_acquire()
        self.counters.add(waits_for_others=int(not acquired))
        while not acquired:
            # What may be damaged is left to whoever holds the lock.
            descriptor = None if verify else _find(wanted, verify)
            if descriptor is not None:
                return descriptor
            if self._closed.wait(POLL_S):
                raise RuntimeError(f"the shard cache was closed before {wanted.url} had arrived")
            acquired = lock.try_acquire()
        try:
            descriptor = _find(wanted, verify)
            return self._fetch(wanted, lock) if descriptor is None else descriptor
        finally:
            lock.release()

    def _fetch(self, wanted: _Wanted, lock: FileLock) -> int:
        """Again if it came damaged, and again if the disk was full but something could go."""
        self.counters.add(refetched=int(wanted.path.exists()))
        if wanted.size_bytes >= 0:
            self._make_room(wanted, lock)
        try:
            return self._download(wanted, lock)
        except _Damaged:
            self.counters.add(refetched=1)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            self.counters.add(evictions=self._folder.evict_all())
        try:
            return self._download(wanted, lock)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            raise OSError(
                error.errno,
                f"the disk of the shard cache {self.folder} is full: {wanted.url} does not fit "
                "although all was evicted that is not in use; free some space there or set "
                "data.cache to a folder on another disk",
            ) from error

    def _make_room(self, wanted: _Wanted, lock: FileLock) -> None:
        room = self._folder.reserve(lock, wanted.size_bytes)
        self.counters.add(evictions=room.evictions)
        if not room.suffices:
            _warn_once(self.folder, room)

    def _download(self, wanted: _Wanted, lock: FileLock) -> int:
        part = self._folder.part(wanted.path)
        started = time.monotonic()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(part.unlink, missing_ok=True)
            download_file(wanted.url, part, wanted.size_bytes)
            descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
            on_failure.callback(os.close, descriptor)
            _check(descriptor, wanted)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # held before anybody else can see it
            _touch(descriptor)
            self._folder.publish(wanted.path, lock)
            on_failure.pop_all()
        self.counters.add(
            downloads=1,
            bytes_downloaded=os.fstat(descriptor).st_size,
            download_seconds=time.monotonic() - started,
        )
        return descriptor


class _Damaged(ValueError):
    pass


def _find(wanted: _Wanted, verify: bool) -> int | None:
    """Return a descriptor that holds the cached file, now the most recently used; None if it is not
    there or not right.
    """
    descriptor = open_shared(wanted.path)
    if descriptor is None:
        return None
    with contextlib.ExitStack() as unless_right:
        unless_right.callback(os.close, descriptor)
        size_bytes = os.fstat(descriptor).st_size
        if wanted.size_bytes in (-1, size_bytes) and (
            not verify or _sha256(descriptor) == wanted.sha256
        ):
            _touch(descriptor)
            unless_right.pop_all()
            return descriptor
    return None


def _touch(descriptor: int) -> None:
    now = time.time_ns()  # finer than the clock by which the kernel would set it
    os.utime(descriptor, ns=(now, now))


def _check(descriptor: int, wanted: _Wanted) -> None:
    if wanted.size_bytes >= 0:
        _check_size(os.fstat(descriptor).st_size, wanted.size_bytes, wanted.url)
    sha256 = _sha256(descriptor)
    if sha256 != wanted.sha256:
        raise _Damaged(
            f"{wanted.url} has SHA-256 {sha256} where the manifest says {wanted.sha256}; {_REMEDY}"
        )


def check_shard_size(size_bytes: int, entry: ShardEntry, name: str) -> None:
    """ValueError, calling the file `name`, if it has not the size that the manifest says."""
    _check_size(size_bytes, entry.size_bytes, name)


def _check_size(size_bytes: int, expected: int, name: str) -> None:
    if size_bytes != expected:
        raise _Damaged(
            f"{name} has {size_bytes} bytes where the manifest says {expected}; {_REMEDY}"
        )


def _sha256(descriptor: int) -> str:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


_warning_lock = threading.Lock()
_warned = False


def _warn_once(folder: Path, room: Room) -> None:
    global _warned
    with _warning_lock:
        if _warned:
            return
        _warned = True
    print(
        f"the shard cache {folder} passes its limit of {room.limit_bytes / 1e9:.3g} GB: "
        f"{room.needed_bytes / 1e9:.3g} GB of shards are in use at once; "
        "raise data.cache_limit_gb, or let fewer processes share the machine",
        file=sys.stderr,
        flush=True,
    )
