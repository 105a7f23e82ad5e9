"""Large photographs under free licences, which Debian packages install: more samples.

`free_photographs.csv` names each with its package, version, author and licence. They are cut as
those of `shards.sources.sample_photographs` are, after they were reduced: a tile of a large
photograph as it is shows little but texture.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from shards.sources.sample_photographs import SamplePhotograph

LIST = Path(__file__).with_name("free_photographs.csv")
SHORT_SIDE = 400  # pixels, that photographs are reduced to before they are cut
_VALIDATION_SHARE = 5  # one photograph of so many is for validation


@dataclass(frozen=True)
class FreePhotograph:
    """A row of the list."""

    name: str
    package: str  # of Debian
    version: str  # of the package, in which the licence was read
    file: str  # below /usr/share
    author: str
    licence: str

    @property
    def split(self) -> str:
        """Return "val" for about one in five, by a hash of the name: the same whatever is found."""
        number = int(hashlib.sha256(self.name.encode()).hexdigest()[:8], 16)
        return "train" if number % _VALIDATION_SHARE else "val"

    @property
    def credit(self) -> str:
        return f"{self.author}, {self.licence}, Debian package {self.package} {self.version}"


def listed_photographs() -> list[FreePhotograph]:
    """Return all rows of the list, in its order."""
    with LIST.open(newline="", encoding="utf-8") as rows:
        return [FreePhotograph(**row) for row in csv.DictReader(rows)]


def find_photographs(folders: Sequence[Path]) -> dict[FreePhotograph, Path]:
    """Return the listed photographs whose file lies in one of the folders.

    A folder stands for /usr/share: that one itself, or where packages were unpacked. Raises
    ValueError where a folder does not exist, or where none of them holds any.
    """
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise ValueError(f"--photographs {', '.join(missing)}: there is no such folder")
    found = {}
    for photograph in listed_photographs():
        paths = [folder / photograph.file for folder in folders]
        existing = [path for path in paths if path.is_file()]
        if existing:
            found[photograph] = existing[0]
    if not found:
        packages = sorted({photograph.package for photograph in listed_photographs()})
        raise ValueError(
            f"--photographs {', '.join(map(str, folders))}: none of the listed photographs lies "
            f"there; name the folder /usr/share after installing {', '.join(packages)}"
        )
    return found


def read_photographs(
    found: dict[FreePhotograph, Path], report: Callable[[str], None]
) -> Iterator[tuple[SamplePhotograph, np.ndarray]]:
    """Yield each with its reduced pixels. A file that cannot be read is reported and left out."""
    for photograph, path in found.items():
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            report(f"{path} is left out: {error}")
            continue
        sample = SamplePhotograph(photograph.name, photograph.split, photograph.credit)
        yield sample, _reduce(pixels)


def _reduce(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = SHORT_SIDE / min(height, width)
    if scale >= 1:
        return pixels
    size = (round(width * scale), round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
