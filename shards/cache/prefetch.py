"""Threads that fetch shards before a reader needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

Shard = TypeVar("Shard", bound=Hashable)


class Prefetcher(Generic[Shard]):
    """Calls `fetch` with the shards that are wanted next, several at a time. A shard is called by
    its number or by anything else that tells it from the others.

    What goes wrong is only counted: the reader that needs the shard meets the error itself.
    """

    def __init__(self, fetch: Callable[[Shard], object], threads: int = 4) -> None:
        self._fetch = fetch
        self._changed = threading.Condition()
        self._wanted: list[Shard] = []  # not begun, the next one first
        self._begun: set[Shard] = set()  # in flight, fetched or failed
        self._in_flight: set[Shard] = set()
        self._closed = False
        self.failures = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"prefetch-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def want(self, shards: Sequence[Shard]) -> None:
        """Replaces the list of what is wanted, in order of need.

        What the list before held, and this one does not, is dropped if it was not begun. shard
        is not fetched again as long as it stays in the list.
        """
        with self._changed:
            self._begun = self._in_flight | (self._begun & set(shards))
            self._wanted = [shard for shard in dict.fromkeys(shards) if shard not in self._begun]
            self._changed.notify_all()

    def close(self) -> None:
        """Begins nothing any more, and does not wait for what is in flight."""
        with self._changed:
            self._closed = True
            self._wanted = []
            self._changed.notify_all()

    def join(self) -> None:
        """After `close`: waits for what is in flight."""
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (shard := self._next()) is not None:
            try:
                self._fetch(shard)
            except Exception:
                with self._changed:
                    self.failures += 1
            finally:
                with self._changed:
                    self._in_flight.discard(shard)

    def _next(self) -> Shard | None:
        """Waits for the next shard; None when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._closed)
            if self._closed:
                return None
            shard = self._wanted.pop(0)
            self._begun.add(shard)
            self._in_flight.add(shard)
            return shard
