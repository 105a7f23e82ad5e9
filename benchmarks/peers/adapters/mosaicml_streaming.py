"""MosaicML Streaming: MDS shards, read by a StreamingDataset in torch's DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image
from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory, merge_index

from benchmarks.peers.adapters.conversion import Convert
from benchmarks.peers.adapters.stored_images import StoredImages
from benchmarks.peers.adapters.torch_dataloader import loaded_batches

_COLUMNS = {"jpg": "bytes", "json": "str"}


class _OwnDecoding(StreamingDataset):
    """Its encoding "jpeg", which Pillow decodes."""

    def __getitem__(self, number: int) -> np.ndarray:
        return np.array(super().__getitem__(number)["jpg"].convert("RGB"))


class _Simplejpeg(StreamingDataset):
    def __getitem__(self, number: int) -> np.ndarray:
        pixels: np.ndarray = simplejpeg.decode_jpeg(super().__getitem__(number)["jpg"])
        return pixels


def write_set(images: StoredImages, folder: Path) -> None:
    for decoder, encoding in (("own", "jpeg"), ("simplejpeg", "bytes")):
        with MDSWriter(columns={"jpg": encoding}, out=str(folder / decoder)) as writer:
            for path in images.files():
                # The encoding "jpeg" stores the bytes of the file that an image was opened from.
                writer.write({"jpg": Image.open(path) if encoding == "jpeg" else path.read_bytes()})


def batches(images: StoredImages, folder: Path, decoder: str, workers: int) -> Iterator[np.ndarray]:
    clean_stale_shared_memory()
    kind = _OwnDecoding if decoder == "own" else _Simplejpeg
    dataset = kind(local=str(folder / decoder), shuffle=True, batch_size=images.batch_size)
    yield from loaded_batches(dataset, images.batch_size, workers)


def pack(paths: list[str], convert: Convert, folder: Path, processes: int) -> None:
    """Each process, forked from this one, writes a folder of shards; then their index is one."""
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        parts = [
            pool.submit(_pack_part, paths[part::processes], convert, folder / str(part))
            for part in range(processes)
        ]
        for written in parts:
            written.result()
    merge_index(str(folder))


def _pack_part(paths: list[str], convert: Convert, folder: Path) -> None:
    with MDSWriter(columns=_COLUMNS, out=str(folder)) as writer:
        for path in paths:
            writer.write({"jpg": convert(path), "json": Path(path).parent.name})


def write(jpegs: list[bytes], description: str, count: int, folder: Path, hashed: bool) -> None:
    hashes = ["sha256"] if hashed else None
    with MDSWriter(columns=_COLUMNS, out=str(folder), hashes=hashes) as writer:
        for number in range(count):
            writer.write({"jpg": jpegs[number % len(jpegs)], "json": description})
