"""Measure how long the order of samples takes to find a step; in a module that a child imports."""

from __future__ import annotations

import random
import time

from shards.sampling.order import LaneOrder

_SOUGHT_SAMPLES, _SOUGHT_SHARDS, _SOUGHT_BATCH = 10_000_000, 10_000, 96


def seek_milliseconds() -> float:
    """Return what the order takes to be made and to find a random step's samples, all lanes of
    them.
    """
    start = time.perf_counter()
    order = LaneOrder([_SOUGHT_SAMPLES // _SOUGHT_SHARDS] * _SOUGHT_SHARDS, _SOUGHT_BATCH, seed=0)
    step = random.randrange(100 * order.steps_per_epoch)
    for lane in range(_SOUGHT_BATCH):
        order.locate(step, lane)
    return 1000 * (time.perf_counter() - start)
