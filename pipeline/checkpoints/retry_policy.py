"""Decide how long a background writer retries on failing storage, and how it backs off."""

from __future__ import annotations

import random
import time

from shards.storage.errors import waiting_may_mend

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0


class RetryPolicy:
    """Exponential back-off with jitter between attempts, until nothing was stored for too long.

    The timer covers pending writes, including calls that never return.
    """

    def __init__(self, give_up_after_s: float) -> None:
        self.give_up_after_s = give_up_after_s
        self.failures = 0  # of all time
        self._streak = 0
        self._since: float | None = None

    def start(self) -> None:
        """Start the timer, since a write is pending; one that runs already goes on."""
        if self._since is None:
            self._since = time.monotonic()

    def stored(self, more_waits: bool) -> None:
        """Stop the timer, or restart it for what still waits."""
        self._streak = 0
        self._since = time.monotonic() if more_waits else None

    @property
    def waited_s(self) -> float:
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_over(self) -> bool:
        return self.waited_s > self.give_up_after_s

    def pause_after(self, error: BaseException) -> float | None:
        """Return the seconds until the next attempt; None where there shall be none."""
        self.failures += 1
        self._streak += 1
        if not waiting_may_mend(error) or self.is_over:
            return None
        pause_s = min(FIRST_PAUSE_S * 2.0 ** (self._streak - 1), MAX_PAUSE_S)
        return pause_s * random.uniform(0.5, 1.0)  # many runs shall not come back all at once
