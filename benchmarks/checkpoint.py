"""What a checkpoint of the full-size networks costs: the training loop, the store, a resumption.

    python -m benchmarks.checkpoint [--steps 3] [--rounds 3] [--batch-size 1]

Real steps of the joint phase run undisturbed, beside a checkpoint that is being written to a local
disk, and beside one whose store hangs, in turn in every round.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
from rich.console import Console

from benchmarks.checkpoint_parts import HangingStore, longest_pause_s, training_state
from benchmarks.command import benchmark_parser, circumstances, command_line
from benchmarks.report import print_result
from benchmarks.result import Figure, Result, write_result
from pipeline.checkpoint import read_checkpoint, step_name, write_committed
from pipeline.checkpoint_writer import CheckpointWriter, HostCopy
from shards.storage import join_url

Runs = dict[str, list[float]]

STEP, SLOWEST = "one step, undisturbed", "slowest step, undisturbed"
COPY = "copy to host memory, which the loop waits for"
BESIDE = "cost of writing beside the steps, in steps"
HANGING = "slowest step, store hanging"
HELD = "slowest step, store hanging / slowest undisturbed and copy"
WRITE, RATE = "hashing and writing", "hashing and writing, rate"
READ, LOAD = "reading and verifying", "loading into networks and optimizers"
PAUSE, PEER_PAUSE = "writing a checkpoint", "safetensors.torch.save of the same tensors"


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure_loop(state: Any, make_step: Callable[[], None], url: str, steps: int) -> Runs:
    """One round."""
    undisturbed = [seconds(make_step) for _ in range(steps)]
    tensors = state.tensors()

    writer = CheckpointWriter(url, 1, lambda message: None)
    writer.save(0, tensors, {})  # allocates the copy, which later ones use again
    writer.close()
    copy_s = seconds(lambda: writer.save(1, tensors, {}))
    beside = [seconds(make_step) for _ in range(steps)]
    overrun_s = seconds(writer.close)  # what the steps did not cover

    with HangingStore() as store:
        hung = CheckpointWriter(store.url, 1, lambda message: None)
        hung.save(0, tensors, {})
        store.hang()
        hanging = []
        for number in range(1, steps + 1):
            began = time.perf_counter()
            make_step()
            hung.save(number, tensors, {})  # after every step: the worst that can be asked for
            hanging.append(time.perf_counter() - began)
        store.answer()
        hung.close()
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


def measure_store(state: Any, url: str) -> Runs:
    """One round, with nothing beside it."""
    copy = HostCopy()
    copy.take_(1, state.tensors(), {})
    prefix = join_url(url, step_name(1))
    files = copy.files()
    num_bytes = sum(len(data) for data in files.values())
    write_s = seconds(lambda: write_committed(prefix, files, 1))
    found = []
    read_s = seconds(lambda: found.append(read_checkpoint(prefix)))
    load_s = seconds(lambda: state.load_(found[0].tensors))
    return {
        WRITE: [write_s],
        RATE: [num_bytes / 1e6 / write_s],
        READ: [read_s],
        LOAD: [load_s],
    }


def measure_pauses(state: Any, url: str) -> Runs:
    """How long a thread that runs Python was held up, at most, by another one that saves."""
    tensors = state.tensors()
    copy = HostCopy()
    copy.take_(1, tensors, {})
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


def run(options: argparse.Namespace, command: str) -> Result:
    console = Console(stderr=True)
    torch.manual_seed(0)
    state, make_step, facts = training_state(options.batch_size, options.crop_size)
    loop, store, pauses = Runs(), Runs(), Runs()
    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:
        for number in range(options.rounds):
            console.print(f"round {number + 1} of {options.rounds}")
            for runs, measured in (
                (loop, measure_loop(state, make_step, folder, options.steps)),
                (store, measure_store(state, folder)),
                (pauses, measure_pauses(state, folder)),
            ):
                for name, values in measured.items():
                    runs.setdefault(name, []).extend(values)
    parameters = circumstances(options) | {
        "source": "full-size networks in the joint phase, random images",
        **facts,
        "steps of each kind in a round": options.steps,
        "threads of torch": torch.get_num_threads(),
    }
    units = {BESIDE: "steps", HELD: "ratio", RATE: "MB/s"}
    figures = [
        Figure.of_runs(group, name, units.get(name, "s"), values)
        for group, runs in (
            ("the training loop", loop),
            ("the store, a local disk", store),
            ("longest pause of a Python thread beside", pauses),
        )
        for name, values in runs.items()
    ]
    return Result("checkpoint", command, parameters, figures)


def main(arguments: list[str]) -> int:
    parser = benchmark_parser("checkpoint", __doc__)
    parser.add_argument("--steps", type=int, default=3, help="of each kind, in every round")
    parser.add_argument("--batch-size", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        result = run(options, command_line("checkpoint", arguments))
        print_result(result)
        write_result(options.output, result)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"benchmarks.checkpoint: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
