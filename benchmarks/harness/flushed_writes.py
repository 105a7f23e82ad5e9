"""Writing, timed until the bytes are on the disk: the same for writers that flush and for others.

A writer that leaves its pages to the system looks faster than one that waits for the disk, and pays
in the time of whatever runs next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def seconds_until_on_disk(write: Callable[[], Any], folder: str | Path) -> float:
    """`write` leaves all its files below `folder`."""
    start = time.perf_counter()
    write()
    for path in Path(folder).rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    return time.perf_counter() - start
