"""What a peer's process does for the benchmark of loading."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import simplejpeg

from benchmarks.peers.adapters.stored_images import StoredImages
from benchmarks.peers.loading_rate import measure_rate

# On average: FFCV decodes faster and less exactly than the others; other images differ by more.
_DECODER_LEVELS = 3.0


def _library(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.peers.adapters.{name}")


def write_set(library: str, images: dict[str, Any]) -> None:
    stored = StoredImages(**images)
    _library(library).write_set(stored, Path(stored.folder) / library)


def check_pixels(library: str, decoder: str, workers: int, images: dict[str, Any]) -> float:
    """The first batch's mean difference, in levels, from what simplejpeg decodes.

    Raises ValueError for pixels of other images, or different ones although simplejpeg has decoded
    them.
    """
    stored = StoredImages(**images)
    batch = next(_batches(library, decoder, workers, stored))
    references = np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in set(stored.jpegs())])
    thumbnails = references[:, ::16, ::16].astype(np.int16)
    differences = []
    for image in batch:
        distances = np.abs(thumbnails - image[::16, ::16].astype(np.int16)).mean(axis=(1, 2, 3))
        reference = references[int(distances.argmin())].astype(np.int16)
        differences.append(float(np.abs(reference - image.astype(np.int16)).mean()))
    mean = float(np.mean(differences))
    if mean > (0 if decoder == "simplejpeg" else _DECODER_LEVELS):
        raise ValueError(f"pixels differ from the stored images' by {mean:.2f} levels on average")
    if len({image.tobytes() for image in batch}) < min(len(batch), len(references)) / 2:
        raise ValueError("most images of the first batch are the same")
    return mean


def rate(library: str, decoder: str, workers: int, images: dict[str, Any], seconds: float) -> float:
    """Images per second."""
    stored = StoredImages(**images)

    def counted(_: Any) -> Any:
        for batch in _batches(library, decoder, workers, stored):
            yield len(batch)

    try:
        return measure_rate(counted, stored, seconds)  # type: ignore[arg-type]
    finally:
        gc.collect()  # LitData's loader refers to itself: its workers would stay for other rounds


def _batches(
    library: str, decoder: str, workers: int, stored: StoredImages
) -> Iterator[np.ndarray]:
    """Rows, columns, channels, wherever a library's own order has the channels."""
    size, count = stored.crop_size, stored.batch_size
    folder = Path(stored.folder) / library
    for batch in _library(library).batches(stored, folder, decoder, workers):
        if batch.shape == (count, 3, size, size):
            batch = batch.transpose(0, 2, 3, 1)  # a view
        if batch.shape != (count, size, size, 3) or batch.dtype != np.uint8:
            raise ValueError(f"a batch is {batch.dtype} of {batch.shape}")
        yield batch
