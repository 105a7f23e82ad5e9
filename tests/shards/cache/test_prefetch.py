from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from shards.cache.prefetch import Prefetcher


class Store:
    """Says which shard is begun, and ends it when told to."""

    def __init__(self) -> None:
        self.begun: queue.Queue[int] = queue.Queue()
        self._may_end = threading.Semaphore(0)
        self.broken: set[int] = set()

    def fetch(self, shard: int) -> None:
        self.begun.put(shard)
        assert self._may_end.acquire(timeout=30)
        if shard in self.broken:
            raise OSError(f"shard {shard} cannot be reached")

    def end(self, fetches: int = 1) -> None:
        self._may_end.release(fetches)

    def next_begun(self) -> int:
        return self.begun.get(timeout=30)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def prefetcher(store: Store) -> Iterator[Prefetcher]:
    prefetcher = Prefetcher(store.fetch, threads=1)
    yield prefetcher
    prefetcher.close()
    store.end(100)
    prefetcher.join()


def test_shards_are_fetched_in_the_order_of_need(store: Store, prefetcher: Prefetcher) -> None:
    prefetcher.want([5, 3, 8])
    store.end(3)
    assert [store.next_begun() for _ in range(3)] == [5, 3, 8]


def test_several_are_in_flight_at_once(store: Store) -> None:
    prefetcher = Prefetcher(store.fetch, threads=3)
    prefetcher.want([1, 2, 3, 4])
    assert {store.next_begun() for _ in range(3)} == {1, 2, 3}
    assert store.begun.empty()
    store.end(4)
    assert store.next_begun() == 4
    prefetcher.close()
    prefetcher.join()


def test_what_is_no_longer_wanted_is_dropped_and_what_is_under_way_not_begun_again(
    store: Store, prefetcher: Prefetcher
) -> None:
    prefetcher.want([1, 2, 3])
    assert store.next_begun() == 1
    prefetcher.want([3, 1, 4])
    store.end(3)
    assert [store.next_begun(), store.next_begun()] == [3, 4]
    prefetcher.want([4, 3, 5])
    store.end()
    assert store.next_begun() == 5


def test_a_shard_that_was_out_of_the_list_is_fetched_again(
    store: Store, prefetcher: Prefetcher
) -> None:
    store.end(3)
    for shards in ([1], [2], [1]):
        prefetcher.want(shards)
        assert store.next_begun() == shards[0]


def test_a_failure_is_counted_and_the_next_shard_fetched(
    store: Store, prefetcher: Prefetcher, capfd: pytest.CaptureFixture[str]
) -> None:
    store.broken = {1}
    prefetcher.want([1, 2])
    store.end()
    assert [store.next_begun(), store.next_begun()] == [1, 2]
    assert prefetcher.failures == 1
    prefetcher.want([1, 2, 3])
    store.end(2)
    assert store.next_begun() == 3, "what failed is left to the reader"
    assert capfd.readouterr().err == ""


def test_a_closed_prefetcher_begins_nothing_more(store: Store) -> None:
    prefetcher = Prefetcher(store.fetch, threads=2)
    prefetcher.want([1, 2, 3, 4])
    assert {store.next_begun(), store.next_begun()} == {1, 2}
    prefetcher.close()
    prefetcher.want([5])
    store.end(5)
    prefetcher.join()
    assert store.begun.empty()
