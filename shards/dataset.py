"""A packed set, opened for reading: every file is held against the manifest, every image's bytes
against the index."""

from __future__ import annotations

import hashlib
import mmap
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from shards.cache import ShardCache, check_shard_size
from shards.index import decode_index, index_name
from shards.manifest import ShardEntry, load_manifest
from shards.storage import is_local, join_url, list_names, local_path, read_bytes

OPEN_SHARDS = 256  # maps kept at once; each holds one file descriptor
INDEX_READERS = 8  # index files are small: on object storage their latency is what costs


class ShardSet:
    """One split of a packed set.

    Opening raises FileNotFoundError for a missing file and ValueError for one that is not as the
    manifest says. Remote shards are checked when they are fetched, on first use.
    """

    def __init__(self, url: str, split: str, cache: str = "") -> None:
        self.url = url
        self.split = split
        self.manifest = load_manifest(url)
        if split not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise ValueError(f"{url} has no split {split!r}; it has {known}")
        self.entries: list[ShardEntry] = self.manifest.splits[split]
        self._check_shards()
        self.records: list[np.ndarray] = self._read_indexes()
        counts = [entry.num_images for entry in self.entries]
        self._first_image = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._cache = None if is_local(url) else ShardCache(url, cache)
        self._mapped = lru_cache(maxsize=OPEN_SHARDS)(self._map_shard)

    @property
    def masks_per_image(self) -> int:
        return self.manifest.recipe.masks.masks_per_image

    @property
    def num_samples(self) -> int:
        return int(self._first_image[-1]) * self.masks_per_image

    def sample_number(self, shard: int, position: int) -> int:
        """The sample's number in the split, from its position in the shard."""
        return int(self._first_image[shard]) * self.masks_per_image + position

    def locate(self, sample: int) -> tuple[int, int]:
        """(shard, position of the sample in it). ValueError if the split has no such sample."""
        if not 0 <= sample < self.num_samples:
            raise ValueError(
                f"sample {sample} is not in {self.url}: the split has {self.num_samples} samples"
            )
        image = sample // self.masks_per_image
        shard = int(self._first_image.searchsorted(image, side="right")) - 1
        return shard, sample - self.sample_number(shard, 0)

    def image_bytes(self, shard: int, image: int) -> memoryview:
        """The stored JPEG, a view into the mapped shard. ValueError if its checksum is wrong."""
        record = self.records[shard][image]
        start = int(record["image_offset"])
        data = self._mapped(shard)[start : start + int(record["image_size"])]
        if zlib.crc32(data) != int(record["image_crc32"]):
            raise ValueError(
                f"{self.image_name(shard, image)} is damaged: its checksum does not match; "
                "copy the shard again from its source or run `glcic pack` again"
            )
        return data

    def image_name(self, shard: int, image: int) -> str:
        """The image as messages call it: its key and the shard it lies in."""
        key = int(self.records[shard][image]["image_number"])
        return f"{key:08d}.jpg in {join_url(self.url, self.entries[shard].name)}"

    def close(self) -> None:
        """Views handed out stay valid; a temporary cache folder is removed."""
        self._mapped.cache_clear()
        if self._cache is not None:
            self._cache.close()

    def _check_shards(self) -> None:
        """Presence, and on a local disk the size, of every shard."""
        if is_local(self.url):
            names = {path.name for path in local_path(self.url).iterdir()}
        else:
            names = set(list_names(self.url))
        for entry in self.entries:
            name = join_url(self.url, entry.name)
            if entry.name not in names:
                raise FileNotFoundError(_missing(name))
            if is_local(self.url):
                check_shard_size(local_path(name).stat().st_size, entry, name)

    def _read_indexes(self) -> list[np.ndarray]:
        with ThreadPoolExecutor(INDEX_READERS) as pool:
            files = list(pool.map(self._read_index_file, self.entries))
        # Not in the threads: Python 3.11 parses literals, as NumPy's header is, in one at a time.
        return [
            decode_index(data, join_url(self.url, index_name(entry.name)))
            for data, entry in zip(files, self.entries, strict=True)
        ]

    def _read_index_file(self, entry: ShardEntry) -> bytes:
        name = join_url(self.url, index_name(entry.name))
        try:
            data = read_bytes(name)
        except FileNotFoundError as error:
            raise FileNotFoundError(_missing(name)) from error
        if hashlib.sha256(data).hexdigest() != entry.index_sha256:
            raise ValueError(
                f"{name} is damaged: its SHA-256 is not the manifest's; "
                "copy it again from its source or run `glcic pack` again"
            )
        return data

    def _map_shard(self, shard: int) -> memoryview:
        entry = self.entries[shard]
        name = join_url(self.url, entry.name)
        path = local_path(name) if self._cache is None else self._cache.fetch(entry)
        with open(path, "rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        check_shard_size(view.nbytes, entry, str(path))
        return view


def _missing(name: str) -> str:
    return (
        f"{name} is missing although the manifest lists it; "
        "copy it from its source or run `glcic pack` again"
    )
