"""Images and masks as files: what an evaluation that others can repeat is made on.

A list names the images, `images.csv` with the columns image (relative to the list), sha256, source,
and one column for each set of masks with the SHA-256 of each mask; or a list of names alone, or a
folder. A set of masks is a folder with one file an image: NAME.png, NAME_mask.png or
NAME_mask000.png for an image NAME, white (128 and more) in the hole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from shards.format.recipe import PackRecipe
from shards.images.conversion import UnusableImage, convert_image, has_image_extension
from shards.images.encodings import decode_image
from shards.storage.files import exists, join_url, list_tree, read_bytes

LIST_NAME = "images.csv"
_MAX_LISTED = 10  # files that are named one by one
_MASK_SUFFIX = re.compile(r"_mask\d*$")


class FixedPair(NamedTuple):
    image: str  # URL
    mask: str
    set_name: str
    image_sha256: str = ""  # "": not known
    mask_sha256: str = ""


class _ListedImage(NamedTuple):
    name: str  # without folders of the list and without extension: by which masks are matched
    url: str
    row: dict[str, str]


@dataclass(frozen=True)
class ImageMaskPairs:
    pairs: list[FixedPair]  # set by set, in the order of the list
    side: int  # of every mask, pixels; an image of another size is cropped to its centre, scaled
    inverted: bool = False  # masks are black in the hole

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (side, side, 3) and bool (side, side), True in the hole.

        Raises ValueError for a file that is damaged or not the one that was listed.
        """
        pair = self.pairs[number]
        image = _read_checked(pair.image, pair.image_sha256)
        mask = _read_mask(_read_checked(pair.mask, pair.mask_sha256), pair.mask) ^ self.inverted
        if not mask.any():
            raise ValueError(f"{pair.mask} has no hole: {_polarity_advice(self.inverted)}")
        return _read_image(image, pair.image, self.side), mask

    def description(self) -> dict[str, Any]:
        """Return what distinguishes evaluations on other files."""
        names = sorted({pair.set_name for pair in self.pairs})
        listed = "\n".join("\t".join(pair[2:]) for pair in self.pairs)
        is_hashed = all(pair.image_sha256 and pair.mask_sha256 for pair in self.pairs)
        return {
            "sets": names,
            "num_pairs": len(self.pairs),
            "side_px": self.side,
            "sha256": hashlib.sha256(listed.encode()).hexdigest() if is_hashed else "",
        }


def find_pairs(
    images: str, mask_folders: list[str], *, inverted: bool = False, by_order: bool = False
) -> ImageMaskPairs:
    """Every image with its mask of every folder; a folder's set is named as the folder is, or as
    NAME in NAME=FOLDER. `by_order` matches sorted masks with the list in its order.

    Raises FileNotFoundError or ValueError with all that is missing, left over or of another size.
    """
    listed = _listed_images(images)
    pairs: list[FixedPair] = []
    errors = _missing_errors("images", [one.url for one in listed if not exists(one.url)])
    for folder in mask_folders:
        name, separator, url = folder.partition("=")
        if not separator or "/" in name:
            name, url = PurePosixPath(folder.rstrip("/")).name, folder
        found, its_errors = _match_masks(listed, name, url, by_order)
        pairs += found
        errors += its_errors
    names = [pair.set_name for pair in pairs[:: max(len(listed), 1)]]
    if len(set(names)) < len(names):
        errors.append(f"two sets have one name ({', '.join(names)}): give NAME=FOLDER")
    sizes = {} if errors else {pair.mask: _mask_size(pair.mask) for pair in pairs}
    side, size_errors = _common_side(sizes)
    errors += size_errors
    if errors:
        raise ValueError("the files cannot be evaluated on:\n  " + "\n  ".join(errors))
    return ImageMaskPairs(pairs, side, inverted)


def _listed_images(location: str) -> list[_ListedImage]:
    if not exists(location):
        raise FileNotFoundError(f"--images {location}: there is no such list or folder")
    suffix = PurePosixPath(location).suffix.lower()
    if suffix not in (".csv", ".txt"):
        names = [name for name, _ in list_tree(location) if has_image_extension(name)]
        rows = [{"image": name} for name in names if not _MASK_SUFFIX.search(_stem(name))]
        folder = location
    else:
        folder = location.rpartition("/")[0] or "."
        rows = list(_rows(read_bytes(location).decode(errors="surrogateescape"), location, suffix))
    if not rows or not all(row["image"] for row in rows):
        raise ValueError(f"--images {location} names no image" + " in some rows" * bool(rows))
    return [
        _ListedImage(_stem(row["image"]), _join_below(folder, row["image"]), row) for row in rows
    ]


