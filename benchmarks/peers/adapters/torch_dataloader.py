"""torch's own DataLoader: over single files, and over the shards that this project packs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.adapters.stored_images import StoredImages

_PREFETCHED_BATCHES = 4  # of every worker


class _Files(Dataset):
    """As torchvision's ImageFolder reads them: Pillow, RGB."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> np.ndarray:
        with open(self._paths[number], "rb") as file:
            return np.array(Image.open(file).convert("RGB"))


class _Shards(Dataset):
    """By the index, CRC-32 checked, decoded by simplejpeg."""

    def __init__(self, images: StoredImages) -> None:
        self._shards = images.opened()
        self._places = [
            (shard, image) for shard in self._shards for image in range(len(shard.records))
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> np.ndarray:
        shard, image = self._places[number]
        pixels: np.ndarray = simplejpeg.decode_jpeg(shard.image_bytes(image))
        return pixels


def write_set(images: StoredImages, folder: Path) -> None:
    """Both read what is there."""


def batches(images: StoredImages, folder: Path, decoder: str, workers: int) -> Iterator[np.ndarray]:
    dataset = _Files(images.files()) if decoder == "own" else _Shards(images)
    yield from loaded_batches(dataset, images.batch_size, workers, shuffle=True)


def loaded_batches(
    dataset: Dataset, batch_size: int, workers: int, shuffle: bool = False
) -> Iterator[np.ndarray]:
    """Epoch after epoch, of a DataLoader whose workers, if any, stay."""
    torch.set_num_threads(1)
    loader = DataLoader(
        dataset,
        batch_size,
        shuffle=shuffle,
        drop_last=True,
        num_workers=workers,
        prefetch_factor=_PREFETCHED_BATCHES if workers else None,
        persistent_workers=workers > 0,
    )
    while True:
        for batch in loader:
            yield batch.numpy()
