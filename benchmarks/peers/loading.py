"""What a peer's process does for the benchmark of loading."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import simplejpeg

from benchmarks.loading_candidates import measure_rate
from benchmarks.peers.stored_images import StoredImages

# Of the mean over the images: decoders round differently, and other images differ by far more.
_ROUNDING_LEVELS = 1.0


def _library(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.peers.{name}")


def write_files(images: dict[str, Any]) -> None:
    StoredImages(**images).write_files()


def write_set(library: str, images: dict[str, Any]) -> None:
    stored = StoredImages(**images)
    _library(library).write_set(stored, Path(stored.folder) / library)


def check_pixels(
    library: str, decoder: str, workers: int, images: dict[str, Any]
) -> dict[str, float]:
    """The first batch against the stored images as simplejpeg decodes them.

    Returns the mean and the largest difference in levels. Raises ValueError for pixels of other
    images, or different ones although simplejpeg has decoded them.
    """
    stored = StoredImages(**images)
    batch = next(_batches(library, decoder, workers, stored))
    references = np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in set(stored.jpegs())])
    thumbnails = references[:, ::16, ::16].astype(np.int16)
    means, largest = [], 0
    for image in batch:
        distances = np.abs(thumbnails - image[::16, ::16].astype(np.int16)).mean(axis=(1, 2, 3))
        reference = references[int(distances.argmin())].astype(np.int16)
        difference = np.abs(reference - image.astype(np.int16))
        means.append(float(difference.mean()))
        largest = max(largest, int(difference.max()))
    mean = float(np.mean(means))
    if mean > _ROUNDING_LEVELS or (decoder == "simplejpeg" and largest > 0):
        raise ValueError(f"pixels differ by {mean:.2f} levels on average, {largest} at most")
    if len({image.tobytes() for image in batch}) < min(len(batch), len(references)) / 2:
        raise ValueError("most images of the first batch are the same")
    return {"mean": mean, "largest": float(largest)}


def rate(library: str, decoder: str, workers: int, images: dict[str, Any], seconds: float) -> float:
    """Images per second."""
    stored = StoredImages(**images)

    def counted(_: Any) -> Any:
        for batch in _batches(library, decoder, workers, stored):
            yield len(batch)

    return measure_rate(counted, stored, seconds)  # type: ignore[arg-type]


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
