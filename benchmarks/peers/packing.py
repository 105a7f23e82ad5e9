"""What a peer's process does for the benchmark of packing."""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from types import ModuleType

from benchmarks.harness.flushed_writes import seconds_until_on_disk
from benchmarks.peers.adapters.conversion import conversion

_DESCRIPTION = json.dumps(  # what the other writers are given with every image
    {
        "class": "some",
        "label": 0,
        "original_size": [500, 375],
        "completion": [[[100, 100, 100, 100]]],
        "discriminator": [[[100, 100, 100, 100]]],
    }
)


def _library(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.peers.adapters.{name}")


def load_library(library: str) -> None:
    """Raises what importing it raises."""
    _library(library)


def pack_rate(
    library: str, resize: str, processes: int, paths: list[str], short_side: int
) -> float:
    """Images per second until they are on the disk, of photographs none of which is too small."""
    peer, convert = _library(library), conversion(resize, short_side)
    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:
        return len(paths) / seconds_until_on_disk(
            lambda: peer.pack(paths, convert, Path(folder) / "set", processes), folder
        )


def writing_rate(
    library: str, hashed: bool, count: int, paths: list[str], short_side: int
) -> float:
    """Samples per second of the writer alone, which is given encoded images."""
    peer, convert = _library(library), conversion("ours", short_side)
    jpegs = [convert(path) for path in paths]
    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:
        return count / seconds_until_on_disk(
            lambda: peer.write(jpegs, _DESCRIPTION, count, Path(folder) / "set", hashed), folder
        )
