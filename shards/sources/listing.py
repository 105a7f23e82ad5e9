"""What a source consists of: its images, the files among which they lie, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from shards.format.manifest import RefusedImage

TAR = ".tar"
COMPRESSED_SUFFIXES = (
    ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4",
    ".zip", ".7z", ".rar", ".gz",
)  # fmt: skip

_IGNORED = "ignored, "
HIDDEN = _IGNORED + "hidden"
NOT_AN_IMAGE = _IGNORED + "not an image"
OUTSIDE_SPLITS = _IGNORED + "beside train/ and val/"
NOT_A_FILE = _IGNORED + "not a regular file"
UNREADABLE = _IGNORED + "without an image's extension, and it cannot be read"
BROKEN_LINK = _IGNORED + "a link to nothing"
CIRCLE = _IGNORED + "a link to a folder that it lies in"
OUTSIDE_SOURCE = _IGNORED + "outside the source"
COMPRESSED = _IGNORED + "a compressed archive; decompress it to have its images packed"
NESTED = _IGNORED + "an archive within an archive; unpack the outer one"
LINK_IN_ARCHIVE = _IGNORED + "a link in an archive"
SPARSE_IN_ARCHIVE = _IGNORED + "stored with gaps in an archive"
LEADS_OUT = _IGNORED + "its name leads out of the archive"
REPLACED = _IGNORED + "replaced by a later member of the archive"


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a plan. There may be ten million: nothing is stored that they have in common."""

    name: str  # relative to the source, with forward slashes; a list's absolute ones as given
    class_name: str
    num_bytes: int = -1  # -1: unknown until it is read
    archive: str = ""  # the tar that holds it, relative to the source's folder
    offset: int = 0  # of its bytes in the archive


class SourceFile(NamedTuple):
    """What a listing finds, before it is known to be an image and of which class."""

    name: str
    num_bytes: int = -1
    archive: str = ""
    offset: int = 0


@dataclass
class Listing:
    """All that lies in a source. `folders` are the first-level ones, empty ones as well."""

    files: list[SourceFile] = field(default_factory=list)
    ignored: list[RefusedImage] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    _hidden: set[str] = field(default_factory=set)

    def take(self, file: SourceFile) -> None:
        if not self._is_hidden(file.name):
            self._take_folder_of(file.name)
            self.files.append(file)

    def take_folder(self, name: str) -> None:
        if not self._is_hidden(name):
            self.folders.add(name.split("/", 1)[0])

    def ignore(self, name: str, reason: str) -> None:
        """A file of a hidden folder counts as hidden, once for the whole folder."""
        if not self._is_hidden(name):
            self._take_folder_of(name)
            self.ignored.append(RefusedImage(name, reason))

    def _take_folder_of(self, name: str) -> None:
        folder, slash, _ = name.partition("/")
        if slash:
            self.folders.add(folder)

    def _is_hidden(self, name: str) -> bool:
        part = hidden_part(name)
        if part and part not in self._hidden:
            self._hidden.add(part)
            self.ignored.append(RefusedImage(part, HIDDEN))
        return bool(part)


def is_ignored(image: RefusedImage) -> bool:
    """Whether a file was left out because it was never meant as an image of a class."""
    return image.reason.startswith(_IGNORED)


def hidden_part(name: str) -> str:
    """`name` up to its first part that begins with a dot; empty if none does."""
    if not name.startswith(".") and "/." not in name:
        return ""
    parts = name.split("/")
    first = next(number for number, part in enumerate(parts) if part.startswith("."))
    return "/".join(parts[: first + 1])


def is_archive(name: str) -> bool:
    return name.lower().endswith(TAR)


def is_compressed(name: str) -> bool:
    return name.lower().endswith(COMPRESSED_SUFFIXES)


def without_tar(name: str) -> str:
    """The folder that an archive stands for: `cat` for `cat.tar`."""
    return name[: -len(TAR)]
