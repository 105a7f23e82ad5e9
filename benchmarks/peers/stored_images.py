"""The encoded images that every loader reads: those of a packed set's split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shards.dataset import ShardSet
from shards.manifest import load_manifest
from shards.storage import join_url


@dataclass(frozen=True)
class StoredImages:
    shards: str  # a packed set
    split: str
    folder: str  # of what is made for the peers
    crop_size: int  # the images' width and height, pixels
    batch_size: int

    def archives(self) -> list[str]:
        entries = load_manifest(self.shards).splits[self.split]
        return [join_url(self.shards, entry.name) for entry in entries]

    def files(self) -> list[Path]:
        """The images as single files, once `write_files` has written them."""
        return sorted((Path(self.folder) / "files").iterdir())

    def write_files(self) -> None:
        folder = Path(self.folder) / "files"
        folder.mkdir(parents=True)
        for number, jpeg in enumerate(self.jpegs()):
            (folder / f"{number:08d}.jpg").write_bytes(jpeg)

    def jpegs(self) -> list[bytes]:
        shards = ShardSet(self.shards, self.split)
        opened = [shards.open(number) for number in range(len(shards.entries))]
        images = [
            bytes(shard.image_bytes(image))
            for shard in opened
            for image in range(len(shard.records))
        ]
        shards.close()
        return images
