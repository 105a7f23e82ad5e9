"""How many processors this process may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """The cores of the process's affinity, which a container's CPU set narrows; at least 1."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
