"""FFCV: one .beton file, decoded by its compiled pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from ffcv.fields import BytesField, RGBImageField
from ffcv.fields.rgb_image import IMAGE_MODES, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import ToTensor
from ffcv.writer import DatasetWriter

from benchmarks.peers.adapters.conversion import Convert
from benchmarks.peers.adapters.stored_images import StoredImages


class _StoredJpegField(RGBImageField):
    """Keeps JPEGs as they are, where FFCV's own field encodes pixels."""

    @staticmethod
    def from_binary(binary: Any) -> _StoredJpegField:
        return _StoredJpegField()

    def encode(self, destination: Any, jpeg: bytes, malloc: Any) -> None:
        height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["height"], destination["width"] = height, width
        destination["data_ptr"], storage = malloc(len(jpeg))
        storage[:] = np.frombuffer(jpeg, dtype=np.uint8)


class _Samples:
    """What DatasetWriter reads from: `jpeg` gives the encoded image of a number."""

    def __init__(self, count: int, jpeg: Any, *others: np.ndarray) -> None:
        self._count, self._jpeg, self.others = count, jpeg, others

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        return (self._jpeg(number), *self.others)


def _write(samples: _Samples, path: Path, processes: int) -> None:
    fields = {"image": _StoredJpegField()}
    fields |= {f"json {number}": BytesField() for number in range(len(samples.others))}
    writer = DatasetWriter(str(path), fields, num_workers=processes)
    writer.from_indexed_dataset(samples)


def write_set(images: StoredImages, folder: Path) -> None:
    paths = images.files()
    folder.mkdir()
    samples = _Samples(len(paths), lambda number: paths[number].read_bytes())
    _write(samples, folder / "images.beton", 1)


def batches(images: StoredImages, folder: Path, decoder: str, workers: int) -> Iterator[np.ndarray]:
    """`workers` threads decode; those of its own besides only pass batches on."""
    loader = Loader(
        str(folder / "images.beton"),
        images.batch_size,
        num_workers=max(1, workers),
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": [SimpleRGBImageDecoder(), ToTensor()]},
        custom_fields={"image": _StoredJpegField},
    )
    while True:
        epoch = iter(loader)
        try:
            for (batch,) in epoch:
                yield batch.numpy()
        finally:
            epoch.close()


def pack(paths: list[str], convert: Convert, folder: Path, processes: int) -> None:
    folder.mkdir()
    samples = _Samples(len(paths), lambda number: convert(paths[number]))
    _write(samples, folder / "images.beton", processes)


def write(jpegs: list[bytes], description: str, count: int, folder: Path, hashed: bool) -> None:
    assert not hashed, "FFCV has no hashes"
    folder.mkdir()
    described = np.frombuffer(description.encode(), dtype=np.uint8)
    samples = _Samples(count, lambda number: jpegs[number % len(jpegs)], described)
    _write(samples, folder / "images.beton", 1)
