"""Loading speed: this project's reader beside bare JPEG decoding and webdataset.

    python -m benchmarks.loader [--source FOLDER | --shards SET] [--rounds 5] [--peers PYTHON]
    torchrun --nproc_per_node=8 -m benchmarks.loader --config places2 --shards URL --output URL

Everything runs interleaved, each candidate in a process of its own, on the same stored bytes. Under
torchrun all workers read at once, each its share of the set as in training; figures are their sums.
A set in object storage is read through the cache, and once a round with an empty one.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness.command_line import (
    batch_of_worker,
    benchmark_parser,
    chosen,
    chosen_crop_size,
    environment,
    is_configured,
    run_benchmark,
    source_label,
)
from benchmarks.harness.launched_workers import ALONE, Workers
from benchmarks.harness.peer_process import PeerCall
from benchmarks.harness.photographs import SHIPPED_LABEL, pack_both_ways, write_shipped_parts
from benchmarks.harness.result import Measurement, Result, Table
from benchmarks.harness.rounds import (
    MeasureCall,
    Pair,
    figures_of,
    measure_in_rounds,
    of_median_worker,
    sum_over_workers,
)
from benchmarks.loader.candidates import (
    bare_decoding,
    bare_decoding_2_threads,
    batch_assembler,
    shard_reader,
    shard_reader_2_threads,
    shard_reader_with,
    webdataset_pil,
    webdataset_simplejpeg,
)
from benchmarks.loader.from_store import measure_from_store, reader_name, store_parameters
from benchmarks.loader.seeking import seek_milliseconds
from benchmarks.peers.choice import Peers
from benchmarks.peers.loaders import CANDIDATES, prepare_loaders
from benchmarks.peers.loading_rate import LoadCase, measure_rate
from pipeline.config.schema import Config
from shards.format.manifest import load_manifest
from shards.storage.filesystems import is_local

BUSY_SECONDS = 0.005  # of Python per batch: what a training loop needs for its own

DIRECT = "stored at the size of the crop: decoding only"
RANDOM_SCALE = "random scale, place and flip: decoding, cutting and resizing"

BARE, BARE_2 = "bare decoding", "bare decoding, 2 threads"
ASSEMBLER = "BatchAssembler, 1 thread"
READER, READER_2 = reader_name(1), reader_name(2)
READER_BUSY, READER_2_BUSY = f"{READER}, busy consumer", f"{READER_2}, busy consumer"
PIL, SIMPLEJPEG = "webdataset, PIL", "webdataset, simplejpeg"

SEEK = "order made, one random step of 96 lanes found"

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


def measure_case(
    group: str, case: LoadCase, options: argparse.Namespace, peers: Peers, threads: int,
    workers: Workers,
) -> tuple[list[Measurement], list[Table]]:  # fmt: skip
    """`threads`: of a further reader, if they are not 1 or 2; the sum of all workers."""
    loaders: dict[str, Any] = {
        BARE: bare_decoding,
        BARE_2: bare_decoding_2_threads,
        ASSEMBLER: batch_assembler,
        READER: shard_reader,
        READER_2: shard_reader_2_threads,
        PIL: webdataset_pil,
        SIMPLEJPEG: webdataset_simplejpeg,
    }
    as_trained = reader_name(threads)
    if as_trained not in loaders:
        loaders[as_trained] = partial(shard_reader_with, threads=threads)
    candidates: dict[str, MeasureCall | PeerCall] = {
        name: partial(measure_rate, loader, case, options.seconds)
        for name, loader in loaders.items()
    }
    for name, loader in ((READER_BUSY, shard_reader), (READER_2_BUSY, shard_reader_2_threads)):
        candidates[name] = partial(measure_rate, loader, case, options.seconds, BUSY_SECONDS)
    candidates |= peers.calls
    candidates = {
        name: candidate
        for name, candidate in chosen("--candidate", options.candidate, candidates).items()
        if name not in peers.not_measured
        # Crops of random scale are this project's own.
        and (group == DIRECT or name not in peers.calls)
    }
    measured = measure_in_rounds(
        candidates,
        options.rounds,
        lambda message: workers.log_message(f"{group}: {message}"),
        workers,
    )
    pairs = dict.fromkeys([*PAIRS, (as_trained, READER), *_peer_pairs(peers)])
    known = [(a, b) for a, b in pairs if a in measured and b in measured and a != b]
    figures = figures_of(group, "images/s", sum_over_workers(measured), known)
    if as_trained not in measured:
        return figures, []
    title = f"workers: {as_trained}, {group}"
    return figures, workers.table(title, "images/s", measured[as_trained])


def _peer_pairs(peers: Peers) -> list[Pair]:
    """Ours with one thread beside theirs with one core, ours with two beside theirs with two."""
    pairs: list[Pair] = []
    for candidate in CANDIDATES:
        if candidate.name in peers.calls:
            ours = (READER_2,) if candidate.workers == 2 else (ASSEMBLER, READER)
            pairs += [(name, candidate.name) for name in ours]
    return pairs


def peers_of(options: argparse.Namespace, case: LoadCase, folder: Path, workers: Workers) -> Peers:
    """They load the images of the first case. What one worker cannot measure none does."""
    images = {
        "shards": case.shards,
        "split": "val",
        "folder": str(folder),
        "crop_size": case.crop_size,
        "batch_size": case.batch_size,
        "rank": case.rank,
        "world_size": case.world_size,
        "cache": case.cache,
    }

    def prepare() -> Peers:
        peers = prepare_loaders(options.peers, images, options.seconds, workers.log_message)
        if importlib.util.find_spec("webdataset") is None:
            peers.not_measured |= dict.fromkeys((PIL, SIMPLEJPEG), "webdataset is not installed")
        return peers

    every = workers.each(prepare)
    peers = every[workers.rank]
    peers.leave_out_what_is_lacking(every)
    for name, reason in peers.not_measured.items():
        workers.log_message(f"{name}: not measured: {reason}")
    return peers


def measure_seeking(rounds: int, workers: Workers) -> list[Measurement]:
    measured = measure_in_rounds({SEEK: seek_milliseconds}, rounds, workers=workers)
    group = "seeking in an epoch of 10 million samples"
    return figures_of(group, "ms", of_median_worker(measured), ())


def cases_of(
    shards: str, crop_size: int, batch_size: int, config: Config | None = None,
    workers: Workers = ALONE,
) -> dict[str, LoadCase]:  # fmt: skip
    """By a configuration as it reads, without one by the paper's proportions."""
    lowest, highest, flip, cache, limit_bytes = crop_size, crop_size * 3 // 2, True, "", 0
    if config is not None:
        data = config.data
        lowest, highest, flip = data.short_side_min, data.short_side_max, data.horizontal_flip
        cache, limit_bytes = data.cache, data.cache_limit_bytes
    place = (batch_size, workers.rank, workers.world_size, cache, limit_bytes)
    return {
        DIRECT: LoadCase(shards, "val", crop_size, crop_size, crop_size, False, *place),
        RANDOM_SCALE: LoadCase(shards, "train", crop_size, lowest, highest, flip, *place),
    }


