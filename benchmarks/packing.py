"""Packing speed: pack_images beside webdataset.ShardWriter with Pillow.

    python -m benchmarks.packing [--source FOLDER] [--rounds 5] [--peers PYTHON]

The same files to the same short side and JPEG quality, interleaved, with one and two processes; the
writers alone; and how near the stored images are to Pillow's bicubic resizing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.command import benchmark_parser, circumstances, command_line, source_label
from benchmarks.inputs import SHIPPED_LABEL, benchmark_recipe, write_shipped_parts
from benchmarks.packing_candidates import (
    fidelity,
    pack_rate,
    stored_samples,
    webdataset_rate,
    webdataset_writing_rate,
    writing_rate,
)
from benchmarks.peers.choice import Peers
from benchmarks.peers.packers import NAMES, packer_name, prepare_packers, prepare_writers
from benchmarks.peers.process import PeerCall
from benchmarks.report import print_result
from benchmarks.result import Figure, Result, write_result
from benchmarks.rounds import Measurement, Pair, figures_of, measure_in_rounds
from shards.recipe import PackRecipe
from shards.sources import plan_packing

SPEED, WRITING, FIDELITY = "speed", "writing alone", "fidelity"
WRITER, PEER_WRITER = "shard writer", "webdataset.ShardWriter"
_IMAGES_PER_SHARD = 250  # several for every process
_WRITTEN_IMAGES = 200  # different ones, written again and again
OURS, OURS_2 = "pack_images, 1 process", "pack_images, 2 processes"
PEER, PEER_2 = "ShardWriter with Pillow, 1 process", "ShardWriter with Pillow, 2 processes"
PAIRS: tuple[Pair, ...] = ((OURS, PEER), (OURS_2, PEER_2), (OURS_2, OURS), (PEER_2, PEER))


def measure_speed(
    source: Path, recipe: PackRecipe, repeat: int, rounds: int, interpreters: list[str]
) -> tuple[list[Figure], Peers]:
    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:
        for number in range(repeat):
            (Path(folder) / f"copy-{number}").symlink_to(source.resolve(), target_is_directory=True)
        paths = _training_paths(Path(folder), recipe)
        peers = prepare_packers(interpreters, paths, recipe.short_side, _say)
        candidates: dict[str, Measurement | PeerCall] = {
            OURS: partial(pack_rate, Path(folder), recipe, 1),
            OURS_2: partial(pack_rate, Path(folder), recipe, 2),
            PEER: partial(_peer_rate, paths, recipe, 1),
            PEER_2: partial(_peer_rate, paths, recipe, 2),
            **peers.calls,
        }
        measured = measure_in_rounds(candidates, rounds, _say)
    return figures_of(SPEED, "images/s", measured, PAIRS + _peer_pairs(peers)), peers


def _peer_pairs(peers: Peers) -> tuple[Pair, ...]:
    return tuple(
        (ours, name)
        for library in NAMES
        for resize in ("pillow", "ours")
        for processes, ours in ((1, OURS), (2, OURS_2))
        if (name := packer_name(library, resize, processes)) in peers.calls
    )


def _say(message: str) -> None:
    Console(stderr=True).print(message, markup=False, soft_wrap=True)


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
    source: Path, recipe: PackRecipe, count: int, rounds: int, interpreters: list[str]
) -> tuple[list[Figure], Peers]:
    """Of encoded images: what is left of packing when neither decoding nor resizing is."""
    paths = _training_paths(source, recipe)[:_WRITTEN_IMAGES]
    samples = stored_samples(paths, recipe)
    peers = prepare_writers(interpreters, paths, recipe.short_side, count, _say)
    candidates: dict[str, Measurement | PeerCall] = {
        WRITER: partial(writing_rate, samples, recipe, count),
        PEER_WRITER: partial(webdataset_writing_rate, samples, recipe, count),
        **peers.calls,
    }
    measured = measure_in_rounds(candidates, rounds, _say)
    pairs = [(WRITER, name) for name in (PEER_WRITER, *peers.calls)]
    return figures_of(WRITING, "samples/s", measured, pairs), peers


def measure_fidelity(source: Path, recipe: PackRecipe) -> list[Figure]:
    """The median and the 5th percentile over the images; `runs` holds that one value."""
    paths = _training_paths(source, recipe)
    figures = []
    for name, decibels in fidelity(paths, recipe).items():
        for statistic, percentile in (("median", 50), ("5th percentile", 5)):
            value = float(np.percentile(decibels, percentile))
            figures.append(Figure.of_runs(FIDELITY, f"{name}, {statistic}", "dB", [value]))
    return figures


def run(options: argparse.Namespace, command: str) -> Result:
    parameters = circumstances(options)
    recipe = benchmark_recipe(
        options.crop_size,
        options.crop_size,
        validation_fraction=0,
        images_per_shard=_IMAGES_PER_SHARD,
    )
    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:
        source = options.source or write_shipped_parts(Path(folder))
        parameters |= {
            "source": source_label(options, SHIPPED_LABEL),
            "times that every photograph is packed": options.repeat,
            "short side, pixels": recipe.short_side,
            "JPEG quality": recipe.jpeg_quality,
            "images per shard": recipe.images_per_shard,
        }
        rounds, interpreters = options.rounds, options.peers
        speed, peers = measure_speed(source, recipe, options.repeat, rounds, interpreters)
        writing, writers = measure_writing(
            source, recipe, options.written_samples, rounds, interpreters
        )
        peers.not_measured |= writers.not_measured
        for name, reason in peers.not_measured.items():
            _say(f"{name}: not measured: {reason}")
        parameters |= peers.parameters()
        figures = speed + writing + measure_fidelity(source, recipe)
    return Result("packing", command, parameters, figures)


def main(arguments: list[str]) -> int:
    parser = benchmark_parser("packing", __doc__)
    parser.add_argument(
        "--repeat", type=int, default=4, help="times that every photograph is packed"
    )
    parser.add_argument(
        "--written-samples", type=int, default=4000, help="by the writers alone (%(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        result = run(options, command_line("packing", arguments))
        print_result(result)
        write_result(options.output, result)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"benchmarks.packing: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
