"""Numbers that several threads add to and telemetry reads."""

from __future__ import annotations

import threading
from typing import Any, ClassVar


class Counters:
    """Base of dataclasses whose fields are all numbers."""

    _lock: ClassVar[threading.Lock] = threading.Lock()

    def add(self, **amounts: float) -> None:
        """Adds to the fields that are named. AttributeError if there is no such field."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def snapshot(self) -> dict[str, Any]:
        """All fields, of one moment."""
        with self._lock:
            return dict(vars(self))
