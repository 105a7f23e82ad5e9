"""Progress that does not go to a terminal: a line now and then, for logs."""

from __future__ import annotations

import time

_LINE_INTERVAL_S = 10.0


class PlainProgress:
    """Lines such as "packed 12 of 40 images"; the last is always printed."""

    def __init__(self, done: str, unit: str) -> None:
        self._done = done
        self._unit = unit
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._last >= _LINE_INTERVAL_S:
            self._last = now
            print(f"{self._done} {done} of {total} {self._unit}", flush=True)
