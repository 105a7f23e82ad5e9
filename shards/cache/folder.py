"""The folder of a cache: which files are in it, which of them must go, and who may use it.

A file `<hash>-<name>` is whole. While one is fetched, `.<hash>-<name>.part` grows, and the locked
file `.<hash>-<name>.lock` has the size that it will have. All else is not the cache's and stays.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from shards.cache.locks import FileLock, is_file_at, locked, try_lock

MAX_DEFAULT_BYTES = 200 * 10**9
DEFAULT_SHARE = 0.9  # of what the cache holds and what is free beside it
_FOLDER_LOCK = ".glcic-shards.lock"
_WHOLE = re.compile(r"[0-9a-f]{16}-[^/]+\.(tar|idx)")
_LOCK = re.compile(rf"\.({_WHOLE.pattern})\.lock")
_PART = re.compile(rf"\.({_WHOLE.pattern})\.part")


@dataclass(frozen=True)
class CachedEntry:
    path: Path
    size_bytes: int
    last_used_ns: int


@dataclass(frozen=True)
class Contents:
    whole: list[CachedEntry]
    in_flight_bytes: int  # that the downloads of all processes will have in the end

    @property
    def total_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.whole) + self.in_flight_bytes


@dataclass(frozen=True)
class Room:
    """What was done to make room, and whether that sufficed."""

    evictions: int
    limit_bytes: int
    needed_bytes: int

    @property
    def suffices(self) -> bool:
        return self.needed_bytes <= self.limit_bytes


def default_folder() -> Path:
    """Return the folder for all processes of this user on this machine, made if missing.

    RuntimeError if somebody else may write there.
    """
    path = Path(tempfile.gettempdir()) / f"glcic-shards-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise RuntimeError(
            f"{path} is not a folder of user {os.getuid()}, so shards are not cached there; "
            "remove it or set data.cache to another folder"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RuntimeError(
            f"{path} may be written by other users, so shards are not cached there; "
            f"run `chmod 700 {path}` or set data.cache to another folder"
        )
    return path


class CacheFolder:
    """`limit_bytes` 0: nine tenths of what it holds and what its disk has free, at most 200 GB."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        assert limit_bytes >= 0, limit_bytes
        self.path = path
        self._limit_bytes = limit_bytes
        self.path.mkdir(parents=True, exist_ok=True)
        with self._hold_lock():
            self._contents()

    def file(self, sha256: str, name: str) -> Path:
        """Named by its content: sets may share a folder, and a repacked shard is another file."""
        path = self.path / f"{sha256[:16]}-{name}"
        if not _WHOLE.fullmatch(path.name):
            raise ValueError(f"{name!r} with SHA-256 {sha256!r} is no shard of a packed set")
        return path

    def part(self, path: Path) -> Path:
        return path.with_name(f".{path.name}.part")

    def lock(self, path: Path) -> FileLock:
        """Whoever holds it may fetch `path`."""
        return FileLock(path.with_name(f".{path.name}.lock"))

    def reserve(self, lock: FileLock, size_bytes: int) -> Room:
        """Evict until `size_bytes` more are within the limit, and announce them to others."""
        with self._hold_lock():
            contents = self._contents()
            limit = self._limit(contents)
            excess = contents.total_bytes + size_bytes - limit
            evicted = self._evict(contents, excess)
            lock.state_size(size_bytes)
        freed = sum(entry.size_bytes for entry in evicted)
        return Room(len(evicted), limit, contents.total_bytes + size_bytes - freed)

    def publish(self, path: Path, lock: FileLock) -> None:
        """The fetched part gets its name, and its space is no longer reserved."""
        with self._hold_lock():
            os.replace(self.part(path), path)
            lock.state_size(0)

    def evict_all(self) -> int:
        """Number of files removed: all that nobody holds."""
        with self._hold_lock():
            contents = self._contents()
            return len(self._evict(contents, contents.total_bytes))

    def contents(self) -> Contents:
        with self._hold_lock():
            return self._contents()

    def _hold_lock(self) -> contextlib.AbstractContextManager[None]:
        return locked(self.path / _FOLDER_LOCK)

    def _contents(self) -> Contents:
        """Remove on the way what killed processes have left."""
        whole = []
        in_flight_bytes = 0
        for name in os.listdir(self.path):
            path = self.path / name
            with contextlib.suppress(FileNotFoundError):
                if _WHOLE.fullmatch(name):
                    status = path.stat()
                    whole.append(CachedEntry(path, status.st_size, status.st_mtime_ns))
                elif match := _LOCK.fullmatch(name):
                    in_flight_bytes += self._in_flight_bytes(path, self.path / match[1])
                elif (match := _PART.fullmatch(name)) and not self._is_fetched(match[1]):
                    path.unlink()
        return Contents(whole, in_flight_bytes)

    def _in_flight_bytes(self, lock: Path, path: Path) -> int:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not try_lock(descriptor):
                return os.fstat(descriptor).st_size
            if is_file_at(descriptor, lock):  # else its holder has just finished
                self.part(path).unlink(missing_ok=True)
                lock.unlink()
            return 0
        finally:
            os.close(descriptor)

    def _is_fetched(self, name: str) -> bool:
        return self.lock(self.path / name).path.exists()

    def _limit(self, contents: Contents) -> int:
        if self._limit_bytes:
            return self._limit_bytes
        held = sum(entry.size_bytes for entry in contents.whole)
        space = held + shutil.disk_usage(self.path).free
        return min(int(DEFAULT_SHARE * space), MAX_DEFAULT_BYTES)

    def _evict(self, contents: Contents, excess_bytes: int) -> list[CachedEntry]:
        """Remove the least recently used, down by `excess_bytes` if enough are not held."""
        evicted: list[CachedEntry] = []
        for entry in sorted(contents.whole, key=lambda entry: entry.last_used_ns):
            if excess_bytes <= 0:
                break
            if _remove_unless_held(entry.path):
                excess_bytes -= entry.size_bytes
                evicted.append(entry)
        return evicted


def _remove_unless_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # by hand
    try:
        if not try_lock(descriptor):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)
