"""LitData: chunks, read by its StreamingDataset and StreamingDataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import litdata
import numpy as np
import simplejpeg
import torch
from litdata.streaming.writer import BinaryWriter
from PIL import Image

from benchmarks.peers.adapters.conversion import Convert
from benchmarks.peers.adapters.stored_images import StoredImages

_CHUNK_BYTES = "64MB"  # its default of documented examples
_PREFETCHED_BATCHES = 4  # of every worker


def write_set(images: StoredImages, folder: Path) -> None:
    paths = [str(path) for path in images.files()]
    for decoder, sample in (("own", Image.open), ("simplejpeg", _file_bytes)):
        _optimize(sample, paths, folder / decoder, 1)


def _file_bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def _decode(jpeg: bytes) -> torch.Tensor:
    return torch.from_numpy(simplejpeg.decode_jpeg(jpeg))


def batches(images: StoredImages, folder: Path, decoder: str, workers: int) -> Iterator[np.ndarray]:
    """Its own decoding, by torchvision, gives channels first."""
    torch.set_num_threads(1)
    dataset = litdata.StreamingDataset(
        str(folder / decoder),
        shuffle=True,
        drop_last=True,
        transform=None if decoder == "own" else _decode,
    )
    loader = litdata.StreamingDataLoader(
        dataset,
        batch_size=images.batch_size,
        drop_last=True,
        num_workers=workers,
        prefetch_factor=_PREFETCHED_BATCHES if workers else None,
        persistent_workers=workers > 0,
    )
    while True:
        for batch in loader:
            yield batch.numpy()


def pack(paths: list[str], convert: Convert, folder: Path, processes: int) -> None:
    _optimize(partial(_sample, convert), paths, folder, processes)


def _sample(convert: Convert, path: str) -> dict[str, Any]:
    return {"jpg": convert(path), "json": Path(path).parent.name}


def _optimize(sample: Any, paths: list[str], folder: Path, processes: int) -> None:
    litdata.optimize(
        sample,
        paths,
        str(folder),
        chunk_bytes=_CHUNK_BYTES,
        num_workers=processes,
        start_method="fork",  # nothing is imported again
        reorder_files=False,
        verbose=False,
    )


def write(jpegs: list[bytes], description: str, count: int, folder: Path, hashed: bool) -> None:
    assert not hashed, "LitData has no hashes"
    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=_CHUNK_BYTES)
    for number in range(count):
        writer[number] = {"jpg": jpegs[number % len(jpegs)], "json": description}
    writer.done()
    writer.merge(1)
