"""The encoded images that every loader reads: a worker's share of a packed set's split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shards.format.manifest import load_manifest
from shards.reading.open_shard import OpenShard
from shards.reading.packed_set import ShardSet
from shards.storage.files import join_url


@dataclass(frozen=True)
class StoredImages:
    shards: str  # a packed set
    split: str
    folder: str  # of what is made for the peers
    crop_size: int  # the images' width and height, pixels
    batch_size: int
    rank: int = 0
    world_size: int = 1
    cache: str = ""  # see ReaderSpec

    def archives(self) -> list[str]:
        entries = load_manifest(self.shards).splits[self.split]
        own = shards_of_worker(len(entries), self.rank, self.world_size)
        return [join_url(self.shards, entries[number].name) for number in own]

    def opened(self) -> list[OpenShard]:
        shards = ShardSet(self.shards, self.split, self.cache)
        own = shards_of_worker(len(shards.entries), self.rank, self.world_size)
        return [shards.open(number) for number in own]

    def files(self) -> list[Path]:
        """The images as single files, once `write_files` has written them."""
        return sorted((Path(self.folder) / "files").iterdir())

    def write_files(self) -> None:
        folder = Path(self.folder) / "files"
        folder.mkdir(parents=True)
        for number, jpeg in enumerate(self.jpegs()):
            (folder / f"{number:08d}.jpg").write_bytes(jpeg)

    def jpegs(self) -> list[bytes]:
        opened = self.opened()
        images = [
            bytes(shard.image_bytes(image))
            for shard in opened
            for image in range(len(shard.records))
        ]
        for shard in opened:
            shard.close()
        return images


def shards_of_worker(num_shards: int, rank: int, world_size: int) -> list[int]:
    """By number: whole shards, as loaders do that have no lanes. Where there are fewer shards than
    workers, some share one."""
    return list(range(rank, num_shards, world_size)) or [rank % num_shards]
