"""Batches, put together from the shards by decoding threads in this process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, fields

from shards.cores import available_cores
from shards.crops import CropBox, CropRecipe, crop_box, decode_crop
from shards.dataset import ShardSet
from shards.manifest import Manifest
from shards.order import LaneOrder, lanes_of
from shards.ring import BatchArrays, BatchLayout

_CHUNKS_PER_THREAD = 4  # a batch is handed out in pieces: small enough that no thread waits long


@dataclass(frozen=True)
class ReaderSpec:
    """What one worker reads, and how."""

    shards: str  # folder or URL of the packed set
    split: str
    batch_size: int  # of all workers together
    rank: int
    world_size: int
    seed: int
    short_side_min: int  # pixels: see CropRecipe
    short_side_max: int
    horizontal_flip: bool
    decode_threads: int = 0  # 0: every core that this process may use
    prefetch_batches: int = 4  # slots of the ring
    cache: str = ""  # local folder for shards of a remote set; empty: a temporary one

    @property
    def lanes(self) -> range:
        return lanes_of(self.batch_size, self.rank, self.world_size)

    def order(self, manifest: Manifest) -> LaneOrder:
        masks = manifest.recipe.masks.masks_per_image
        counts = [entry.num_images * masks for entry in manifest.splits[self.split]]
        return LaneOrder(counts, self.batch_size, self.seed)

    def layout(self, manifest: Manifest) -> BatchLayout:
        recipe = manifest.recipe
        return BatchLayout(len(self.lanes), recipe.crop_size, recipe.masks.holes_per_mask)

    def check(self, manifest: Manifest) -> None:
        """Raises ValueError for what this set cannot give, before anything is started."""
        crop_size = manifest.recipe.crop_size
        if self.split not in manifest.splits:
            raise ValueError(
                f"{self.shards} has no split {self.split!r}; it has {', '.join(manifest.splits)}"
            )
        if not crop_size <= self.short_side_min <= self.short_side_max:
            raise ValueError(
                f"short_side_min and short_side_max are {self.short_side_min} and "
                f"{self.short_side_max}: must be at least the crop size of {self.shards} "
                f"({crop_size}) and in this order"
            )
        for name, minimum in (("decode_threads", 0), ("prefetch_batches", 2)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} is {getattr(self, name)}: must be at least {minimum}")
        lanes_of(self.batch_size, self.rank, self.world_size)
        self.order(manifest)


@dataclass
class Batch(BatchArrays):
    """The arrays must not be used after `release`, which gives their memory to a later batch."""

    step: int
    give_back: Callable[[], None] | None = field(default=None, repr=False)

    @classmethod
    def over(
        cls, arrays: BatchArrays, step: int, give_back: Callable[[], None] | None = None
    ) -> Batch:
        views = {entry.name: getattr(arrays, entry.name) for entry in fields(BatchArrays)}
        return cls(**views, step=step, give_back=give_back)

    def release(self) -> None:
        give_back, self.give_back = self.give_back, None
        if give_back is not None:
            give_back()


class BatchAssembler:
    """Puts batches together in any order of steps; decoding runs in `spec.decode_threads` threads.

    Raises what `ShardSet` and `ReaderSpec.check` raise.
    """

    def __init__(self, spec: ReaderSpec) -> None:
        self._set = ShardSet(spec.shards, spec.split, spec.cache)
        spec.check(self._set.manifest)
        self._order = spec.order(self._set.manifest)
        self._lanes = spec.lanes
        self.layout = spec.layout(self._set.manifest)
        self._recipe = CropRecipe(
            crop_size=self.layout.crop_size,
            short_side_min=spec.short_side_min,
            short_side_max=spec.short_side_max,
            horizontal_flip=spec.horizontal_flip,
            seed=spec.seed,
        )
        threads = spec.decode_threads or available_cores()
        self._chunk = max(1, len(self._lanes) // (_CHUNKS_PER_THREAD * threads))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._counting = threading.Lock()
        self.bytes_read = 0  # of compressed images
        self.decode_seconds = 0.0  # of all threads together

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def assemble(self, step: int, out: BatchArrays | None = None) -> Batch:
        """The batch of a step, in `out` or in new arrays."""
        arrays = out or self.layout.allocate()
        futures = self.submit(step, arrays)
        wait(futures)  # all of them, even if one fails: none may write into `out` later
        for future in futures:
            future.result()
        return Batch.over(arrays, step)

    def submit(self, step: int, arrays: BatchArrays) -> list[Future[None]]:
        """Starts filling `arrays`; they hold the batch when every future has its result."""
        rows = range(len(self._lanes))
        return [
            self._pool.submit(self._fill, step, rows[first : first + self._chunk], arrays)
            for first in range(0, len(rows), self._chunk)
        ]

    def close(self, wait_for_threads: bool = True) -> None:
        self._pool.shutdown(wait=wait_for_threads, cancel_futures=True)
        self._set.close()

    def _fill(self, step: int, rows: range, arrays: BatchArrays) -> None:
        start, num_bytes = time.perf_counter(), 0
        for row in rows:
            address = self._order.locate(step, self._lanes[row])
            shard, position = address.shard, address.position
            record = self._set.records[shard][position // self._set.masks_per_image]
            box = crop_box(
                self._recipe,
                address.epoch,
                self._set.sample_number(shard, position),
                int(record["image_width"]),
                int(record["image_height"]),
            )
            num_bytes += fill_row(self._set, shard, position, box, arrays, row)
        with self._counting:
            self.bytes_read += num_bytes
            self.decode_seconds += time.perf_counter() - start


def fill_row(
    shard_set: ShardSet, shard: int, position: int, box: CropBox, arrays: BatchArrays, row: int
) -> int:
    """Writes one sample into a row of `arrays`; returns the size of its JPEG in bytes."""
    image, mask = divmod(position, shard_set.masks_per_image)
    jpeg = shard_set.image_bytes(shard, image)
    try:
        decode_crop(jpeg, box, arrays.images[row])
    except ValueError as error:
        name = shard_set.image_name(shard, image)
        raise ValueError(f"{name} cannot be decoded ({error}); pack the set again") from error
    record = shard_set.records[shard][image]
    arrays.completion_holes[row] = record["completion_holes"][mask]
    arrays.discriminator_holes[row] = record["discriminator_holes"][mask]
    arrays.samples[row] = shard_set.sample_number(shard, position)
    arrays.labels[row] = record["label"]
    return jpeg.nbytes


def read_in_order(
    shards_url: str, split: str, samples: Iterable[int], batch_size: int, cache: str = ""
) -> Iterator[Batch]:
    """The given samples of a split as they are stored, without resampling; the last batch may be
    smaller. Raises ValueError where an image is not stored at the size of the crop."""
    shard_set = ShardSet(shards_url, split, cache)
    recipe = shard_set.manifest.recipe
    whole = CropBox(x=0, y=0, side=recipe.crop_size, flip=False)
    remaining = iter(samples)
    try:
        for step in itertools.count():
            chosen = list(itertools.islice(remaining, batch_size))
            if not chosen:
                return
            layout = BatchLayout(len(chosen), recipe.crop_size, recipe.masks.holes_per_mask)
            arrays = layout.allocate()
            for row, sample in enumerate(chosen):
                shard, position = shard_set.locate(sample)
                _check_stored_size(shard_set, shard, position, recipe.crop_size)
                fill_row(shard_set, shard, position, whole, arrays, row)
            yield Batch.over(arrays, step)
    finally:
        shard_set.close()


def _check_stored_size(shard_set: ShardSet, shard: int, position: int, crop_size: int) -> None:
    image = position // shard_set.masks_per_image
    record = shard_set.records[shard][image]
    width, height = int(record["image_width"]), int(record["image_height"])
    if (width, height) != (crop_size, crop_size):
        raise ValueError(
            f"{shard_set.image_name(shard, image)} has {width} x {height} pixels, not the crop's "
            f"{crop_size} x {crop_size}: only validation images can be read without resampling"
        )
