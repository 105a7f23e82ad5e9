"""The bytes of a source's files, whole or by range, on a disk or in a store.

A file is named by the source's folder and its name below it. Only the folder is given to fsspec as
a URL: the names may hold characters that it would take for a pattern.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import Any

from shards.storage.files import _with_retries, storage_counters
from shards.storage.filesystems import is_local, join_url, local_path, open_filesystem


def is_absolute(name: str) -> bool:
    """Return whether a name says by itself where its file lies."""
    return name.startswith("/") or "://" in name


def store_root(url: str) -> str:
    """Protocol and bucket, account or host of a URL."""
    protocol, _, rest = url.partition("://")
    return f"{protocol}://{rest.split('/', 1)[0]}"


def read_whole(folder: str, name: str) -> bytes:
    """Raises OSError, also for what is not a regular file."""
    if is_local(folder):
        return _read_local(_local_name(folder, name), 0, None)
    filesystem, path = open_filesystem(folder)
    return _read_remote(filesystem, _join_below(path, name), join_url(folder, name), 0, None)


def read_absolute(name: str) -> bytes:
    """`name` is an absolute path or a URL. OSError as above."""
    if is_local(name):
        return _read_local(str(local_path(name)), 0, None)
    filesystem, _ = open_filesystem(store_root(name))
    return _read_remote(filesystem, filesystem._strip_protocol(name), name, 0, None)


def read_range(folder: str, name: str, offset: int, num_bytes: int) -> bytes:
    """Return all of the range, or OSError."""
    if num_bytes == 0:
        return b""
    if is_local(folder):
        return _read_local(_local_name(folder, name), offset, num_bytes)
    filesystem, path = open_filesystem(folder)
    url = join_url(folder, name)
    return _read_remote(filesystem, _join_below(path, name), url, offset, num_bytes)


def file_size(folder: str, name: str) -> int:
    """Bytes. Raises OSError, also for what is not a regular file."""
    if is_local(folder):
        path = _local_name(folder, name)
        status = os.stat(path)
        _require_regular(status, path)
        return status.st_size
    filesystem, path = open_filesystem(folder)
    url, below = join_url(folder, name), _join_below(path, name)
    size = _with_retries(lambda: filesystem.size(below), f"measuring {url}")
    if size is None:
        raise OSError(errno.EIO, "the object storage does not report its size", url)
    return int(size)


class RangedFile(io.RawIOBase):
    """A source's file as a seekable one; each read is one ranged request, retried like others."""

    def __init__(self, folder: str, name: str, size: int) -> None:
        self._folder, self._name, self._size = folder, name, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"byte {start + offset} lies before the file")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        buffer[:count] = read_range(self._folder, self._name, self._position, count)
        self._position += count
        return count


def _local_name(folder: str, name: str) -> str:
    return os.path.join(local_path(folder), "") + name  # never os.path.join: `name` stays below


def _join_below(path: str, name: str) -> str:
    return f"{path.rstrip('/')}/{name}"


def _read_local(path: str, offset: int, num_bytes: int | None) -> bytes:
    # A named pipe would wait for its writer: it is opened without waiting, and refused.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        _require_regular(status, path)
        if num_bytes is None:
            return file.readall()
        data = os.pread(descriptor, num_bytes, offset)
    if len(data) != num_bytes:
        raise _cut_short(errno.EIO, len(data), num_bytes, path)
    return data


def _read_remote(filesystem: Any, path: str, url: str, offset: int, num_bytes: int | None) -> bytes:
    def read() -> bytes:
        if num_bytes is None:
            return bytes(filesystem.cat_file(path))
        data = bytes(filesystem.cat_file(path, start=offset, end=offset + num_bytes))
        if len(data) != num_bytes:
            stored = filesystem.size(path)
            # No other attempt makes a file longer: only what broke off is read again.
            is_short = stored is not None and stored < offset + num_bytes
            raise _cut_short(errno.EINVAL if is_short else errno.EIO, len(data), num_bytes)
        return data

    data = _with_retries(read, f"reading {url}")
    storage_counters.add(bytes_read=len(data))
    return data


def _require_regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        raise OSError(kind, "it is not a regular file", path)


def _cut_short(number: int, came: int, num_bytes: int, path: str | None = None) -> OSError:
    found = f"{came} of {num_bytes} bytes are there; it has changed since it was listed"
    return OSError(number, found, path)
