"""The order of samples: a pure function of (shards, batch size, seed, step).

A batch of B samples is B lanes. Each epoch the shards are permuted, laid end to end and cut into B
equal spans, one for each lane; inside a shard the samples are permuted too. A worker takes whole
lanes, so the batch of a step is the same however many workers share it, and each worker opens only
the shards under its own lanes.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from shards.keyed_random import permutation


class SampleAddress(NamedTuple):
    """Where a lane finds its sample. `position` counts samples, not images, in the shard."""

    epoch: int
    shard: int
    position: int


@dataclass(frozen=True)
class _EpochTable:
    shards: np.ndarray  # (number of shards,) in the order of this epoch
    ends: np.ndarray  # (number of shards,) position past the last sample of each, end to end


@dataclass(frozen=True)
class _Segment:
    """The steps [start, stop) in which a lane reads one shard, and what it reads there."""

    start: int
    stop: int
    epoch: int
    shard: int
    positions: np.ndarray


def lanes_of(batch_size: int, rank: int, world_size: int) -> range:
    """The lanes of one worker. Raises ValueError where workers would get unequal shares."""
    if batch_size % world_size != 0:
        usable = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
        raise ValueError(
            f"a batch of {batch_size} samples cannot be shared equally by {world_size} workers; "
            f"start {', '.join(map(str, usable))} of them or change the batch size"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}: must lie in 0 to {world_size - 1}")
    share = batch_size // world_size
    return range(rank * share, (rank + 1) * share)


class LaneOrder:
    """Which sample lane j supplies at step t. `shard_samples` counts (image, mask) pairs.

    The last `sum(shard_samples) % batch_size` samples of each epoch's order are left out of it.
    Seeking costs the same at every step: only tables of the current epoch and shards are kept.
    """

    def __init__(self, shard_samples: Sequence[int], batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise ValueError(f"the batch size is {batch_size}: must be at least 1")
        self._counts = np.asarray(shard_samples, dtype=np.int64)
        self._batch_size = batch_size
        self._seed = seed
        total = int(self._counts.sum())
        if total < batch_size:
            raise ValueError(
                f"the set holds {total} samples, fewer than one batch of {batch_size}; "
                "pack more images, more masks per image, or lower the batch size"
            )
        self._span = total // batch_size
        # At most one shard per lane is open at a time, plus those that lanes are just leaving.
        self._epoch_table = lru_cache(maxsize=4)(self._lay_out_epoch)
        self._inside = lru_cache(maxsize=batch_size + 16)(self._permute_inside)
        self._segments: dict[int, _Segment] = {}  # by lane: the one that it read last

    @property
    def steps_per_epoch(self) -> int:
        return self._span

    def locate(self, step: int, lane: int) -> SampleAddress:
        segment = self._segments.get(lane)
        if segment is None or not segment.start <= step < segment.stop:
            segment = self._segments[lane] = self._segment(step, lane)
        position = int(segment.positions[step - segment.start])
        return SampleAddress(segment.epoch, segment.shard, position)

    def _segment(self, step: int, lane: int) -> _Segment:
        assert step >= 0, step
        assert 0 <= lane < self._batch_size, lane
        epoch, offset = divmod(step, self._span)
        place, first, last = (lane * self._span + at for at in (offset, 0, self._span))
        table = self._epoch_table(epoch)
        slot = int(table.ends.searchsorted(place, side="right"))
        shard, end = int(table.shards[slot]), int(table.ends[slot])
        begin = end - int(self._counts[shard])
        first, last = max(first, begin), min(last, end)
        return _Segment(
            start=step - (place - first),
            stop=step + (last - place),
            epoch=epoch,
            shard=shard,
            positions=self._inside(epoch, shard)[first - begin : last - begin],
        )

    def substitute(self, address: SampleAddress, attempt: int, other_shard: bool) -> SampleAddress:
        """Another sample for one that cannot be read: a function of its arguments alone.

        The next samples of the same shard in turn and, when all of them were tried or with
        `other_shard` from the first, one of each shard that follows in the epoch's order.
        """
        epoch, shard = address.epoch, address.shard
        within = int(np.flatnonzero(self._inside(epoch, shard) == address.position)[0])
        beyond = attempt if other_shard else attempt - int(self._counts[shard]) + 1
        if beyond > 0:
            order = self._epoch_table(epoch).shards
            filled = order[self._counts[order] > 0]
            slot = int(np.flatnonzero(filled == shard)[0])
            shard = int(filled[(slot + beyond) % len(filled)])
        else:
            within += attempt
        inside = self._inside(epoch, shard)
        return SampleAddress(epoch, shard, int(inside[within % len(inside)]))

    def shards_ahead(self, step: int, lanes: Sequence[int], per_lane: int = 2) -> list[int]:
        """The shards that each of `lanes` reads at `step` and next, `per_lane` of them, distinct,
        in the order in which they are needed. Looks to the end of the next epoch."""
        openings = (itertools.islice(self._openings(step, lane), per_lane) for lane in lanes)
        return list(dict.fromkeys(shard for _, shard in heapq.merge(*openings)))

    def _openings(self, step: int, lane: int) -> Iterator[tuple[int, int]]:
        """(first step, shard) of each shard that the lane reads from `step` on."""
        first_epoch, offset = divmod(step, self._span)
        for epoch in (first_epoch, first_epoch + 1):
            table = self._epoch_table(epoch)
            place, end = lane * self._span + offset, (lane + 1) * self._span
            while place < end:
                slot = int(table.ends.searchsorted(place, side="right"))
                yield epoch * self._span + place - lane * self._span, int(table.shards[slot])
                place = int(table.ends[slot])
            offset = 0

    def _lay_out_epoch(self, epoch: int) -> _EpochTable:
        shards = permutation(self._seed, "shard order", epoch, count=len(self._counts))
        return _EpochTable(shards, np.cumsum(self._counts[shards]))

    def _permute_inside(self, epoch: int, shard: int) -> np.ndarray:
        count = int(self._counts[shard])
        inside = permutation(self._seed, "sample order", epoch, shard, count=count)
        return inside.astype(np.int32)
