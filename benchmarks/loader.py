"""Loading speed: this project's reader beside bare JPEG decoding and webdataset.

    python -m benchmarks.loader [--source FOLDER | --shards SET] [--rounds 5] [--peers PYTHON]

Everything runs interleaved, each candidate in a process of its own, on the same stored bytes.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.command import benchmark_parser, circumstances, command_line, source_label
from benchmarks.inputs import SHIPPED_LABEL, pack_both_ways, write_shipped_parts
from benchmarks.loading_candidates import (
    LoadCase,
    bare_decoding,
    bare_decoding_2_threads,
    batch_assembler,
    measure_rate,
    shard_reader,
    shard_reader_2_threads,
    webdataset_pil,
    webdataset_simplejpeg,
)
from benchmarks.peers.choice import Peers
from benchmarks.peers.loaders import CANDIDATES, prepare_loaders
from benchmarks.peers.process import PeerCall
from benchmarks.report import print_result
from benchmarks.result import Figure, Result, write_result
from benchmarks.rounds import Measurement, Pair, figures_of, measure_in_rounds
from shards.manifest import Manifest, load_manifest
from shards.order import LaneOrder

BUSY_SECONDS = 0.005  # of Python per batch: what a training loop needs for its own

DIRECT = "stored at the size of the crop: decoding only"
RANDOM_SCALE = "random scale, place and flip: decoding, cutting and resizing"

BARE, BARE_2 = "bare decoding", "bare decoding, 2 threads"
ASSEMBLER = "BatchAssembler, 1 thread"
READER, READER_2 = "ShardReader, 1 thread", "ShardReader, 2 threads"
READER_BUSY, READER_2_BUSY = f"{READER}, busy consumer", f"{READER_2}, busy consumer"
PIL, SIMPLEJPEG = "webdataset, PIL", "webdataset, simplejpeg"

SEEK = "order made, one random step of 96 lanes found"
_SOUGHT_SAMPLES, _SOUGHT_SHARDS, _SOUGHT_BATCH = 10_000_000, 10_000, 96

PAIRS: tuple[Pair, ...] = (
    (ASSEMBLER, BARE),
    (READER, BARE),
    (ASSEMBLER, PIL),
    (ASSEMBLER, SIMPLEJPEG),
    (READER, PIL),
    (READER, SIMPLEJPEG),
    (READER_2, PIL),
    (READER_2, SIMPLEJPEG),
    (READER_2, READER),
    (BARE_2, BARE),
    (READER_BUSY, READER),
    (READER_2_BUSY, READER_2),
)


def peer_pairs(peers: Peers) -> tuple[Pair, ...]:
    """Ours with one thread beside theirs with one core, ours with two beside theirs with two."""
    pairs: list[Pair] = []
    for candidate in CANDIDATES:
        if candidate.name in peers.calls:
            ours = (READER_2,) if candidate.workers == 2 else (ASSEMBLER, READER)
            pairs += [(name, candidate.name) for name in ours]
    return tuple(pairs)


def measure_case(
    group: str, case: LoadCase, seconds: float, rounds: int, peers: Peers | None = None
) -> list[Figure]:
    peers = peers or Peers()
    loaders = {
        BARE: bare_decoding,
        BARE_2: bare_decoding_2_threads,
        ASSEMBLER: batch_assembler,
        READER: shard_reader,
        READER_2: shard_reader_2_threads,
        PIL: webdataset_pil,
        SIMPLEJPEG: webdataset_simplejpeg,
    }
    candidates: dict[str, Measurement | PeerCall] = {
        name: partial(measure_rate, loader, case, seconds) for name, loader in loaders.items()
    }
    for name, loader in ((READER_BUSY, shard_reader), (READER_2_BUSY, shard_reader_2_threads)):
        candidates[name] = partial(measure_rate, loader, case, seconds, BUSY_SECONDS)
    candidates |= peers.calls
    measured = measure_in_rounds(candidates, rounds, lambda message: _say(f"{group}: {message}"))
    return figures_of(group, "images/s", measured, PAIRS + peer_pairs(peers))


def _say(message: str) -> None:
    Console(stderr=True).print(message, markup=False, soft_wrap=True)


def peers_of(options: argparse.Namespace, shards: str, crop_size: int, folder: Path) -> Peers:
    """They load the images of the first case; crops of random scale are this project's own."""
    images = {
        "shards": shards,
        "split": "val",
        "folder": str(folder),
        "crop_size": crop_size,
        "batch_size": options.batch_size,
    }
    peers = prepare_loaders(options.peers, images, options.seconds, _say)
    for name, reason in peers.not_measured.items():
        _say(f"{name}: not measured: {reason}")
    return peers


def seek_milliseconds() -> float:
    """What the order takes to be made and to find a random step's samples, all lanes of them."""
    start = time.perf_counter()
    order = LaneOrder([_SOUGHT_SAMPLES // _SOUGHT_SHARDS] * _SOUGHT_SHARDS, _SOUGHT_BATCH, seed=0)
    step = random.randrange(100 * order.steps_per_epoch)
    for lane in range(_SOUGHT_BATCH):
        order.locate(step, lane)
    return 1000 * (time.perf_counter() - start)


def measure_seeking(rounds: int) -> list[Figure]:
    measured = measure_in_rounds({SEEK: seek_milliseconds}, rounds)
    return figures_of("seeking in an epoch of 10 million samples", "ms", measured, ())


def cases_of(shards: str, crop_size: int, batch_size: int) -> dict[str, LoadCase]:
    return {
        DIRECT: LoadCase(shards, "val", crop_size, crop_size, False, batch_size),
        RANDOM_SCALE: LoadCase(shards, "train", crop_size, crop_size * 3 // 2, True, batch_size),
    }


def _packed_set(options: argparse.Namespace, folder: Path) -> tuple[str, Manifest]:
    if options.shards:
        return options.shards, load_manifest(options.shards)
    source = options.source or write_shipped_parts(folder / "photographs")
    return pack_both_ways(source, folder, options.crop_size, options.repeat)


def run(options: argparse.Namespace, command: str) -> Result:
    parameters = circumstances(options)
    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:
        shards, manifest = _packed_set(options, Path(folder))
        crop_size = manifest.recipe.crop_size
        peers = peers_of(options, shards, crop_size, Path(folder) / "peers")
        sizes = [entry.size_bytes for split in manifest.splits.values() for entry in split]
        parameters |= {
            "source": source_label(options, SHIPPED_LABEL),
            **peers.parameters(),
            "images packed": {split: manifest.num_images(split) for split in manifest.splits},
            "bytes of all shards": sum(sizes),
            "crop size, pixels": crop_size,
            "JPEG quality": manifest.recipe.jpeg_quality,
            "batch size": options.batch_size,
            "seconds per measurement": options.seconds,
            "busy consumer, seconds of Python per batch": BUSY_SECONDS,
        }
        figures = measure_seeking(options.rounds)
        figures += [
            figure
            for group, case in cases_of(shards, crop_size, options.batch_size).items()
            for figure in measure_case(
                group, case, options.seconds, options.rounds, peers if group == DIRECT else None
            )
        ]
    return Result("loader", command, parameters, figures)


def main(arguments: list[str]) -> int:
    parser = benchmark_parser("loader", __doc__)
    parser.add_argument("--shards", metavar="SET", help="a packed set, instead of photographs")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--repeat",
        type=int,
        default=1,
        help="times that the first case has every photograph: longer epochs, fairer to slow starts",
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    options = parser.parse_args(arguments)
    try:
        result = run(options, command_line("loader", arguments))
        print_result(result)
        write_result(options.output, result)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"benchmarks.loader: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
