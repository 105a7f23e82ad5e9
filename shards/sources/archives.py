"""The images in tar archives: each archive's headers are walked once, and nothing is unpacked.

What is kept of a member is where its bytes lie, so that any packer reads any image by itself.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from shards.format.manifest import RefusedImage
from shards.sources.files import RangedFile, file_size
from shards.sources.listing import (
    COMPRESSED,
    LEADS_OUT,
    LINK_IN_ARCHIVE,
    NESTED,
    NOT_A_FILE,
    REPLACED,
    SPARSE_IN_ARCHIVE,
    Listing,
    SourceFile,
    is_archive,
    is_compressed,
)
from shards.storage.filesystems import is_local, join_url

_THREADS = 8  # archives that are walked at once
# A request costs a store as long as a megabyte or more of its data, and images are mostly smaller.
_REMOTE_BLOCK = 1 << 20  # bytes
_LOCAL_BLOCK = 1 << 13


def open_archives(folder: str, listing: Listing) -> Listing:
    """`listing` with the members of its archives in their place, below the archives' names.

    Raises ValueError for an archive that is not whole, OSError where one cannot be read.
    """
    opened = Listing(ignored=listing.ignored, folders=listing.folders)
    archives = []
    for file in listing.files:
        if is_archive(file.name):
            archives.append(file)
        elif is_compressed(file.name):
            opened.ignore(file.name, COMPRESSED)
        else:
            opened.files.append(file)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda file: list_archive(folder, file.name, file.num_bytes), archives)
        for archive, members in zip(archives, found, strict=True):
            for member in members.files:
                opened.files.append(member._replace(name=f"{archive.name}/{member.name}"))
            for image in members.ignored:
                name = f"{archive.name}/{image.path}"
                opened.ignored.append(RefusedImage(name, image.reason))
    return opened


def list_archive(folder: str, archive: str, num_bytes: int = -1) -> Listing:
    """The members by their own names; `archive` is the tar's name below `folder`."""
    size = num_bytes if num_bytes >= 0 else file_size(folder, archive)
    listing = Listing()
    files: dict[str, SourceFile] = {}
    block = _LOCAL_BLOCK if is_local(folder) else _REMOTE_BLOCK
    with io.BufferedReader(RangedFile(folder, archive, size), block) as content:
        for member in _members(content, join_url(folder, archive)):
            name = posixpath.normpath(member.name)
            reason = _reason_to_ignore(member)
            if reason == LEADS_OUT:
                listing.ignored.append(RefusedImage(member.name, reason))
            elif reason:
                listing.ignore(name, reason)
            elif member.isdir():
                if name != ".":
                    listing.take_folder(name)
            else:
                if name in files:
                    listing.ignore(name, REPLACED)
                files[name] = SourceFile(name, member.size, archive, member.offset_data)
    for file in files.values():
        listing.take(file)
    return listing


def _reason_to_ignore(member: tarfile.TarInfo) -> str:
    name = member.name
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        return LEADS_OUT
    if member.issym() or member.islnk():
        return LINK_IN_ARCHIVE
    if member.isdir():
        return ""
    if member.issparse():
        return SPARSE_IN_ARCHIVE
    if not member.isreg() or not name or name.endswith("/."):
        return NOT_A_FILE
    if is_archive(name):
        return NESTED
    return COMPRESSED if is_compressed(name) else ""


def _members(content: BinaryIO, url: str) -> Iterator[tarfile.TarInfo]:
    """Every member up to the end of the archive. ValueError if that end is not found."""
    position = -1
    try:
        with tarfile.open(fileobj=content, mode="r:", encoding="utf-8") as walk:
            while (member := walk.next()) is not None:
                walk.members = []  # type: ignore[attr-defined]  # or it would keep all of them
                if member.size < 0 or member.offset <= position:
                    raise tarfile.ReadError("a size that cannot be")
                position = member.offset
                yield member
            position = walk.offset
            _require_end(content, position)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        place = f" after byte {position}" if position > 0 else ""
        raise ValueError(
            f"{url} is cut off or damaged{place} ({error}); copy it again, or remove it from the "
            "source"
        ) from error


def _require_end(content: BinaryIO, position: int) -> None:
    """A walk also stops at the first header that is none: only zeros end an archive."""
    content.seek(position)
    block = content.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("the end of the archive is missing")
    while block:
        if any(block):
            raise tarfile.ReadError("what follows is neither a member nor the archive's end")
        block = content.read(_REMOTE_BLOCK)
