"""What a checkpoint of the full-size networks costs: the training loop, the store, a resumption.

    python -m benchmarks.checkpoint [--steps 3] [--rounds 3] [--batch-size 1]
    torchrun --nproc_per_node=8 -m benchmarks.checkpoint --config places2 --store URL --output URL

Real steps of the joint phase run undisturbed, beside a checkpoint that is being written, and beside
one whose store hangs, in turn in every round. Under torchrun all workers make them, rank 0 saves as
in training, and the result is what the slowest worker waited.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

# The reducer warns of a flag that it is given on purpose (see pipeline/engines/ddp.py).
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import safetensors.torch
import torch

from benchmarks.checkpoint.parts import (
    HangingStore,
    checkpoint_store,
    longest_pause_s,
    training_state,
)
from benchmarks.harness.command_line import (
    batch_of_worker,
    benchmark_parser,
    chosen_crop_size,
    command_line,
    environment,
    exit_status,
    is_configured,
)
from benchmarks.harness.launched_workers import Workers
from benchmarks.harness.result import Measurement, Result
from benchmarks.harness.tables import publish
from launch.support.arguments import parse_with_config
from pipeline.checkpoints.format import read_checkpoint, step_name, write_committed
from pipeline.checkpoints.writer import CheckpointWriter, HostCopy
from pipeline.config.loading import parse_config
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.engines.start import start_worker
from pipeline.training.preflight import world_size_from_environment
from pipeline.training.resume import broadcast_checkpoint
from shards.storage.files import is_local, join_url

Runs = dict[str, list[float]]

STEP, SLOWEST = "one step, undisturbed", "slowest step, undisturbed"
COPY = "copy to host memory, which the loop waits for"
BESIDE = "cost of writing beside the steps, in steps"
HANGING = "slowest step, store hanging"
HELD = "slowest step, store hanging / slowest undisturbed and copy"
WRITE, RATE = "hashing and writing", "hashing and writing, rate"
READ, LOAD = "reading and verifying", "loading into networks and optimizers"
SEND = "sending to the other workers"
PAUSE, PEER_PAUSE = "writing a checkpoint", "safetensors.torch.save of the same tensors"


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def slowest(worker: Worker, values: list[float]) -> list[float]:
    """Of each the longest that any worker took. Collective: every rank must call."""
    every = worker.all_gather(torch.tensor(values, dtype=torch.float64))
    return every.view(worker.world_size, -1).amax(0).tolist()


def measure_loop(
    state: Any, make_step: Callable[[], None], url: str, steps: int, worker: Worker
) -> Runs:
    """Measure one round. Collective: every rank must call."""
    undisturbed = [seconds(make_step) for _ in range(steps)]
    tensors = state.tensors()

    def save(writer: CheckpointWriter, step: int) -> None:
        """As the trainer does: the other ranks wait until rank 0 has its copy."""
        worker.on_main(lambda: writer.save(step, tensors, {}))

    writer = CheckpointWriter(url, 1, lambda message: None)
    save(writer, 0)  # allocates the copy, which later ones use again
    worker.on_main(writer.close)
    copy_s = seconds(lambda: save(writer, 1))
    beside = [seconds(make_step) for _ in range(steps)]
    overrun_s = seconds(lambda: worker.on_main(writer.close))  # what the steps did not cover

    with HangingStore() as store:
        hung = CheckpointWriter(store.url, 1, lambda message: None)
        save(hung, 0)
        store.hang()
        hanging = []
        for number in range(1, steps + 1):
            began = time.perf_counter()
            make_step()
            save(hung, number)  # after every step: the worst that can be asked for
            hanging.append(time.perf_counter() - began)
        store.answer()
        worker.on_main(hung.close)
    undisturbed, beside, hanging = (slowest(worker, s) for s in (undisturbed, beside, hanging))
    copy_s, overrun_s = slowest(worker, [copy_s, overrun_s])
    mean_s = sum(undisturbed) / steps
    return {
        STEP: [mean_s],
        SLOWEST: [max(undisturbed)],
        COPY: [copy_s],
        BESIDE: [(sum(beside) - sum(undisturbed)) / mean_s],
        "writing that was left after these steps": [overrun_s],
        HANGING: [max(hanging)],
        HELD: [max(hanging) / (max(undisturbed) + copy_s)],
    }


def measure_store(state: Any, url: str, worker: Worker) -> Runs:
    """Measure one round, with nothing beside it. Collective: every rank must call."""
    tensors = state.tensors()
    prefix = join_url(url, step_name(1))

    def write() -> tuple[int, float]:
        copy = HostCopy()
        copy.fill_(1, tensors, {})
        files = copy.files()
        write_s = seconds(lambda: write_committed(prefix, files, 1))
        return sum(len(data) for data in files.values()), write_s

    def read() -> tuple[Any, float]:
        began = time.perf_counter()
        return read_checkpoint(prefix), time.perf_counter() - began

    num_bytes, write_s = worker.on_main(write) or (0, 1.0)
    found, read_s = worker.on_main(read) or (None, 0.0)
    began = time.perf_counter()
    _, received = broadcast_checkpoint(found, worker)
    send_s = time.perf_counter() - began
    load_s = seconds(lambda: state.load_(received))
    send_s, load_s = slowest(worker, [send_s, load_s])
    sent = {SEND: [send_s]} if worker.world_size > 1 else {}
    rate = num_bytes / 1e6 / write_s
    return {WRITE: [write_s], RATE: [rate], READ: [read_s], **sent, LOAD: [load_s]}


def measure_pauses(state: Any, url: str) -> Runs:
    """Return how long a thread that runs Python was held up, at most, by another one that saves. Of
    one rank.
    """
    tensors = state.tensors()
    copy = HostCopy()
    copy.fill_(1, tensors, {})
    plain = {
        stem: {name: tensor.contiguous() for name, tensor in group.items()}
        for stem, group in tensors.items()
    }
    prefix = join_url(url, step_name(2))

    def save_as_the_library_does() -> None:
        for group in plain.values():
            safetensors.torch.save(group)

    return {
        PAUSE: [longest_pause_s(lambda: write_committed(prefix, copy.files(), 2))],
        PEER_PAUSE: [longest_pause_s(save_as_the_library_does)],
    }


def run(options: argparse.Namespace, config: Config, worker: Worker, command: str) -> Result:
    torch.manual_seed(0)
    workers = Workers(worker.rank, worker.world_size, worker.local_rank, worker.local_world_size)
    parameters = environment(options, workers)
    state, make_step, facts = training_state(config, worker)
    loop, store, pauses = Runs(), Runs(), Runs()
    url = options.store or (config.folder and join_url(config.folder, "benchmarks"))
    # Rank 0 alone writes to it.
    with checkpoint_store(url if worker.is_main else "") as folder:
        for number in range(options.rounds):
            workers.log_message(f"round {number + 1} of {options.rounds}")
            for runs, measured in (
                (loop, measure_loop(state, make_step, folder, options.steps, worker)),
                (store, measure_store(state, folder, worker)),
                (pauses, worker.on_main(lambda: measure_pauses(state, folder)) or {}),
            ):
                for name, values in measured.items():
                    runs.setdefault(name, []).extend(values)
    networks = f"networks of {config.name}" if options.configured else "full-size networks"
    parameters |= {
        "source": f"{networks} in the joint phase, random images",
        **facts,
        "steps of each kind in a round": options.steps,
        "threads of torch": torch.get_num_threads(),
    }
    units = {BESIDE: "steps", HELD: "ratio", RATE: "MB/s"}
    place = "a local disk" if not url or is_local(url) else url.partition("://")[0]
    figures = [
        Measurement.of_runs(group, name, units.get(name, "s"), values)
        for group, runs in (
            ("the training loop", loop),
            (f"the store, {place}", store),
            ("longest pause of a Python thread beside", pauses),
        )
        for name, values in runs.items()
    ]
    return Result("checkpoint", command, parameters, figures)


def _measured_config(options: argparse.Namespace, config: Config, world_size: int) -> Config:
    """Without a configuration the full-size networks, in single precision."""
    options.configured = is_configured(options, config)
    if not options.configured:
        train = {"batch_size": (options.batch_size or 1) * world_size, "precision": "fp32"}
        crop_size = chosen_crop_size(options, config)
        return parse_config({"pack": {"crop_size": crop_size}, "train": train})
    if options.crop_size:
        raise ValueError("--crop-size with a configuration: give --pack.crop-size instead")
    if options.batch_size:
        own = dataclasses.replace(config.train, batch_size=options.batch_size * world_size)
        config = dataclasses.replace(config, train=own)
    batch_of_worker(config, Workers(world_size=world_size))
    return config


def main(arguments: list[str]) -> int:
    parser = benchmark_parser("checkpoint", __doc__)
    parser.add_argument("--steps", type=int, default=3, help="of each kind, in every round")
    parser.add_argument(
        "--batch-size",
        type=int,
        help="of each worker; default: its share of the configuration's, if any of it is given, "
        "else 1",
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        default="",
        help="what the checkpoints are written to, and removed from; default: `benchmarks` in the "
        "run's folder, if --folder is given, else a temporary folder",
    )

    def measure() -> None:
        options, config = parse_with_config(parser, arguments)
        world_size = world_size_from_environment()
        config = _measured_config(options, config, world_size)
        # Alone, without a configuration, it measures on the CPU, with torch's own threads.
        started = options.configured or world_size > 1
        with closing(start_worker(config, engine="ddp") if started else Worker()) as worker:
            result = run(options, config, worker, command_line("checkpoint", arguments))
            worker.on_main(lambda: publish(result, options.output))

    return exit_status("benchmarks.checkpoint", measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
