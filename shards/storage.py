"""Files on any fsspec URL: local paths, file://, s3://, gs://, az://, memory://.

Retries, with jitter, stand around these calls and nowhere else, and every fault of a store leaves
them as an OSError that names the URL. A local file appears under its name only when it is
complete; object stores give that by themselves.
"""

from __future__ import annotations

import errno
import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import tenacity
from fsspec.implementations.local import LocalFileSystem

from shards.storage_faults import is_passing, named_fault, reason

T = TypeVar("T")

ATTEMPTS = 5
LAST_ATTEMPT_S = 120.0  # no attempt starts later: the store's own timeouts add up within each
_EXTRAS = {
    "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure",
    "abfss": "azure",
}  # fmt: skip
_PATTERN_CHARACTERS = set("*?[")


def join_url(url: str, *parts: str) -> str:
    """`url` with the names of `parts` below it."""
    return "/".join([url.rstrip("/"), *parts])


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """The path of a local URL."""
    assert is_local(url), url
    return Path(url.removeprefix("file://"))


def open_filesystem(url: str) -> tuple[Any, str]:
    """The filesystem of `url` and the path in it. RuntimeError if its extra is not installed."""
    protocol = url.split("://")[0]
    extra = _EXTRAS.get(protocol)
    if not is_local(url) and _PATTERN_CHARACTERS & set(url):
        # fsspec would take the name for a pattern, and remove what else matches it.
        raise ValueError(f"{url} holds one of {' '.join(sorted(_PATTERN_CHARACTERS))}; rename it")
    # A listing kept from before says nothing about what other processes have written since.
    options = {"use_listings_cache": False} if extra else {}
    try:
        return fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        remedy = f"; pip install 'glcic-pipeline[{extra}]'" if extra else ""
        raise RuntimeError(f"cannot reach {url}: {error}{remedy}") from error
    except ValueError as error:
        raise ValueError(f"cannot reach {url}: {error}") from error


def _with_retries(call: Callable[[], T], what: str) -> T:
    """`what` says what is done and to which URL: "reading s3://bucket/key"."""

    def announce(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        attempt = f"attempt {state.attempt_number} of {ATTEMPTS}"
        cause = reason(error) if error else "no result"
        print(f"{what}: {attempt} failed ({cause}), trying again", file=sys.stderr, flush=True)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_passing),
        wait=tenacity.wait_exponential(multiplier=0.2, max=10) + tenacity.wait_random(0, 0.5),
        stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(LAST_ATTEMPT_S),
        before_sleep=announce,
        reraise=True,
    )
    try:
        return retrying(call)
    except Exception as error:
        fault = named_fault(error, what)
        if fault is error:
            raise
        raise fault from error


def read_bytes(url: str) -> bytes:
    filesystem, path = open_filesystem(url)
    return _with_retries(lambda: filesystem.cat_file(path), f"reading {url}")


def write_bytes(url: str, data: bytes | memoryview) -> None:
    """Writes the whole file or nothing. Folders are made. Durable when it returns."""
    filesystem, path = open_filesystem(url)
    if isinstance(filesystem, LocalFileSystem):
        write_local(Path(path), data)
        return

    def write() -> None:
        filesystem.pipe_file(path, bytes(data))
        _require_size(filesystem, path, len(data))

    _with_retries(write, f"writing {url}")


def write_local(path: Path, data: bytes | memoryview) -> None:
    """Write beside the target, flush to the disk, rename: a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def upload_file(source: Path, url: str) -> None:
    """Copy a finished local file to `url`, in parts where the store wants parts."""
    filesystem, path = open_filesystem(url)

    def upload() -> None:
        filesystem.put_file(str(source), path)
        _require_size(filesystem, path, source.stat().st_size)

    _with_retries(upload, f"uploading {url}")


def _require_size(filesystem: Any, path: str, size: int) -> None:
    """What a store took without a word must also be there."""
    stored = filesystem.size(path)
    if stored != size:
        raise OSError(errno.EIO, f"{stored} of {size} bytes are stored")


def download_file(url: str, target: Path) -> None:
    filesystem, path = open_filesystem(url)
    _with_retries(lambda: filesystem.get_file(path, str(target)), f"downloading {url}")


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
            raise PermissionError("the store has kept some of it")

    if exists(url):
        _with_retries(remove, f"removing {url}")
