"""The files in a tree of folders, on a disk or in a store: names, sizes, and what is no file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

from shards.sources.listing import (
    BROKEN_LINK,
    CIRCLE,
    NOT_A_FILE,
    OUTSIDE_SOURCE,
    Listing,
    SourceFile,
)
from shards.storage.files import _with_retries
from shards.storage.filesystems import is_local, join_url, local_path, open_filesystem

_THREADS = 16  # folders of a store that are listed at once
_Folder = tuple[str, tuple[tuple[int, int], ...]]  # its name; device and inode of those above it


def list_tree(location: str, splits: tuple[str, ...]) -> Listing:
    """Everything below `location`, in no order. `splits`: folders that hold folders of classes.

    Raises ValueError if `location` is no folder, OSError if a folder in it cannot be listed.
    """
    if is_local(location):
        return _list_local(location)
    return _list_remote(location, splits)


def no_folder(location: str, found: str) -> ValueError:
    return ValueError(
        f"{location} is {found}; name the folder that holds the image classes, a .tar archive of "
        "them, or a .csv or .parquet list"
    )


def _list_local(location: str) -> Listing:
    root = str(local_path(location))
    if not os.path.isdir(root):
        exists = os.path.lexists(root)
        raise no_folder(location, "not a folder" if exists else "not a folder: it does not exist")
    listing = Listing()
    waiting: list[_Folder] = [("", ())]  # no recursion: trees may be deeper than the stack
    while waiting:
        name, above = waiting.pop()
        path = os.path.join(root, name)
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            listing.ignore(name, CIRCLE)
            continue
        for entry in _entries(path):
            below = f"{name}/{entry.name}" if name else entry.name
            if _take_entry(listing, entry, below):
                waiting.append((below, (*above, identity)))
    return listing


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise _unlisted(folder, error) from error


def _take_entry(listing: Listing, entry: os.DirEntry[str], name: str) -> bool:
    """Return whether the entry is a folder to go into."""
    if entry.name.startswith("."):
        listing.take(SourceFile(name))
        return False
    try:
        status = entry.stat()
    except OSError as error:
        if not entry.is_symlink() or isinstance(error, PermissionError):
            raise _unlisted(entry.path, error) from error
        listing.ignore(name, BROKEN_LINK)
        return False
    if stat.S_ISDIR(status.st_mode):
        listing.take_folder(name)
        return True
    if stat.S_ISREG(status.st_mode):
        listing.take(SourceFile(name, status.st_size))
    else:
        listing.ignore(name, NOT_A_FILE)
    return False


def _unlisted(path: str, error: OSError) -> OSError:
    named = type(error)(f"{path} cannot be listed: {error.strerror}; mend it, or move it away")
    named.errno = error.errno
    return named


def _list_remote(location: str, splits: tuple[str, ...]) -> Listing:
    """Class by class, several at once: a store's answers about all images would fill the memory."""
    store = _RemoteFolder(location)
    listing = Listing()
    folders = store.list_into(listing, "")
    if set(splits) <= set(folders):
        inner = [store.list_into(listing, split) for split in splits]
        folders = [*(name for name in folders if name not in splits), *chain(*inner)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(store.find, folders):
            for name, num_bytes, kind in found:
                _take_remote(listing, name, num_bytes, kind)
    return listing


class _RemoteFolder:
    def __init__(self, location: str) -> None:
        self._location = location
        self._filesystem, self._path = open_filesystem(location)
        self._start = self._path.rstrip("/") + "/"

    def list_into(self, listing: Listing, name: str) -> list[str]:
        """Take the files of one folder; return the names of the folders in it."""
        folders = []
        for below, num_bytes, kind in self._ask("ls", name):
            if kind == "directory":
                listing.take_folder(below)
                if not below.rsplit("/", 1)[-1].startswith("."):
                    folders.append(below)
            else:
                _take_remote(listing, below, num_bytes, kind)
        return sorted(set(folders))

    def find(self, name: str) -> list[tuple[str, int, str]]:
        """Return all files below a folder, however deep: name, bytes, kind."""
        return self._ask("find", name)

    def _ask(self, method: str, name: str) -> list[tuple[str, int, str]]:
        path = self._start + name if name else self._path
        url = join_url(self._location, name) if name else self._location
        call = getattr(self._filesystem, method)
        try:
            answer = _with_retries(lambda: call(path, detail=True), f"listing {url}")
        except (FileNotFoundError, NotADirectoryError) as error:
            if name:
                raise
            raise no_folder(self._location, f"not a folder that can be listed: {error}") from error
        entries = answer.values() if isinstance(answer, dict) else answer
        return [found for entry in entries if (found := self._find_entry(entry, path))[0]]

    def _find_entry(self, entry: dict[str, Any], asked: str) -> tuple[str, int, str]:
        """Find an entry. The name is empty for the folder itself, which some stores keep as an
        empty object.
        """
        path, kind = str(entry["name"]), str(entry["type"])
        if path.endswith("/"):  # a folder made by hand in an object store
            path, kind = path.rstrip("/"), "directory"
        size = entry.get("size")
        num_bytes = -1 if size is None else int(size)
        if path == asked.rstrip("/"):
            if kind == "file" and asked == self._path:
                raise no_folder(self._location, "a file")
            return "", num_bytes, kind
        if not path.startswith(self._start):
            return path, num_bytes, OUTSIDE_SOURCE
        return path[len(self._start) :], num_bytes, kind


def _take_remote(listing: Listing, name: str, num_bytes: int, kind: str) -> None:
    if kind == "file":
        listing.take(SourceFile(name, num_bytes))
    elif kind == "directory":
        listing.take_folder(name)
    else:
        listing.ignore(name, OUTSIDE_SOURCE if kind == OUTSIDE_SOURCE else NOT_A_FILE)
