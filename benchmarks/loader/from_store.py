"""Loading from object storage with nothing cached yet: what the first epoch of a training meets."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness.launched_workers import Workers
from benchmarks.harness.result import Measurement
from benchmarks.harness.rounds import figures_of, measure_in_rounds, sum_over_workers
from benchmarks.peers.loading_rate import LoadCase
from shards.reading.reader import ShardReader

FROM_STORE = "from the store to batches, nothing cached"
DOWNLOADED = "downloaded meanwhile"

_calls = itertools.count()  # of this process, which all workers make alike


@dataclass(frozen=True)
class StoreRate:
    images_per_s: float
    megabytes_per_s: float  # of shards, downloaded by this worker; those of a node share a cache


@dataclass(frozen=True)
class FromEmptyCache:
    """Called in a process of its own, with an empty cache every time."""

    case: LoadCase
    threads: int
    seconds: float  # at most, of an epoch
    folder: str  # of this node, for caches
    cleans: bool  # one worker of a node removes what the last time has left

    def __call__(self) -> StoreRate:
        call = next(_calls)
        if self.cleans and call:
            shutil.rmtree(Path(self.folder) / str(call - 1), ignore_errors=True)
        cache = Path(self.folder) / str(call)
        cache.mkdir(parents=True, exist_ok=True)
        spec = replace(self.case, cache=str(cache)).spec(self.threads)
        images, took_s, num_bytes = 0, 0.0, 0.0
        began = time.perf_counter()
        with ShardReader(spec) as reader:
            reader.start(0, reader.steps_per_epoch)
            for batch in reader:
                batch.release()
                images += self.case.batch_size
                took_s = time.perf_counter() - began
                num_bytes = reader.counters["cache_bytes_downloaded"]
                if took_s >= self.seconds:
                    break
        return StoreRate(images / took_s, num_bytes / 1e6 / took_s)


def measure_from_store(
    case: LoadCase, threads: int, seconds: float, rounds: int, workers: Workers
) -> list[Measurement]:
    """Return the sum of all workers. The caches lie beside the case's own. Collective: every rank
    must call.
    """
    name = reader_name(threads)
    beside = Path(case.cache).absolute().parent if case.cache else None
    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-", dir=beside) as own:
        folder = workers.once_a_node(lambda: own)
        call = FromEmptyCache(case, threads, seconds, folder, workers.local_rank == 0)
        measured = measure_in_rounds(
            {name: call},
            rounds,
            lambda message: workers.log_message(f"{FROM_STORE}: {message}"),
            workers,
        )[name]
        workers.barrier()  # the others read in the folder of their node's first
    images = {name: [[rate.images_per_s for rate in rates] for rates in measured]}
    downloaded = {DOWNLOADED: [[rate.megabytes_per_s for rate in rates] for rates in measured]}
    return [
        *figures_of(FROM_STORE, "images/s", sum_over_workers(images), ()),
        *figures_of(FROM_STORE, "MB/s", sum_over_workers(downloaded), ()),
    ]


def store_parameters(shards: str, seconds: float) -> dict[str, Any]:
    return {
        "the set's store": shards.partition("://")[0],
        "seconds per measurement with an empty cache, at most": seconds,
    }


def reader_name(threads: int) -> str:
    return f"ShardReader, {threads} thread{'s' if threads > 1 else ''}"