def _set(options: argparse.Namespace, config: Config, folder: Path, workers: Workers) -> str:
    """Return the folder or URL of what all workers read; of photographs every node packs a set."""
    if options.shards:
        return str(options.shards)
    if config.data.shards != Config().data.shards and not options.source:
        options.shards = config.data.shards
        return config.data.shards

    def pack() -> str:
        source = options.source or write_shipped_parts(folder / "photographs")
        crop_size, repeat = chosen_crop_size(options, config), options.repeat
        return pack_both_ways(source, folder, crop_size, repeat, workers.world_size)[0]

    return workers.once_a_node(pack)


def run(options: argparse.Namespace, config: Config, workers: Workers, command: str) -> Result:
    parameters = environment(options, workers)
    configured = is_configured(options, config)
    batch_size = options.batch_size or (batch_of_worker(config, workers) if configured else 32)
    threads = config.data.decode_threads or workers.cores
    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:
        shards = _set(options, config, Path(folder), workers)
        manifest = load_manifest(shards)
        crop_size = manifest.recipe.crop_size
        cases = cases_of(shards, crop_size, batch_size, config if configured else None, workers)
        peers = peers_of(options, cases[DIRECT], Path(folder) / "peers", workers)
        sizes = [entry.size_bytes for split in manifest.splits.values() for entry in split]
        parameters |= {
            "source": source_label(options, SHIPPED_LABEL),
            **peers.parameters(),
            "images packed": {split: manifest.num_images(split) for split in manifest.splits},
            "bytes of all shards": sum(sizes),
            "crop size, pixels": crop_size,
            "JPEG quality": manifest.recipe.jpeg_quality,
            "batch size": batch_size,
            "seconds per measurement": options.seconds,
            "busy consumer, seconds of Python per batch": BUSY_SECONDS,
        }
        figures, tables = measure_seeking(options.rounds, workers), []
        for group, case in cases.items():
            further = threads if configured or workers.world_size > 1 else 2
            found = measure_case(group, case, options, peers, further, workers)
            figures += found[0]
            tables += found[1]
        if not is_local(shards):
            parameters |= store_parameters(shards, options.store_seconds)
            figures += measure_from_store(
                cases[RANDOM_SCALE], threads, options.store_seconds, options.rounds, workers
            )
        workers.barrier()  # the others read in the folder of their node's first
    return Result("loader", command, parameters, figures, tables=tables)


def main(arguments: list[str]) -> int:
    parser = benchmark_parser("loader", __doc__)
    parser.add_argument(
        "--shards",
        metavar="SET",
        help="a packed set, folder or URL, instead of photographs; default: data.shards, if given",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help="of each worker; default: its share of the configuration's, if any of it is given, "
        "else 32",
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=1,
        help="times that the first case has every photograph: longer epochs, fairer to slow starts",
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument(
        "--candidate", action="append", help="only this one, by name; may be repeated"
    )
    parser.add_argument(
        "--store-seconds",
        type=float,
        default=30.0,
        help="of each measurement with an empty cache, at most (%(default)s)",
    )
    return run_benchmark("loader", parser, arguments, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
