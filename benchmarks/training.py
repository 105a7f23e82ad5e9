"""Times of training steps in each phase, on this device and among these workers, on random images.

    python -m benchmarks.training --config places2 [--steps 10] [--rounds 5] [--output URL]
    torchrun --nproc_per_node=8 -m benchmarks.training --config places2

The batch of the configuration is shared by all workers. No data are read. Rank 0 prints the result
as one line of JSON, and its tables on standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console

from benchmarks.command import command_line
from benchmarks.report import print_result
from benchmarks.result import Figure, Result
from launch.arguments import parse_with_config
from pipeline.config import Config
from pipeline.config_faults import world_size_faults
from pipeline.preflight import world_size_from_environment
from pipeline.schedule import Phase
from pipeline.state import RunState
from pipeline.step import TrainingBatch, TrainingStep
from pipeline.workers import Worker, start_worker
from shards.storage import write_bytes

_WARM_UP = 3  # steps of each phase that are not measured: they allocate, compile and choose


def random_batch(config: Config, worker: Worker) -> TrainingBatch:
    """A worker's share of a batch, with the hole in a corner."""
    share, size = config.train.batch_size // worker.world_size, config.crop_size
    patch = config.discriminator.local_size
    masks = torch.zeros(share, 1, size, size, device=worker.device)
    masks[:, :, : patch // 2, : patch // 2] = 1
    corners = torch.zeros(share, 2, dtype=torch.int64, device=worker.device)
    return TrainingBatch(
        torch.rand(share, 3, size, size, device=worker.device), masks, corners, corners
    )


def measure(config: Config, worker: Worker, steps: int, rounds: int) -> dict[Phase, list[float]]:
    """Seconds of a step, the mean of `steps`, in each round. Collective: every rank must call."""
    # Of the data the networks only take their mean colour.
    state = RunState(config, worker, SimpleNamespace(mean_color=(0.5, 0.5, 0.5)))  # type: ignore[arg-type]
    step = TrainingStep(
        state.completion, state.discriminator, config.loss, config.discriminator.local_size,
        worker, config.train.micro_batch_size,
    )  # fmt: skip
    batch = random_batch(config, worker)
    for phase in Phase:
        _seconds(step, phase, batch, worker, _WARM_UP)
    runs: dict[Phase, list[float]] = {phase: [] for phase in Phase}
    for _ in range(rounds):
        for phase in Phase:
            runs[phase].append(_seconds(step, phase, batch, worker, steps) / steps)
    return runs


def _seconds(
    step: TrainingStep, phase: Phase, batch: TrainingBatch, worker: Worker, steps: int
) -> float:
    _settle(worker)
    begin = time.perf_counter()
    for _ in range(steps):
        step(phase, batch)
    _settle(worker)
    return time.perf_counter() - begin


def _settle(worker: Worker) -> None:
    """Until every rank has finished what it was told."""
    if worker.device.type == "cuda":
        torch.cuda.synchronize(worker.device)
    worker.all_reduce_sum_(torch.zeros(1)).item()


def result_of(
    config: Config, worker: Worker, runs: dict[Phase, list[float]], command: str, steps: int
) -> Result:
    batch_size = config.train.batch_size
    figures = []
    for phase, seconds in runs.items():
        rates = [batch_size / one for one in seconds]
        figures.append(Figure.of_runs("a step", phase.value, "s", seconds))
        figures.append(Figure.of_runs("throughput", phase.value, "images/s", rates))
    on_gpu = worker.device.type == "cuda"
    parameters: dict[str, Any] = {
        "source": "random images",
        "device": torch.cuda.get_device_name(worker.device) if on_gpu else "CPU",
        "workers": worker.world_size,
        "workers on each machine": worker.local_world_size,
        "batch size": batch_size,
        "crop size, pixels": config.crop_size,
        "precision": config.train.precision,
        "engine": config.parallel.engine,
        "steps in a round": steps,
        "rounds": len(runs[Phase.JOINT]),
    }
    return Result("training", command, parameters, figures)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="of each phase, in every round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", metavar="URL", default="", help="also written there, as JSON")
    try:
        options, config = parse_with_config(parser, arguments)
        faults = world_size_faults(config, world_size_from_environment())
        if faults or min(options.steps, options.rounds) < 1:
            raise ValueError("; ".join(faults) or "--steps and --rounds: at least 1")
        worker = start_worker(config)
        runs = measure(config, worker, options.steps, options.rounds)
        if worker.is_main:
            command = command_line("training", arguments)
            result = result_of(config, worker, runs, command, options.steps)
            _publish(result, options.output)
        worker.close()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"benchmarks.training: {error}", file=sys.stderr)
        return 1
    return 0


def _publish(result: Result, url: str) -> None:
    content = asdict(result)
    print_result(result, Console(stderr=True))
    print(json.dumps(content), flush=True)
    if url:
        write_bytes(url, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
