"""Batches, put together from the shards by decoding threads in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields

from shards.cache.prefetch import Prefetcher
from shards.cores import available_cores
from shards.reading.packed_set import OPEN_SHARDS, ShardSet
from shards.reading.reader_spec import ReaderSpec
from shards.reading.ring import BatchArrays
from shards.reading.samples import SampleReader
from shards.sampling.crops import CropRecipe
from shards.storage.files import storage_counters

_CHUNKS_PER_THREAD = 2  # a batch is handed out in pieces: small enough that no thread waits long
_OPEN_SHARDS_SPARE = 2  # that lanes are just leaving


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


class _Filling:
    """A batch at which several threads work. Only the last to end wakes whoever waits for it."""

    def __init__(self, step: int, arrays: BatchArrays, chunks: int) -> None:
        self.step = step
        self.arrays = arrays
        self.whole: Future[None] = Future()
        self._chunks_left = chunks
        self._errors: dict[int, BaseException] = {}  # by the first row of the chunk
        self._lock = threading.Lock()

    def end_chunk(self, first_row: int, error: BaseException | None = None) -> None:
        with self._lock:
            if error is not None:
                self._errors[first_row] = error
            self._chunks_left -= 1
            if self._chunks_left:
                return
        if self._errors:
            self.whole.set_exception(self._errors[min(self._errors)])
        else:
            self.whole.set_result(None)


class BatchAssembler:
    """Puts batches together in any order of steps; decoding runs in `spec.decode_threads` threads.

    Raises what `ShardSet` and `ReaderSpec.load` raise.
    """

    def __init__(self, spec: ReaderSpec) -> None:
        mixture = spec.load()
        self._lanes = spec.lanes
        self._order = mixture.order(spec.split, spec.seed)
        self._sets = [
            ShardSet(
                one.shards,
                spec.split,
                spec.cache,
                cache_limit_bytes=spec.cache_limit_bytes,
                check_crc=spec.check_crc,
                check_files=spec.damaged == "stop",
                # Those that are cached stay there while they are open: no more than are read.
                open_shards=min(OPEN_SHARDS, len(self._lanes) + _OPEN_SHARDS_SPARE),
                manifest=manifest,
            )
            for one, manifest in zip(mixture.sets, mixture.manifests, strict=True)
        ]
        self.layout = spec.layout(mixture)
        recipe = CropRecipe(
            crop_size=self.layout.crop_size,
            short_side_min=spec.short_side_min,
            short_side_max=spec.short_side_max,
            horizontal_flip=spec.horizontal_flip,
            seed=spec.seed,
        )
        self._fresh_holes = spec.draw_holes(mixture)
        self._reader = SampleReader(
            mixture,
            self._sets,
            self._order,
            recipe,
            spec.damaged == "substitute",
            packed_holes=self._fresh_holes is None,
        )
        threads = spec.decode_threads or available_cores()
        chunks = _CHUNKS_PER_THREAD * threads if threads > 1 else 1
        self._chunk = max(1, -(-len(self._lanes) // chunks))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        is_remote = any(one.cache is not None for one in self._sets)
        self._prefetcher = Prefetcher(self._prefetch) if is_remote else None

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def counters(self) -> dict[str, float]:
        """What has been counted so far, by all threads and all sets together."""
        counted: dict[str, float] = {}
        sources = [("", self._reader.counters), ("storage_", storage_counters)]
        sources += [("cache_", one.cache.counters) for one in self._sets if one.cache is not None]
        for prefix, source in sources:
            for name, value in source.snapshot().items():
                counted[prefix + name] = counted.get(prefix + name, 0) + value
        return counted

    def assemble(self, step: int, out: BatchArrays | None = None) -> Batch:
        """The batch of a step, in `out` or in new arrays."""
        arrays = out or self.layout.allocate()
        self.submit(step, arrays).result()
        return Batch.over(arrays, step)

    def submit(self, step: int, arrays: BatchArrays) -> Future[None]:
        """Starts filling `arrays`. When the future has its result, they hold the batch; when it has
        an exception, nothing is written into them any more."""
        if self._prefetcher is not None:
            self._prefetcher.want(self._order.shards_ahead(step, self._lanes))
        rows = range(len(self._lanes))
        chunks = [rows[first : first + self._chunk] for first in range(0, len(rows), self._chunk)]
        filling = _Filling(step, arrays, len(chunks))
        for chunk in chunks:
            self._pool.submit(self._fill, filling, chunk)
        return filling.whole

    def close(self, wait_for_threads: bool = True) -> None:
        self._pool.shutdown(wait=wait_for_threads, cancel_futures=True)
        if self._prefetcher is not None:
            self._prefetcher.close()
        for one in self._sets:
            one.close()

    def _fill(self, filling: _Filling, rows: range) -> None:
        start, num_bytes = time.perf_counter(), 0
        step, arrays, reader = filling.step, filling.arrays, self._reader
        try:
            for row in rows:
                num_bytes += reader.fill(self._order.locate(step, self._lanes[row]), arrays, row)
            if self._fresh_holes is not None:
                lanes = self._lanes[rows.start : rows.stop]
                self._fresh_holes.fill(step, lanes, arrays, rows.start)
        except BaseException as error:
            filling.end_chunk(rows.start, error)
            return
        reader.counters.add(bytes_read=num_bytes, decode_seconds=time.perf_counter() - start)
        filling.end_chunk(rows.start)

    def _prefetch(self, place: tuple[int, int]) -> None:
        data_set, shard = place
        self._sets[data_set].prefetch(shard)
