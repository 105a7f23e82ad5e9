"""Which files of a source are images: by their extension or, without one, by their content."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from shards.images.conversion import has_image_content, has_image_extension
from shards.sources.files import read_range, read_whole
from shards.sources.listing import NOT_AN_IMAGE, UNREADABLE, Listing, SourceFile
from shards.storage.filesystems import is_local

MAX_SEARCHED_BYTES = 256 << 20  # bytes; a file without an image's extension is read as a whole
_BATCH = 4096  # files that wait for a thread
_THREADS = 8  # each holds one such file


def select_images(folder: str, listing: Listing) -> list[SourceFile]:
    """Return the images of `listing`, in no order; what is none goes to its ignored files.

    Raises OSError if the object storage does not answer.
    """
    images: list[SourceFile] = []
    others: list[SourceFile] = []
    for file in listing.files:
        (images if has_image_extension(file.name) else others).append(file)
    listing.files = []
    for file, reason in _looked_into(folder, others):
        if reason:
            listing.ignore(file.name, reason)
        else:
            images.append(file)
    return images


def _looked_into(folder: str, files: list[SourceFile]) -> Iterator[tuple[SourceFile, str]]:
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            reasons = pool.map(lambda file: _reason_to_ignore(folder, file), batch)
            yield from zip(batch, reasons, strict=True)


def _reason_to_ignore(folder: str, file: SourceFile) -> str:
    if file.num_bytes > MAX_SEARCHED_BYTES:
        return NOT_AN_IMAGE
    try:
        if file.archive:
            data = read_range(folder, file.archive, file.offset, file.num_bytes)
        else:
            data = read_whole(folder, file.name)
    except OSError:
        if not is_local(folder):
            raise
        return UNREADABLE
    return "" if has_image_content(data) else NOT_AN_IMAGE
