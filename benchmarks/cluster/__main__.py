"""How training scales with the number of workers: measured, and projected by a model of it.

    torchrun --nproc_per_node=8 -m benchmarks.cluster --config places2 --output URL
        one world size, on any number of nodes: steps of every phase for several numbers of images
        a worker, with gradients exchanged and without, and all-reduces from 1 KiB on
    python -m benchmarks.cluster --join RESULT.json RESULT.json ...
        several world sizes in one result, with a page and plots: efficiency, the model and its
        errors where it was not fitted, the projection
    python -m benchmarks.cluster --workers 1 2 --config quickstart
        both on one machine: a launch for each world size, one after another, and the join

No data are read. A launch prints its result as one line of JSON, its tables on standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.cluster.join import join, launch_all
from benchmarks.harness.all_reduce import SMALLEST_BYTES, measure_all_reduce, message_sizes
from benchmarks.harness.command_line import command_line
from benchmarks.harness.result import RESULTS_FOLDER
from benchmarks.harness.tables import print_result, publish
from benchmarks.scaling.gradient_messages import work_of_phases
from benchmarks.scaling.projected_preset import JoinOptions
from benchmarks.scaling.result import result_of_launch
from benchmarks.training.step_times import measure_steps
from launch.support.arguments import parse_with_config
from pipeline.config.schema import Config
from pipeline.engines.start import start_worker
from pipeline.training.preflight import world_size_from_environment

_DEFAULT_OUTPUT = RESULTS_FOLDER / "cluster.json"


def cluster_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="of each kind, in every round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--images", type=int, nargs="+", metavar="N", help="of a worker, for weak scaling; "
        "default: an eighth, a quarter, a half and all of the configuration's batch",
    )  # fmt: skip
    parser.add_argument(
        "--largest-message", type=int, metavar="BYTES",
        help="of the all-reduces; default: all gradients of the larger exchange",
    )  # fmt: skip
    parser.add_argument("--note", default="", help="about the run, for the reader of the results")
    parser.add_argument("--output", metavar="URL", default="", help="also written there, as JSON")
    parser.add_argument("--workers", type=int, nargs="+", metavar="W", help="world sizes to launch")
    parser.add_argument("--join", type=Path, nargs="+", metavar="RESULT", help="results to join")
    parser.add_argument(
        "--gpu-result", type=Path, metavar="FILE",
        help="of one GPU, by benchmarks.cluster or benchmarks.training: the projection computes as "
        "it was measured there, not as assumed",
    )  # fmt: skip
    parser.add_argument(
        "--project", metavar="PRESET", default="places2", help="what is projected; default: places2"
    )
    return parser


def main(arguments: list[str]) -> int:
    try:
        options, config = parse_with_config(cluster_parser(), arguments)
        _require_usable(options, config)
        if options.join:
            return _join(options, options.join, arguments)
        if options.workers:
            output = Path(options.output or _DEFAULT_OUTPUT)
            results = launch_all(options.workers, _launch_arguments(arguments), output)
            return _join(options, results, arguments)
        _measure(options, config, arguments)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"benchmarks.cluster: {error}", file=sys.stderr)
        return 1
    return 0


def _join(options: argparse.Namespace, results: Sequence[Path], arguments: list[str]) -> int:
    output = Path(options.output or _DEFAULT_OUTPUT)
    command = command_line("cluster", arguments)
    joining = JoinOptions(output, command, options.project, options.gpu_result, options.note)
    print_result(join(results, joining), Console(stderr=True))
    print(f"{output}, {output.with_suffix('.md')}")
    return 0


def _measure(options: argparse.Namespace, config: Config, arguments: list[str]) -> None:
    world_size = world_size_from_environment()
    images = images_of_workers(config, world_size, options.images)
    worker = start_worker(config)

    def progress(message: str) -> None:
        if worker.is_main:
            print(f"{world_size} workers: {message}", file=sys.stderr, flush=True)

    load = round(os.getloadavg()[0], 2)
    steps = measure_steps(config, worker, images, options.steps, options.rounds, progress)
    messages: dict[int, list[float]] = {}
    if world_size > 1:
        dtype = torch.bfloat16 if config.parallel.compress_gradients else torch.float32
        largest = options.largest_message or _largest_all_reduce(config)
        messages = measure_all_reduce(worker, message_sizes(largest), options.rounds, dtype)
    if worker.is_main:
        parameters: dict[str, Any] = {
            "batch of all workers, for strong scaling": config.train.batch_size,
            "steps in a round": options.steps,
            "rounds": options.rounds,
            "load average at the start": load,
        }
        if options.note:
            parameters["note"] = options.note
        command = command_line("cluster", arguments)
        publish(
            result_of_launch(config, worker, steps, messages, command, parameters), options.output
        )
    worker.barrier()  # the others wait for what rank 0 writes: none leaves a group that is in use
    worker.close()


def images_of_workers(config: Config, world_size: int, weak: Sequence[int] | None) -> list[int]:
    """Images of each worker that are measured: those for weak scaling, and a worker's share of the
    configuration's batch, for strong scaling, where it can be shared.
    """
    batch_size = config.train.batch_size
    sizes = set(weak or [max(1, batch_size // part) for part in (8, 4, 2, 1)])
    if batch_size % world_size == 0:
        sizes.add(batch_size // world_size)
    return sorted(sizes)


def _largest_all_reduce(config: Config) -> int:
    scale = 2 if config.parallel.compress_gradients else 1
    sizes = [
        all_reduce.network.num_bytes
        for work in work_of_phases(config).values()
        for all_reduce in work.all_reduces
    ]
    return max(sizes) // scale


def _require_usable(options: argparse.Namespace, config: Config) -> None:
    """Raises ValueError with every error."""
    errors = []
    if min(options.steps, options.rounds) < 1:
        errors.append("--steps and --rounds: at least 1")
    if options.images and min(options.images) < 1:
        errors.append("--images: at least 1 for each worker")
    if options.largest_message is not None and options.largest_message < SMALLEST_BYTES:
        errors.append(f"--largest-message: at least {SMALLEST_BYTES} bytes")
    if options.workers and options.join:
        errors.append("--workers measures and joins, --join joins alone: give one of them")
    if options.workers and world_size_from_environment() > 1:
        errors.append("--workers starts torchrun itself: leave it out under torchrun")
    if options.workers and 1 not in options.workers:
        errors.append("--workers: efficiency is counted from one worker; name 1 as well")
    if options.workers and min(options.workers) < 1:
        errors.append("--workers: at least 1 each")
    if config.parallel.engine != "ddp":
        errors.append(
            f"parallel.engine is {config.parallel.engine}: what is measured and modelled are the "
            "messages of ddp; set --parallel.engine ddp"
        )
    if config.train.micro_batch_size:
        errors.append(
            f"train.micro_batch_size is {config.train.micro_batch_size}: steps are measured and "
            "modelled without; set --train.micro-batch-size 0"
        )
    errors += _sharing_errors(options, config)
    if errors:
        raise ValueError("; ".join(errors))


def _sharing_errors(options: argparse.Namespace, config: Config) -> list[str]:
    """Only where the world sizes are asked for here: a cluster may have any."""
    sizes, batch_size = options.workers or [], config.train.batch_size
    return [
        f"train.batch_size is {batch_size}, which {size} workers cannot share equally; set another "
        "--train.batch-size for strong scaling"
        for size in sizes
        if size > 0 and batch_size % size
    ]


def _launch_arguments(arguments: list[str]) -> list[str]:
    """Return those of one launch, without what only the join needs."""
    own = {"--workers", "--output", "--gpu-result", "--project"}
    kept, dropping = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if argument.startswith("--"):
            dropping = name in own and not equals
            if name in own:
                continue
        if not dropping:
            kept.append(argument)
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
