"""Packing speed: pack_images beside webdataset.ShardWriter with Pillow.

    python -m benchmarks.packing [--source FOLDER] [--rounds 5] [--peers PYTHON]
    torchrun --nproc_per_node=8 -m benchmarks.packing --config places2 --output URL

The same files to the same short side and JPEG quality, interleaved, with one and two processes; the
writers alone; and how near the stored images are to Pillow's bicubic resizing. Under torchrun all
workers pack at once, each a slice of the same photographs; figures are their sums.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.harness.command_line import (
    benchmark_parser,
    chosen_crop_size,
    environment,
    is_configured,
    run_benchmark,
    source_label,
)
from benchmarks.harness.launched_workers import Workers
from benchmarks.harness.peer_process import PeerCall
from benchmarks.harness.photographs import SHIPPED_LABEL, benchmark_recipe, write_shipped_parts
from benchmarks.harness.result import Measurement, Result, Table
from benchmarks.harness.rounds import (
    MeasureCall,
    Pair,
    figures_of,
    measure_in_rounds,
    sum_over_workers,
)
from benchmarks.packing.candidates import (
    fidelity,
    pack_rate,
    paths_of_slice,
    stored_samples,
    webdataset_rate,
    webdataset_writing_rate,
    writing_rate,
)
from benchmarks.peers.choice import Peers
from benchmarks.peers.packers import NAMES, packer_name, prepare_packers, prepare_writers
from pipeline.config.schema import Config
from shards.format.recipe import PackRecipe
from shards.sources.plan import plan_packing

SPEED, WRITING, FIDELITY = "speed", "writing alone", "fidelity"
WRITER, PEER_WRITER = "shard writer", "webdataset.ShardWriter"
_IMAGES_PER_SHARD = 250  # several for every process
_WRITTEN_IMAGES = 200  # different ones, written again and again
OURS, OURS_2 = "pack_images, 1 process", "pack_images, 2 processes"
PEER, PEER_2 = "ShardWriter with Pillow, 1 process", "ShardWriter with Pillow, 2 processes"
PAIRS: tuple[Pair, ...] = ((OURS, PEER), (OURS_2, PEER_2), (OURS_2, OURS), (PEER_2, PEER))


def measure_speed(
    source: Path, recipe: PackRecipe, options: argparse.Namespace, workers: Workers
) -> tuple[list[Measurement], list[Table], Peers]:
    """Return the sum of all workers, each of which packs its slice."""
    place = (workers.rank, workers.world_size)
    paths = paths_of_slice(_training_paths(source, recipe), recipe, *place)
    peers = prepare_packers(options.peers, paths, recipe.short_side, workers.log_message)
    ours: dict[str, MeasureCall | PeerCall] = {
        OURS: partial(pack_rate, source, recipe, 1, *place),
        OURS_2: partial(pack_rate, source, recipe, 2, *place),
        PEER: partial(_peer_rate, paths, recipe, 1),
        PEER_2: partial(_peer_rate, paths, recipe, 2),
    }
    pairs = PAIRS + _peer_pairs(peers)
    return _measure(SPEED, "images/s", ours, (PEER, PEER_2), pairs, peers, options, workers)


def _measure(
    group: str, unit: str, ours: dict[str, MeasureCall | PeerCall], of_webdataset: Sequence[str],
    pairs: Sequence[Pair], peers: Peers, options: argparse.Namespace, workers: Workers,
) -> tuple[list[Measurement], list[Table], Peers]:  # fmt: skip
    """Return what all workers can measure: what one cannot, none does."""
    if importlib.util.find_spec("webdataset") is None:
        peers.not_measured |= dict.fromkeys(of_webdataset, "webdataset is not installed")
    peers.leave_out_what_is_lacking(workers.gathered(peers))
    candidates = {
        name: candidate
        for name, candidate in (ours | peers.calls).items()
        if name not in peers.not_measured and (not options.candidate or name in options.candidate)
    }
    measured = measure_in_rounds(candidates, options.rounds, workers.log_message, workers)
    known = [pair for pair in pairs if set(pair) <= measured.keys()]
    figures = figures_of(group, unit, sum_over_workers(measured), known)
    tables = [
        table
        for name in list(measured)[:1]
        for table in workers.table(f"workers: {name}, {group}", unit, measured[name])
    ]
    return figures, tables, peers


def _peer_pairs(peers: Peers) -> tuple[Pair, ...]:
    return tuple(
        (ours, name)
        for library in NAMES
        for resize in ("pillow", "ours")
        for processes, ours in ((1, OURS), (2, OURS_2))
        if (name := packer_name(library, resize, processes)) in peers.calls
    )


def _training_paths(source: Path, recipe: PackRecipe) -> list[Path]:
    return [source / image.name for image in plan_packing(str(source), recipe).splits["train"]]


def _peer_rate(paths: list[Path], recipe: PackRecipe, processes: int) -> float:
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        # Their start is no part of the measurement: a long job pays it once.
        for started in [pool.submit(_import_webdataset) for _ in range(processes)]:
            started.result()
        return webdataset_rate(pool.submit, paths, recipe, processes)


def _import_webdataset() -> None:
    import webdataset  # noqa: F401

    time.sleep(0.5)  # long enough for the other process to take the other call


def measure_writing(
    source: Path, recipe: PackRecipe, options: argparse.Namespace, workers: Workers
) -> tuple[list[Measurement], list[Table], Peers]:
    """Of encoded images: what is left of packing when neither decoding nor resizing is. The sum of
    all workers, each of which writes as many.
    """
    count = options.written_samples
    paths = _training_paths(source, recipe)[:_WRITTEN_IMAGES]
    samples = stored_samples(paths, recipe)
    peers = prepare_writers(options.peers, paths, recipe.short_side, count, workers.log_message)
    ours: dict[str, MeasureCall | PeerCall] = {
        WRITER: partial(writing_rate, samples, recipe, count),
        PEER_WRITER: partial(webdataset_writing_rate, samples, recipe, count),
    }
    pairs = [(WRITER, name) for name in (PEER_WRITER, *peers.calls)]
    return _measure(WRITING, "samples/s", ours, (PEER_WRITER,), pairs, peers, options, workers)


def measure_fidelity(source: Path, recipe: PackRecipe, workers: Workers) -> list[Measurement]:
    """Return the median and the 5th percentile over the images; `runs` holds that one value."""
    paths = _training_paths(source, recipe)[workers.rank :: workers.world_size]
    every = workers.each(lambda: fidelity(paths, recipe))
    figures = []
    for name in every[0]:
        decibels = [one for own in every for one in own[name]]
        for statistic, percentile in (("median", 50), ("5th percentile", 5)):
            value = float(np.percentile(decibels, percentile))
            figures.append(Measurement.of_runs(FIDELITY, f"{name}, {statistic}", "dB", [value]))
    return figures


def _recipe(options: argparse.Namespace, config: Config) -> PackRecipe:
    """Return the photographs that all ways of packing refuse: those below the short side."""
    further = {"validation_fraction": 0, "images_per_shard": _IMAGES_PER_SHARD}
    short_side = chosen_crop_size(options, config)
    if is_configured(options, config):
        short_side = options.crop_size or config.pack.short_side
        further["jpeg_quality"] = config.pack.jpeg_quality
    return benchmark_recipe(short_side, short_side, **further)


def _repeat_images(source: Path, folder: Path, copies: int) -> Path:
    """Once for each worker: its slice is as large as what one alone packs."""
    folder.mkdir()
    for number in range(copies):
        (folder / f"copy-{number}").symlink_to(source.resolve(), target_is_directory=True)
    return folder


def _with_shards_for(workers: Workers, source: Path, recipe: PackRecipe) -> PackRecipe:
    """Of several workers each must have as many, and one for each of its processes."""
    if workers.world_size == 1:
        return recipe
    enough = -(-len(_training_paths(source, recipe)) // (2 * workers.world_size))
    return replace(recipe, images_per_shard=min(recipe.images_per_shard, enough))


def run(options: argparse.Namespace, config: Config, workers: Workers, command: str) -> Result:
    parameters = environment(options, workers)
    recipe = _recipe(options, config)
    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as name:
        folder = Path(name)
        source = options.source or write_shipped_parts(folder / "photographs")
        repeated = _repeat_images(source, folder / "repeated", options.repeat * workers.world_size)
        recipe = _with_shards_for(workers, repeated, recipe)
        parameters |= {
            "source": source_label(options, SHIPPED_LABEL),
            "times that every photograph is packed": options.repeat * workers.world_size,
            "short side, pixels": recipe.short_side,
            "JPEG quality": recipe.jpeg_quality,
            "images per shard": recipe.images_per_shard,
        }
        speed, tables, peers = measure_speed(repeated, recipe, options, workers)
        writing, further, writers = measure_writing(source, recipe, options, workers)
        peers.not_measured |= writers.not_measured
        for name, reason in peers.not_measured.items():
            workers.log_message(f"{name}: not measured: {reason}")
        parameters |= peers.parameters()
        figures = speed + writing + measure_fidelity(source, recipe, workers)
    return Result("packing", command, parameters, figures, tables=tables + further)


def main(arguments: list[str]) -> int:
    parser = benchmark_parser("packing", __doc__)
    parser.add_argument(
        "--repeat", type=int, default=4, help="times that every photograph is packed, by each "
        "worker (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--written-samples", type=int, default=4000, help="by the writers alone (%(default)s)"
    )
    parser.add_argument(
        "--candidate",
        action="append",
        choices=(OURS, OURS_2, PEER, PEER_2, WRITER, PEER_WRITER),
        help="only this one, and no peer; may be repeated",
    )
    return run_benchmark("packing", parser, arguments, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
