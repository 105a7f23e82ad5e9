"""Walk the headers of a shard without trusting any of them, and finds the next one after damage.

Every byte of the archive outside the members is checked: headers carry a checksum, everything
else must be zero. A reader of tars stops at the first bad header, and would lose all that follows.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, cast

from shards.format.finding import Finding, shown

BLOCK = 512  # bytes of a header; members are padded to a multiple of it
_END = 2 * BLOCK  # zeros that end an archive
_CHUNK = 1 << 16
_KINDS = {
    b"0": "regular file", b"\0": "regular file", b"1": "hard link", b"2": "symbolic link",
    b"3": "character device", b"4": "block device", b"5": "folder", b"6": "named pipe",
    b"7": "contiguous file", b"x": "extended header", b"g": "global extended header",
    b"L": "header of a long name", b"K": "header of a long link",
}  # fmt: skip
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")

Report = Callable[[Finding], None]


class ShardFile:
    """Read by position and not mapped: a page that a disk cannot read would kill the process."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Fewer bytes than `size` at the end of the file."""
        return os.pread(self._file.fileno(), size, offset)

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


@dataclass(frozen=True)
class Member:
    name: str
    offset: int  # of its bytes in the file, past the header
    size: int


def walk_tar(file: ShardFile, shard: str, report: Report) -> list[Member]:
    """Return the regular members in file order, and pass every finding to `report`."""
    members: list[Member] = []
    position, is_lost = 0, False
    while position + BLOCK <= file.size:
        header = file.read(position, BLOCK)
        if not any(header):
            following = _first_data(file, position)
            if following is None:
                _check_end(file, shard, position, report)
                return members
            if not is_lost:
                place = f"{shard} at byte {position}"
                report(Finding(place, "the archive ends, but data follow", "", f"byte {following}"))
            position, is_lost = following, True
            continue
        size = _data_size(header)
        if size is None:
            if not is_lost:
                report(Finding(f"{shard} at byte {position}", "this is not the header of a member"))
            position, is_lost = position + BLOCK, True
            continue
        is_lost = False
        member = Member(_name(header), position + BLOCK, size)
        if _is_sound(file, shard, member, header[156:157], report):
            members.append(member)
        position = member.offset + -(-size // BLOCK) * BLOCK
    report(Finding(shard, "the end of the archive is missing", f"{_END} zero bytes", "none"))
    return members


def _data_size(header: bytes) -> int | None:
    """Bytes that follow the header up to the next one; None if it is not a sound header."""
    if header[257:262] != b"ustar":
        return None
    # The checksum is summed with its own eight bytes taken for spaces.
    checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    size = _octal(header[124:136])
    if size is None or header[148:156] != b"%06o\0 " % checksum:
        return None
    return 0 if header[156:157] in _WITHOUT_DATA else size


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and set(digits) <= set(b"01234567") else None


def _name(header: bytes) -> str:
    name, prefix = (
        field.split(b"\0")[0].decode("utf-8", "backslashreplace")
        for field in (header[:100], header[345:500])
    )
    return f"{prefix}/{name}" if prefix else name


def _is_sound(file: ShardFile, shard: str, member: Member, kind: bytes, report: Report) -> bool:
    """Return whether the member may be checked further."""
    place = f"{shard} {shown(member.name)}"
    if _leads_out(member.name):
        report(Finding(place, "the name leads out of the folder"))
    if _KINDS.get(kind) != "regular file":
        found = _KINDS.get(kind, f"type {ascii(kind)[1:]}")
        report(Finding(place, "the member is not a regular file", "regular file", found))
        return False
    end = member.offset + member.size
    if end > file.size:
        there = max(0, file.size - member.offset)
        report(Finding(place, "the member is cut off", f"{member.size} bytes", f"{there} bytes"))
    elif any(file.read(end, -end % BLOCK)):
        report(Finding(place, "the padding after the member is not empty", "zeros", "other bytes"))
    return True


def _leads_out(name: str) -> bool:
    return name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts


def _first_data(file: ShardFile, position: int) -> int | None:
    """Start of the first block from `position` on that is not all zero; None if there is none."""
    while chunk := file.read(position, _CHUNK):
        zeros = len(chunk) - len(chunk.lstrip(b"\0"))
        if zeros < len(chunk):
            return position + zeros // BLOCK * BLOCK
        position += len(chunk)
    return None


def _check_end(file: ShardFile, shard: str, position: int, report: Report) -> None:
    zeros = file.size - position
    if zeros < _END or zeros % BLOCK:
        expected = f"at least {_END} zero bytes in blocks of {BLOCK}"
        report(Finding(shard, "the end of the archive is incomplete", expected, f"{zeros} bytes"))


def archive_members(data: memoryview) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a whole archive in memory, by the library's reader, extensions
    understood.

    ValueError for one that is not an archive, or whose headers lead backwards.
    """
    position = -1
    try:
        with tarfile.open(fileobj=cast(IO[bytes], _Contents(data)), mode="r:") as tar:
            while (member := tar.next()) is not None:
                if member.size < 0 or member.offset <= position:  # it would be read for ever
                    raise tarfile.ReadError(f"{member.name!r} has a size that cannot be")
                position = member.offset
                yield member
    except (tarfile.TarError, EOFError, OverflowError, IndexError, KeyError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


class _Contents:
    """A shard as a file to read: whatever size a header asks for, no more is given than is there.

    A BytesIO would copy the whole shard, and a file allocate what it is asked for.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        end = self._data.nbytes if size < 0 else self._position + size
        found = bytes(self._data[self._position : end])
        self._position += len(found)
        return found

    def seek(self, position: int) -> int:
        if position < 0:
            raise tarfile.ReadError(f"byte {position} lies before the archive")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position
