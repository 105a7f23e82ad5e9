"""Shards as others write them, for the tests of several files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import simplejpeg
import webdataset

from tests.shards.pictures import picture


def write_shards(
    folder: Path,
    names: tuple[str, ...] = ("a-000000.tar", "a-000001.tar", "a-000002.tar"),
    images: int = 4,
    label: Callable[[int], object] = lambda number: number % 3,
) -> Path:
    """As others write them: webdataset, .jpg and .cls, images of many sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for name in names:
        with webdataset.TarWriter(str(folder / name)) as sink:
            for _ in range(images):
                pixels = picture((64 + number, 48), number)
                data = simplejpeg.encode_jpeg(pixels, colorsubsampling="420")
                # Bytes are taken as they are; the label of a class may be a word.
                text = str(label(number)).encode()
                sink.write({"__key__": f"sample-{number}", "jpg": data, "cls": text})
                number += 1
    return folder
