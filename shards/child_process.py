"""What the child processes of readers and packers are started with."""

from __future__ import annotations

import os
from pathlib import Path


def child_environment() -> dict[str, str]:
    """This process's environment, in which `python -m shards.NAME` finds the project."""
    project = str(Path(__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": project + (os.pathsep + path if path else ""),
        "OPENBLAS_NUM_THREADS": "1",  # NumPy would start one thread per core that never works
    }
