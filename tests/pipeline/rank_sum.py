"""Threads that stand for the ranks of an evaluation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")
AllReduceSum = Callable[[np.ndarray], np.ndarray]
_WAIT_S = 60.0  # for the others, of which one may have failed


class RankSum:
    """Adds arrays up over the ranks, in call after call."""

    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size, timeout=_WAIT_S)
        self.arrays: dict[int, np.ndarray] = {}

    def of_rank(self, rank: int) -> AllReduceSum:
        def all_reduce_sum(array: np.ndarray) -> np.ndarray:
            self.arrays[rank] = array
            self.barrier.wait()
            total = np.sum(list(self.arrays.values()), axis=0)
            self.barrier.wait()  # before the next call writes
            return total

        return all_reduce_sum


def in_threads(world_size: int, call: Callable[[int, AllReduceSum], T]) -> list[T]:
    """What `call` returns on every rank."""
    total, results = RankSum(world_size), dict[int, T]()

    def rank_main(rank: int) -> None:
        results[rank] = call(rank, total.of_rank(rank))

    threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(world_size)]
