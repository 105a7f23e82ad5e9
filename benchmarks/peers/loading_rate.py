"""Measure how many images per second a loader delivers."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

from shards.reading.reader_spec import ReaderSpec

Batches = Generator[int, None, None]  # of the numbers of images


@dataclass(frozen=True)
class LoadCase:
    """What a worker loads: crops of `crop_size`, cut where the short side, drawn from
    [short_side_min, short_side_max], says. Equal sizes and no flip decode images of "val" without
    resampling."""

    shards: str
    split: str
    crop_size: int
    short_side_min: int
    short_side_max: int
    flip: bool
    batch_size: int  # of this worker
    rank: int = 0
    world_size: int = 1
    cache: str = ""  # see ReaderSpec
    cache_limit_bytes: int = 0

    @property
    def resamples(self) -> bool:
        return self.split != "val"

    def spec(self, threads: int) -> ReaderSpec:
        return ReaderSpec(
            shards=self.shards,
            split=self.split,
            batch_size=self.batch_size * self.world_size,
            rank=self.rank,
            world_size=self.world_size,
            seed=0,
            short_side_min=self.short_side_min,
            short_side_max=self.short_side_max,
            horizontal_flip=self.flip,
            decode_threads=threads,
            cache=self.cache,
            cache_limit_bytes=self.cache_limit_bytes,
        )


def measure_rate(
    loader: Callable[[LoadCase], Batches],
    case: LoadCase,
    seconds: float,
    busy_seconds: float = 0.0,
) -> float:
    """Images per second, while the consumer runs Python for `busy_seconds` of every batch."""
    with closing(loader(case)) as batches:
        _consume(batches, seconds / 4, busy_seconds)  # past the start, and what was read ahead
        start = time.perf_counter()
        images = _consume(batches, seconds, busy_seconds)
        return images / (time.perf_counter() - start)


def _consume(batches: Batches, seconds: float, busy_seconds: float) -> int:
    images = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or images == 0:
        images += next(batches)
        if busy_seconds:
            _burn(busy_seconds)
    return images


def _burn(seconds: float) -> None:
    """Computes in pure Python: the interpreter lock is held but for its forced releases.

    By the clock on the wall, as the step of a training loop is measured. By processor time two
    cores could not keep more than 69 % of two threads' rate, however little the reader took.
    """
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
