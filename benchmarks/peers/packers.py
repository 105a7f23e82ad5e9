"""The peers' writers, and the photographs that they are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.harness.peer_process import PeerCall, PeerError, PeerProcess
from benchmarks.peers.choice import DISTRIBUTIONS, Peers, Progress, first_interpreter_with

NAMES = {
    "mosaicml_streaming": "MDSWriter",
    "litdata": "litdata.optimize",
    "ffcv": "FFCV's DatasetWriter",
}
_ALONE = {**NAMES, "litdata": "LitData's BinaryWriter"}
_RESIZES = {"pillow": "with Pillow", "ours": "with our conversion"}
PROCESSES = {1: "1 process", 2: "2 processes"}


def packer_name(library: str, resize: str, processes: int) -> str:
    return f"{NAMES[library]} {_RESIZES[resize]}, {PROCESSES[processes]}"


def usable_paths(paths: Sequence[Path], short_side: int) -> list[str]:
    """Of photographs that need not be enlarged; the peers would only refuse the others."""
    usable = []
    for path in paths:
        with Image.open(path) as image:
            if min(image.size) >= short_side:
                usable.append(str(path))
    return usable


def prepare_packers(
    interpreters: Sequence[str], paths: Sequence[Path], short_side: int, progress: Progress
) -> Peers:
    """End to end. What cannot be imported is not measured, for the reason that is given."""
    arguments = {"paths": usable_paths(paths, short_side), "short_side": short_side}
    calls: dict[str, dict[str, dict[str, Any]]] = {
        library: {
            packer_name(library, resize, processes): arguments
            | {"library": library, "resize": resize, "processes": processes}
            for resize in _RESIZES
            for processes in PROCESSES
        }
        for library in NAMES
    }
    return _prepare(interpreters, "benchmarks.peers.packing:pack_rate", calls, progress)


def prepare_writers(
    interpreters: Sequence[str],
    paths: Sequence[Path],
    short_side: int,
    count: int,
    progress: Progress,
) -> Peers:
    """Of `count` encoded images; the writers alone."""
    arguments = {
        "paths": usable_paths(paths, short_side),
        "short_side": short_side,
        "count": count,
    }
    calls = {
        library: {name: arguments | {"library": library, "hashed": False}}
        for library, name in _ALONE.items()
    }
    hashed = arguments | {"library": "mosaicml_streaming", "hashed": True}
    calls["mosaicml_streaming"]["MDSWriter, SHA-256"] = hashed
    return _prepare(interpreters, "benchmarks.peers.packing:writing_rate", calls, progress)


def _prepare(
    interpreters: Sequence[str],
    function: str,
    calls: dict[str, dict[str, dict[str, Any]]],  # library -> candidate -> arguments
    progress: Progress,
) -> Peers:
    peers = Peers()
    for library, candidates in calls.items() if interpreters else ():
        progress(f"{DISTRIBUTIONS[library]}: trying it")

        def load(process: PeerProcess, library: str = library) -> None:
            process.call("benchmarks.peers.packing:load_library", {"library": library})

        try:
            interpreter, version = first_interpreter_with(library, interpreters, load)
        except PeerError as error:
            for name in candidates:
                peers.leave_out(name, error)
            continue
        peers.versions[DISTRIBUTIONS[library]] = version
        for name, arguments in candidates.items():
            peers.calls[name] = PeerCall(interpreter, function, arguments)
    return peers
