"""How long a background writer bears with a store that fails, and how it waits meanwhile."""

from __future__ import annotations

import random
import time

from shards.storage.errors import waiting_may_mend

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class Patience:
    """Growing pauses with jitter between attempts, until nothing has been stored for too long.

    The clock runs while something is waiting to be stored: also through a call that never returns.
    """

    def __init__(self, give_up_after_s: float) -> None:
        self.give_up_after_s = give_up_after_s
        self.failures = 0  # of all time
        self._in_a_row = 0
        self._since: float | None = None

    def start(self) -> None:
        """Something is waiting to be stored; the clock goes on if it runs already."""
        if self._since is None:
            self._since = time.monotonic()

    def stored(self, more_waits: bool) -> None:
        """The clock stops, or starts anew for what still waits."""
        self._in_a_row = 0
        self._since = time.monotonic() if more_waits else None

    @property
    def waited_s(self) -> float:
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_over(self) -> bool:
        return self.waited_s > self.give_up_after_s

    def pause_after(self, error: BaseException) -> float | None:
        """Seconds until the next attempt; None where there shall be none."""
        self.failures += 1
        self._in_a_row += 1
        if not waiting_may_mend(error) or self.is_over:
            return None
        pause_s = min(FIRST_PAUSE_S * 2.0 ** (self._in_a_row - 1), LONGEST_PAUSE_S)
        return pause_s * random.uniform(0.5, 1.0)  # many runs shall not come back all at once
