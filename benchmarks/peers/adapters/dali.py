"""NVIDIA DALI on the CPU: its readers.webdataset over this project's own shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types

from benchmarks.peers.adapters.stored_images import StoredImages

_SHUFFLE_BUFFER = 1000  # samples


@pipeline_def
def _decode(archives: list[str]) -> Any:
    jpegs = fn.readers.webdataset(
        paths=archives,
        ext=["jpg"],
        random_shuffle=True,
        initial_fill=_SHUFFLE_BUFFER,
        missing_component_behavior="error",
        name="images",
    )
    return fn.decoders.image(jpegs, device="cpu", output_type=types.RGB)


def write_set(images: StoredImages, folder: Path) -> None:
    """It reads the shards themselves."""


def batches(images: StoredImages, folder: Path, decoder: str, workers: int) -> Iterator[np.ndarray]:
    """`workers` threads decode; the reader has one of its own. Runs on over the ends of epochs."""
    pipeline = _decode(
        images.archives(),
        batch_size=images.batch_size,
        num_threads=max(1, workers),
        device_id=None,
        prefetch_queue_depth=2,
    )
    pipeline.build()
    while True:
        (batch,) = pipeline.run()
        yield np.asarray(batch.as_tensor())
