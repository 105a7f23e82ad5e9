"""Files on any fsspec URL: local paths, file://, s3://, gs://, az://, memory://.

Retries, with jitter, stand around these calls and nowhere else, and every error of a storage leaves
them as an OSError that names the URL. No call waits for ever on a connection that has gone quiet.
A local file appears under its name only when it is complete; object stores give that by themselves.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import tenacity
from fsspec.implementations.local import LocalFileSystem

from shards.storage.counters import Counters
from shards.storage.errors import is_passing, named_error, reason
from shards.storage.filesystems import EXTRAS, open_filesystem
from shards.storage.filesystems import is_local as is_local
from shards.storage.filesystems import join_url as join_url
from shards.storage.filesystems import local_path as local_path

T = TypeVar("T")

ATTEMPTS = 8  # the waits between them add up to about a minute
LAST_ATTEMPT_S = 120.0  # no attempt starts later: the store's own timeouts add up within each
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 16.0
_JITTER_S = 1.0
_PIECE_BYTES = 4 << 20
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.part")  # as _publish names it


@dataclass
class StorageCounters(Counters):
    """Of this process, since it started."""

    retries: int = 0
    failures: int = 0  # given up after the last attempt
    bytes_read: int = 0
    bytes_written: int = 0


storage_counters = StorageCounters()


def _with_retries(call: Callable[[], T], what: str) -> T:
    """`what` says what is done and to which URL: "reading s3://bucket/key"."""

    def log_retry(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        attempt = f"attempt {state.attempt_number} of {ATTEMPTS}"
        cause = reason(error) if error else "no result"
        storage_counters.add(retries=1)
        print(f"{what}: {attempt} failed ({cause}), trying again", file=sys.stderr, flush=True)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_passing),
        wait=tenacity.wait_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S)
        + tenacity.wait_random(0, _JITTER_S),
        stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(LAST_ATTEMPT_S),
        before_sleep=log_retry,
        reraise=True,
    )
    try:
        return retrying(call)
    except Exception as error:
        storage_counters.add(failures=int(is_passing(error)))
        named = named_error(error, what)
        if named is error:
            raise
        raise named from error


def read_bytes(url: str) -> bytes:
    filesystem, path = open_filesystem(url)
    data: bytes = _with_retries(lambda: filesystem.cat_file(path), f"reading {url}")
    storage_counters.add(bytes_read=len(data))
    return data


def read_range(url: str, start: int, size: int) -> bytes:
    """Exactly `size` bytes from `start` on. OSError if the file ends before them."""
    filesystem, path = open_filesystem(url)

    def read() -> bytes:
        data: bytes = filesystem.cat_file(path, start=start, end=start + size)
        if len(data) != size:
            _require_stored(filesystem, path, start + size)
            raise OSError(errno.EIO, f"{len(data)} of {size} bytes came")
        return data

    data = _with_retries(read, f"reading bytes {start} to {start + size} of {url}")
    storage_counters.add(bytes_read=size)
    return data


def _require_stored(filesystem: Any, path: str, end: int) -> None:
    """An error that no other attempt mends if the file ends before `end`."""
    stored = filesystem.size(path)
    if stored is not None and stored < end:
        raise OSError(errno.EINVAL, f"it has only {stored} bytes")


def write_bytes(url: str, data: bytes | memoryview) -> None:
    """Write the whole file or nothing. Folders are made. Durable when it returns."""
    filesystem, path = open_filesystem(url)
    if isinstance(filesystem, LocalFileSystem):
        write_local(Path(path), data)
        return

    content = _as_bytes(data)

    def write() -> None:
        filesystem.pipe_file(path, content)
        _require_size(filesystem, path, len(data))

    _with_retries(write, f"writing {url}")
    storage_counters.add(bytes_written=len(data))


def _as_bytes(data: bytes | memoryview) -> bytes:
    """In pieces: a copy of hundreds of megabytes at once would stop all other threads."""
    if isinstance(data, bytes):
        return data
    pieces = range(0, len(data), _PIECE_BYTES)
    return b"".join([bytes(data[start : start + _PIECE_BYTES]) for start in pieces])


def write_local(path: Path, data: bytes | memoryview) -> None:
    """Write beside the target, flush to the disk, rename: a reader sees all of it or none."""
    _publish(path, lambda file: file.write(data))
    storage_counters.add(bytes_written=len(data))


def _publish(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(part, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_unfinished(url: str) -> None:
    """Remove what writers that were killed left below a local folder. No other may write there."""
    if not is_local(url):
        return  # an object store shows nothing unfinished
    for folder, _, names in os.walk(local_path(url)):
        for name in names:
            if _UNFINISHED.fullmatch(name):
                Path(folder, name).unlink(missing_ok=True)


def upload_file(source: Path, url: str) -> None:
    """Copy a finished local file to `url`, in parts where the store wants parts."""
    filesystem, path = open_filesystem(url)

    def upload() -> None:
        if isinstance(filesystem, LocalFileSystem):
            with open(source, "rb") as opened:
                _publish(Path(path), lambda file: shutil.copyfileobj(opened, file))
        else:
            filesystem.put_file(str(source), path)
        _require_size(filesystem, path, source.stat().st_size)

    _with_retries(upload, f"uploading {url}")
    storage_counters.add(bytes_written=source.stat().st_size)


def _require_size(filesystem: Any, path: str, size: int) -> None:
    """Check that an upload that raised no error is complete."""
    stored = filesystem.size(path)
    if stored != size:
        raise OSError(errno.EIO, f"{stored} of {size} bytes are stored")


def download_file(url: str, target: Path, size_bytes: int = -1) -> None:
    """`target` is there afterwards only if all came that the store has.

    `size_bytes` is what to expect: where fewer come although the store has more, the download was
    cut off and is made again.
    """
    filesystem, path = open_filesystem(url)
    # s3fs would hold ten parts of 50 MB in memory, and an error in one of them would lose them all;
    # a single stream it continues where it broke off.
    options = {"max_concurrency": 1} if EXTRAS.get(url.split("://")[0]) == "s3" else {}

    def download() -> None:
        filesystem.get_file(path, str(target), **options)
        came = target.stat().st_size
        if came < size_bytes and filesystem.size(path) != came:
            raise OSError(errno.EIO, f"{came} of {size_bytes} bytes came")

    try:
        _with_retries(download, f"downloading {url}")
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    storage_counters.add(bytes_read=target.stat().st_size)


def exists(url: str) -> bool:
    filesystem, path = open_filesystem(url)
    return _with_retries(lambda: filesystem.exists(path), f"looking for {url}")


def size_bytes(url: str) -> int:
    filesystem, path = open_filesystem(url)
    return _with_retries(lambda: filesystem.size(path), f"measuring {url}")


def list_names(url: str) -> list[str]:
    """Names of the files and folders directly in `url`, sorted; empty if it does not exist."""
    filesystem, path = open_filesystem(url)
    try:
        paths = _with_retries(lambda: filesystem.ls(path, detail=False), f"listing {url}")
    except (FileNotFoundError, NotADirectoryError):
        return []
    # A folder made by hand in an object store is an empty object, which lists itself.
    below = {str(entry).rstrip("/") for entry in paths} - {path.rstrip("/")}
    return sorted(entry.rsplit("/", 1)[-1] for entry in below)


def list_tree(url: str) -> list[tuple[str, int]]:
    """(name, size in bytes) of every file below `url`, sorted; empty if it does not exist.

    A name is relative to `url`, with "/" between its folders. Folders that are links are followed.
    """
    filesystem, path = open_filesystem(url)
    if isinstance(filesystem, LocalFileSystem):
        return sorted(_list_local(Path(path), ""))
    try:
        found = _with_retries(lambda: filesystem.find(path, detail=True), f"listing {url}")
    except FileNotFoundError:
        return []
    root = path.rstrip("/") + "/"
    return sorted(
        (name.removeprefix(root), int(entry["size"]))
        for name, entry in found.items()
        # A folder made by hand in an object store is an empty object with a slash at its end.
        if entry["type"] == "file" and name.startswith(root) and not name.endswith("/")
    )


def _list_local(folder: Path, above: str, visited: tuple[str, ...] = ()) -> list[tuple[str, int]]:
    """Raises where fsspec would pass over a folder that it may not read.

    `visited` are the real paths of the folders above, against links in a circle.
    """
    real = os.path.realpath(folder)
    if real in visited or not folder.is_dir():
        return []
    found = []
    for entry in os.scandir(folder):
        if entry.is_dir():
            found += _list_local(Path(entry.path), f"{above}{entry.name}/", (*visited, real))
        elif entry.is_file():
            found.append((above + entry.name, entry.stat().st_size))
    return found


def remove_tree(url: str) -> None:
    """Remove everything under `url`. Nothing happens if it does not exist.

    Raises PermissionError if something is still there afterwards.
    """
    filesystem, path = open_filesystem(url)

    def remove() -> None:
        try:
            filesystem.rm(path, recursive=True)
        except FileNotFoundError:
            return  # another process was faster, or the answer to an earlier attempt was lost
        # A store answers a removal of many with a list of what it refused, which s3fs drops.
        if filesystem.exists(path):
            raise PermissionError("the object storage has kept some of it")

    if exists(url):
        _with_retries(remove, f"removing {url}")


def map_file(path: Path) -> memoryview:
    with open(path, "rb") as file:
        return map_descriptor(file.fileno())


def map_descriptor(descriptor: int) -> memoryview:
    """Return the whole of an open file; the descriptor may be closed afterwards."""
    return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
