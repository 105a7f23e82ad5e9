"""The peers' loaders, made ready: each is given the images in its own format, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.peer_process import PeerCall, PeerError, PeerProcess
from benchmarks.peers.adapters.stored_images import StoredImages
from benchmarks.peers.choice import DISTRIBUTIONS, Peers, Progress, first_interpreter_with


@dataclass(frozen=True)
class LoaderCandidate:
    name: str
    library: str  # a module of this package
    decoder: str  # "own" or "simplejpeg"
    workers: int  # processes, or threads, besides the consumer's; 0 is within it


def _with_workers(name: str, library: str, decoder: str) -> tuple[LoaderCandidate, ...]:
    return tuple(
        LoaderCandidate(f"{name}, {workers} workers", library, decoder, workers)
        for workers in (0, 2)
    )


def _with_threads(name: str, library: str) -> tuple[LoaderCandidate, ...]:
    return (
        LoaderCandidate(f"{name}, 1 thread", library, "own", 1),
        LoaderCandidate(f"{name}, 2 threads", library, "own", 2),
    )


CANDIDATES: tuple[LoaderCandidate, ...] = (
    *_with_workers("DataLoader of files, Pillow", "torch_dataloader", "own"),
    *_with_workers("DataLoader of our shards, simplejpeg", "torch_dataloader", "simplejpeg"),
    *_with_workers("MosaicML Streaming, Pillow", "mosaicml_streaming", "own"),
    *_with_workers("MosaicML Streaming, simplejpeg", "mosaicml_streaming", "simplejpeg"),
    *_with_workers("LitData, torchvision", "litdata", "own"),
    *_with_workers("LitData, simplejpeg", "litdata", "simplejpeg"),
    *_with_threads("FFCV", "ffcv"),
    *_with_threads("DALI", "dali"),
)


def prepare_loaders(
    interpreters: Sequence[str], images: dict[str, Any], seconds: float, progress: Progress
) -> Peers:
    """`images` are the fields of `StoredImages`. Never raises PeerError: what does not work is
    not measured, for the reason that is given."""
    peers = Peers()
    if not interpreters:
        return peers
    StoredImages(**images).write_files()
    for library, distribution in DISTRIBUTIONS.items():
        progress(f"{distribution}: writing its set and checking its pixels")
        candidates = [candidate for candidate in CANDIDATES if candidate.library == library]
        arguments = {"library": library, "images": images}

        def write(process: PeerProcess, arguments: dict[str, Any] = arguments) -> None:
            process.call("benchmarks.peers.loading:write_set", arguments)

        try:
            interpreter, version = first_interpreter_with(library, interpreters, write)
        except PeerError as error:
            for candidate in candidates:
                peers.leave_out(candidate.name, error)
            continue
        peers.versions[distribution] = version
        _check(peers, candidates, interpreter, arguments, seconds)
    return peers


def _check(
    peers: Peers,
    candidates: Sequence[LoaderCandidate],
    interpreter: str,
    arguments: dict[str, Any],
    seconds: float,
) -> None:
    with PeerProcess(interpreter) as process:
        for candidate in candidates:
            own = arguments | {"decoder": candidate.decoder, "workers": candidate.workers}
            try:
                levels = process.call("benchmarks.peers.loading:check_pixels", own)
            except PeerError as error:
                peers.leave_out(candidate.name, error)
                continue
            if levels:
                peers.levels[candidate.name] = round(levels, 2)
            rate = "benchmarks.peers.loading:rate"
            peers.calls[candidate.name] = PeerCall(interpreter, rate, own | {"seconds": seconds})
