"""A packed set, opened for reading: every file is compared with the manifest, every image's bytes
against the index."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections import OrderedDict

import numpy as np

from shards.cache.shard_cache import ShardCache, check_shard_size
from shards.format.index import decode_index, index_name
from shards.format.manifest import Manifest, ShardEntry, load_manifest
from shards.indexing.rebuild import rebuild_index
from shards.reading.open_shard import OpenShard
from shards.storage.files import (
    is_local,
    join_url,
    list_names,
    local_path,
    map_descriptor,
    read_bytes,
)

OPEN_SHARDS = 256  # maps kept at once; each holds one file descriptor


class ShardSet:
    """One split of a packed set. Shards are opened, and their indexes read, on first use.

    Opening raises FileNotFoundError for a missing shard and ValueError for one that has not the
    size that the manifest says; using a shard raises ValueError where it has other bytes. An index
    that is missing or damaged is rebuilt from its shard, with a message.
    """

    def __init__(
        self,
        url: str,
        split: str,
        cache: str = "",
        *,
        cache_limit_bytes: int = 0,
        check_crc: bool = True,
        check_files: bool = True,
        open_shards: int = OPEN_SHARDS,
        manifest: Manifest | None = None,
    ) -> None:
        self.url = url
        self.split = split
        self.manifest = manifest or load_manifest(url)
        if split not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise ValueError(f"{url} has no split {split!r}; it has {known}")
        self.entries: list[ShardEntry] = self.manifest.splits[split]
        self._check_crc = check_crc
        if check_files:
            self._check_shards()
        counts = [entry.num_images for entry in self.entries]
        self._first_image = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.cache = None if is_local(url) else ShardCache(url, cache, cache_limit_bytes)
        self._max_open = max(1, open_shards)
        self._open: OrderedDict[int, OpenShard] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()
        self._opening: dict[int, threading.Lock] = {}

    @property
    def masks_per_image(self) -> int:
        return self.manifest.recipe.masks.masks_per_image

    @property
    def num_samples(self) -> int:
        return int(self._first_image[-1]) * self.masks_per_image

    def sample_number(self, shard: int, position: int) -> int:
        """Return the sample's number in the split, from its position in the shard."""
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

    def shard_name(self, shard: int) -> str:
        return join_url(self.url, self.entries[shard].name)

    def open(self, shard: int) -> OpenShard:
        """Return the shard, opened now if it is not; from a remote set it is fetched then."""
        with self._lock:
            opened = self._open.get(shard)
            if opened is not None:
                self._open.move_to_end(shard)
                return opened
            opening = self._opening.setdefault(shard, threading.Lock())
        with opening:  # by one thread: the others wait for it
            with self._lock:
                if shard in self._open:
                    return self._open[shard]
            opened = self._open_shard(shard)
            with self._lock:
                self._open[shard] = opened
                self._opening.pop(shard, None)
                while len(self._open) > self._max_open:
                    self._open.popitem(last=False)[1].close()
        return opened

    def records(self, shard: int) -> np.ndarray:
        """Return the index of a shard; the shard itself is neither opened nor fetched for it."""
        with self._lock:
            if shard in self._open:
                return self._open[shard].records
        return self._read_index(shard)

    def image_bytes(self, shard: int, image: int) -> memoryview:
        """Return the stored image, a view into the mapped shard. ValueError if its checksum is
        wrong.
        """
        return self.open(shard).image_bytes(image)

    def mask_bytes(self, shard: int, image: int) -> memoryview:
        """Return the PNG of the image's masks, a view into the mapped shard; empty for
        rectangles.
        """
        return self.open(shard).mask_bytes(image)

    def image_name(self, shard: int, image: int) -> str:
        """Return the image as messages call it: its key and the shard it lies in."""
        return self.open(shard).image_name(image)

    def prefetch(self, shard: int) -> None:
        """Bring a remote shard into the cache; nothing is to be done for a local one."""
        if self.cache is not None:
            self.cache.open(self.entries[shard]).close()

    def close(self) -> None:
        """Views handed out stay valid."""
        with self._lock:
            opened, self._open = list(self._open.values()), OrderedDict()
        for shard in opened:
            shard.close()
        if self.cache is not None:
            self.cache.close()

    def _check_shards(self) -> None:
        """Presence, and on a local disk the size, of every shard."""
        if is_local(self.url):
            names = {path.name for path in local_path(self.url).iterdir()}
        else:
            names = set(list_names(self.url))
        for entry in self.entries:
            name = join_url(self.url, entry.name)
            if entry.name not in names:
                raise FileNotFoundError(_missing_shard_message(name))
            if is_local(self.url):
                check_shard_size(local_path(name).stat().st_size, entry, name)

    def _open_shard(self, shard: int) -> OpenShard:
        entry, name = self.entries[shard], self.shard_name(shard)
        held = None if self.cache is None else self.cache.open(entry)
        close = _nothing if held is None else held.close
        try:
            if held is None:
                with open(local_path(name), "rb") as file:
                    data = _map_file(file.fileno(), entry, name)
            else:
                data = _map_file(held.fileno(), entry, name)
            try:
                records = self._read_index(shard)
            except (FileNotFoundError, ValueError) as error:
                records = self._rebuilt_index(shard, data, error)
        except BaseException:
            close()
            raise
        return OpenShard(
            name,
            data,
            records,
            extension=self.manifest.recipe.extension,
            check_crc=self._check_crc,
            close=close,
        )

    def _read_index(self, shard: int) -> np.ndarray:
        entry = self.entries[shard]
        name = join_url(self.url, index_name(entry.name))
        if self.cache is not None:
            data = self.cache.fetch_index(entry)
        else:
            data = read_bytes(name)
        if hashlib.sha256(data).hexdigest() != entry.index_sha256:
            raise ValueError(f"{name} is damaged: its SHA-256 is not the manifest's")
        return decode_index(data, name)

    def _rebuilt_index(self, shard: int, data: memoryview, error: Exception) -> np.ndarray:
        """Rebuild the index from the shard: the manifest's SHA-256 says whether it is the one."""
        name, entry = self.shard_name(shard), self.entries[shard]
        print(f"data: {error}; rebuilding it from {name}", file=sys.stderr, flush=True)
        index = rebuild_index(data, self.manifest.recipe, name)
        if hashlib.sha256(index).hexdigest() != entry.index_sha256:
            raise ValueError(
                f"{error}, and the one rebuilt from {name} is not the one that the manifest "
                "names either; mend the set with `glcic repack`"
            ) from error
        return decode_index(index, name)


def _map_file(descriptor: int, entry: ShardEntry, name: str) -> memoryview:
    check_shard_size(os.fstat(descriptor).st_size, entry, name)  # an empty file cannot be mapped
    return map_descriptor(descriptor)


def _nothing() -> None:
    """A local shard is held by nobody."""


def _missing_shard_message(name: str) -> str:
    return (
        f"{name} is missing although the manifest lists it; copy it from its source, or mend the "
        "set with `glcic repack`"
    )
