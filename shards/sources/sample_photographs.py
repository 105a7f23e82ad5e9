"""Freely licensed photographs, cut into tiles: image classes to try everything on, offline.

The photographs ship inside packages that the project needs anyway; their licences stand beside
them below, and `SOURCES.txt` repeats them. Whole photographs are for training or for validation: a
network that has seen another part of a picture would be judged on what it half knows.
`shards.sources.free_photographs` names more, which have to be installed.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from shards.keyed_random import permutation

CREDITS_NAME = "SOURCES.txt"
TILE_SIDE = 160  # pixels, of validation and training tiles
LARGE_TILE_SIDE = 224  # of more training tiles: the same content at another scale
_STRIDE = 32
_LARGE_STRIDE = 40
_MAX_TILES = {"train": 64, "val": 16}  # of each photograph
_LEAST_DETAIL = 3.0  # mean step between neighbours, in levels of 255: an empty sky has less

_TITLE = "Tiles of freely licensed photographs, changed only by cutting."
_TILE_NAME = re.compile(r"(train|val)/([a-z0-9-]+)/\2-\d+-\d+-\d+\.png")


@dataclass(frozen=True)
class SamplePhotograph:
    name: str
    split: str  # "train" or "val"
    credit: str  # author, licence, origin
    package: str = "skimage"
    file: str = ""  # inside the package; empty: a function of skimage.data


SAMPLE_PHOTOGRAPHS = (
    SamplePhotograph(
        "astronaut",
        "train",
        "Portrait of Eileen Collins, NASA, no known copyright restrictions (public domain), "
        "https://flic.kr/p/r9qvLn",
    ),
    SamplePhotograph("chelsea", "val", "Chelsea the cat, by Stefan van der Walt, CC0"),
    SamplePhotograph("coffee", "val", "Coffee at Pikolo Espresso Bar, by Rachel Michetti, CC0"),
    SamplePhotograph(
        "rocket",
        "train",
        "Falcon 9 with DSCOVR, by SpaceX, released into the public domain, "
        "https://www.flickr.com/photos/spacexphotos/16511594820/",
    ),
    SamplePhotograph("brick", "train", "Brick wall, CC0Textures (Bricks25), CC0"),
    SamplePhotograph(
        "hopper",
        "train",
        "Portrait of Grace Hopper, by James S. Davis, United States Navy, public domain",
        package="matplotlib",
        file="mpl-data/sample_data/grace_hopper.jpg",
    ),
    SamplePhotograph(
        "china",
        "train",
        "china.jpg, by danielbuechele, CC BY 2.0 "
        "(https://creativecommons.org/licenses/by/2.0/), "
        "https://www.flickr.com/photos/danielbuechele/6061409035/",
        package="sklearn",
        file="datasets/images/china.jpg",
    ),
    SamplePhotograph(
        "flower",
        "val",
        "flower.jpg, by vultilion, CC BY 2.0 "
        "(https://creativecommons.org/licenses/by/2.0/), "
        "https://www.flickr.com/photos/vultilion/6056698931/",
        package="sklearn",
        file="datasets/images/flower.jpg",
    ),
)


@dataclass(frozen=True)
class Tile:
    """A square of a photograph: columns [x, x + side), rows [y, y + side)."""

    split: str
    x: int
    y: int
    side: int


def available_photographs() -> list[SamplePhotograph]:
    return [
        photo for photo in SAMPLE_PHOTOGRAPHS if not photo.file or _package_file(photo) is not None
    ]


def read_sample_photograph(photograph: SamplePhotograph) -> np.ndarray:
    """RGB, uint8, (height, width, 3)."""
    if photograph.file:
        path = _package_file(photograph)
        assert path is not None, photograph
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    import skimage.data

    pixels: np.ndarray = getattr(skimage.data, photograph.name)()
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def cut_tiles(split: str, pixels: np.ndarray) -> list[Tile]:
    """Return tiles of a photograph that have something to see.

    Validation tiles are few and of one size; for training there are larger ones too.
    """
    height, width = pixels.shape[:2]
    candidates = [*_tiles(split, width, height, TILE_SIDE, _STRIDE)]
    if split == "train":
        candidates += _tiles(split, width, height, LARGE_TILE_SIDE, _LARGE_STRIDE)
    tiles = [tile for tile in candidates if _detail(tile_pixels(tile, pixels)) >= _LEAST_DETAIL]
    count = min(_MAX_TILES[split], len(tiles))
    drawn = permutation(0, "tiles", count=len(tiles))[:count]  # even steps could be one column
    return [tiles[position] for position in sorted(drawn)]


def tile_pixels(tile: Tile, pixels: np.ndarray) -> np.ndarray:
    return pixels[tile.y : tile.y + tile.side, tile.x : tile.x + tile.side]


def write_samples(
    destination: Path, more: Iterable[tuple[SamplePhotograph, np.ndarray]] = ()
) -> dict[str, int]:
    """Write DESTINATION/train/NAME/, DESTINATION/val/NAME/ and the credits. Return tiles per split.

    `more` are further photographs with their pixels, uint8 (height, width, 3) RGB. An earlier set
    of samples is replaced. Raises ValueError if anything else is there.
    """
    _clear(destination)
    counts = {"train": 0, "val": 0}
    shipped = ((photo, read_sample_photograph(photo)) for photo in available_photographs())
    lines = [_TITLE, ""]
    for photograph, pixels in itertools.chain(shipped, more):
        for tile in cut_tiles(photograph.split, pixels):
            folder = destination / tile.split / photograph.name
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{photograph.name}-{tile.x}-{tile.y}-{tile.side}.png"
            Image.fromarray(tile_pixels(tile, pixels)).save(folder / name, compress_level=1)
            counts[tile.split] += 1
        lines.append(f"{photograph.name}: {photograph.credit}")
    (destination / CREDITS_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return counts


def _package_file(photograph: SamplePhotograph) -> Path | None:
    """The file in its package, which is found but not imported; None where it is missing."""
    spec = importlib.util.find_spec(photograph.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, photograph.file)
        if path.is_file():
            return path
    return None


def _tiles(split: str, width: int, height: int, side: int, stride: int) -> Iterator[Tile]:
    for y in range(0, height - side + 1, stride):
        for x in range(0, width - side + 1, stride):
            yield Tile(split, x, y, side)


def _detail(pixels: np.ndarray) -> float:
    grey = pixels.astype(np.float32).mean(axis=2)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2


def _clear(destination: Path) -> None:
    if destination.exists() and not destination.is_dir():
        raise ValueError(f"{destination} is a file; name a folder for the samples")
    names = [
        path.relative_to(destination).as_posix()
        for path in sorted(destination.rglob("*"))
        if not path.is_dir()
    ]
    for name in names:
        if name != CREDITS_NAME and not _TILE_NAME.fullmatch(name):
            raise ValueError(
                f"{destination} holds {name}, which is no sample tile; name an empty or new folder"
            )
    for split in ("train", "val"):
        shutil.rmtree(destination / split, ignore_errors=True)
    destination.mkdir(parents=True, exist_ok=True)
