"""SIGTERM, SIGUSR1 and Ctrl-C as a flag that the training loop reads between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignal:
    """While it is entered, the signals that end a run only raise `raised`.

    Nothing is saved inside the handler: all ranks must agree on the step first. A second Ctrl-C
    interrupts at once.
    """

    def __init__(self) -> None:
        self.raised = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.raised:
            raise KeyboardInterrupt
        self.raised = True
