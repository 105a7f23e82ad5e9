"""Files on any fsspec URL: local paths, file://, s3://, gs://, az://, memory://.

Retries, with jitter, stand around these calls and nowhere else. A local file appears under its name
only when it is complete; object stores give that by themselves.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import tenacity
from fsspec.implementations.local import LocalFileSystem

T = TypeVar("T")

ATTEMPTS = 5
_FINAL_ERRNOS = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT}
_EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}


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
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        protocol = url.split("://")[0]
        extra = _EXTRAS.get(protocol)
        remedy = f"; pip install 'glcic-pipeline[{extra}]'" if extra else ""
        raise RuntimeError(f"cannot reach {url}: {error}{remedy}") from error
    except ValueError as error:
        raise ValueError(f"cannot reach {url}: {error}") from error


def _is_passing(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(
        error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    ):
        return False
    if isinstance(error, OSError):
        return error.errno not in _FINAL_ERRNOS
    return isinstance(error, (TimeoutError, ConnectionError))


def _with_retries(call: Callable[[], T], what: str) -> T:
    def announce(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        print(
            f"{what}: attempt {state.attempt_number} failed ({error!r}), trying again", flush=True
        )

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_passing),
        wait=tenacity.wait_exponential(multiplier=0.2, max=10) + tenacity.wait_random(0, 0.5),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        before_sleep=announce,
        reraise=True,
    )
    return retrying(call)


def read_bytes(url: str) -> bytes:
    filesystem, path = open_filesystem(url)
    return _with_retries(lambda: filesystem.cat_file(path), f"reading {url}")


def write_bytes(url: str, data: bytes | memoryview) -> None:
    """Writes the whole file or nothing. Folders are made. Durable when it returns."""
    filesystem, path = open_filesystem(url)
    if isinstance(filesystem, LocalFileSystem):
        write_local(Path(path), data)
    else:
        _with_retries(lambda: filesystem.pipe_file(path, bytes(data)), f"writing {url}")


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
    _with_retries(lambda: filesystem.put_file(str(source), path), f"uploading {url}")


def download_file(url: str, target: Path) -> None:
    filesystem, path = open_filesystem(url)
    _with_retries(lambda: filesystem.get_file(path, str(target)), f"downloading {url}")


def exists(url: str) -> bool:
    filesystem, path = open_filesystem(url)
    return _with_retries(lambda: filesystem.exists(path), f"looking for {url}")


def size_bytes(url: str) -> int:
    filesystem, path = open_filesystem(url)
    filesystem.invalidate_cache()
    return _with_retries(lambda: filesystem.size(path), f"measuring {url}")


def list_names(url: str) -> list[str]:
    """Names of the files and folders directly in `url`, sorted; empty if it does not exist."""
    filesystem, path = open_filesystem(url)
    filesystem.invalidate_cache()
    try:
        paths = _with_retries(lambda: filesystem.ls(path, detail=False), f"listing {url}")
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in paths}
    return sorted(names)


def remove_tree(url: str) -> None:
    """Remove everything under `url`. Nothing happens if it does not exist."""
    filesystem, path = open_filesystem(url)
    filesystem.invalidate_cache()
    if _with_retries(lambda: filesystem.exists(path), f"looking for {url}"):
        _with_retries(lambda: filesystem.rm(path, recursive=True), f"removing {url}")