def _rows(text: str, location: str, suffix: str) -> Iterator[dict[str, str]]:
    if suffix == ".txt":
        yield from ({"image": line} for line in map(str.strip, text.splitlines()) if line)
        return
    reader = csv.DictReader(io.StringIO(text))
    if "image" not in (reader.fieldnames or ()):
        raise ValueError(f"--images {location} has no column named image")
    yield from reader


def _join_below(folder: str, name: str) -> str:
    return name if name.startswith("/") or "://" in name else join_url(folder, name)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _match_masks(
    listed: list[_ListedImage], set_name: str, folder: str, by_order: bool
) -> tuple[list[FixedPair], list[str]]:
    names = [name for name, _ in list_tree(folder) if has_image_extension(name)]
    if not names:
        return [], [f"--masks {folder} holds no mask"]
    if by_order:
        if len(names) != len(listed):
            return [], [f"--masks {folder} holds {len(names)} masks, for {len(listed)} images"]
        chosen = list(zip(listed, names, strict=True))
        return [_pair(one, set_name, folder, name) for one, name in chosen], []
    wanted = {one.name for one in listed}
    if len(wanted) < len(listed):
        return [], ["images share a name: match their masks by order"]
    masks: dict[str, list[str]] = {}
    for name in names:
        stem = _stem(name)
        masks.setdefault(stem if stem in wanted else _MASK_SUFFIX.sub("", stem), []).append(name)
    extra = [name for stem, of_one in masks.items() for name in of_one if stem not in wanted]
    # Beside masks may lie the images that they belong to, as LaMa has them.
    urls = {one.url for one in listed}
    extra = [name for name in extra if join_url(folder, name) not in urls]
    several: list[str] = []
    for stem in wanted & masks.keys():
        masks[stem] = [name for name in masks[stem] if join_url(folder, name) not in urls]
        several += masks[stem][1:]
    errors = _missing_errors(
        f"masks of {folder}", [one.name for one in listed if not masks.get(one.name)]
    )
    errors += _format_names(f"masks of {folder} belong to no listed image", extra)
    errors += _format_names(f"masks of {folder} are second masks of an image", several)
    if errors:
        return [], errors
    return [_pair(one, set_name, folder, masks[one.name][0]) for one in listed], []


def _pair(image: _ListedImage, set_name: str, folder: str, mask: str) -> FixedPair:
    row = image.row
    return FixedPair(
        image.url,
        join_url(folder, mask),
        set_name,
        row.get("sha256") or "",
        row.get(set_name) or "",
    )


def _missing_errors(what: str, names: list[str]) -> list[str]:
    return _format_names(f"{what} are missing", names)


def _format_names(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return [f"{len(names)} {what}: {', '.join(names[:_MAX_LISTED])}{more}"]


def _mask_size(url: str) -> tuple[int, int]:
    """Width and height; (0, 0) of what is no image."""
    try:
        with Image.open(io.BytesIO(read_bytes(url))) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0


def _common_side(sizes: dict[str, tuple[int, int]]) -> tuple[int, list[str]]:
    """Return the side that most masks have, and an error that names the others."""
    if not sizes:
        return 0, []
    counts: dict[tuple[int, int], int] = {}
    for size in sizes.values():
        counts[size] = counts.get(size, 0) + 1
    (width, height) = max(counts, key=lambda size: counts[size])
    if width != height or width < 16 or width % 4:
        return 0, [f"the masks have {width} x {height} pixels: must be a square whose side is a "
                   "multiple of 4, at least 16"]  # fmt: skip
    others = [f"{url} ({w} x {h})" for url, (w, h) in sizes.items() if (w, h) != (width, height)]
    return width, _format_names(
        f"masks are not of {width} x {height} pixels as the others are", others
    )


def _read_checked(url: str, sha256: str) -> bytes:
    data = read_bytes(url)
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{url} is not the file that was listed: its SHA-256 differs")
    return data


def _read_mask(data: bytes, url: str) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise ValueError(f"{url} cannot be read as an image")
    return pixels >= 128


def _read_image(data: bytes, url: str, side: int) -> np.ndarray:
    recipe = PackRecipe(crop_size=side, short_side=side, encoding="raw")
    try:
        stored = convert_image(data, url, "val", recipe)
    except UnusableImage as error:
        raise ValueError(f"{url} cannot be used: {error}") from error
    return decode_image(stored.data, np.empty(side * side * 3, np.uint8), side, side)


def _polarity_advice(inverted: bool) -> str:
    return "it may be white there" if inverted else "if its hole is black, add --masks-inverted"
