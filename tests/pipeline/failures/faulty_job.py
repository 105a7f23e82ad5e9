"""For torchrun: `glcic train` in which something goes wrong at one step.

    torchrun --nproc_per_node=2 tests/pipeline/failures/faulty_job.py FAULT --config PRESET

FAULT is one of the functions below; they change what training calls.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch

from launch import train
from launch.command import run
from pipeline.checkpoints import format as checkpoint
from pipeline.step.training_step import TrainingBatch, TrainingStep
from pipeline.training import run_outputs

RANK = int(os.environ.get("RANK", "0"))
STEP = 6  # of twelve, counted from one: in the discriminator's phase


def at_the_step(fault: Callable[[TrainingBatch], None]) -> None:
    """On rank 1 alone."""
    make_step = TrainingStep.__call__
    steps = 0

    def make_or_fail(self, phase, batch):
        nonlocal steps
        steps += 1
        if steps == STEP and RANK == 1:
            fault(batch)
        return make_step(self, phase, batch)

    TrainingStep.__call__ = make_or_fail


def loops_for_ever() -> None:
    def loop(batch: TrainingBatch) -> None:
        while True:
            time.sleep(0.01)

    at_the_step(loop)


def is_stopped() -> None:
    at_the_step(lambda batch: os.kill(os.getpid(), signal.SIGSTOP))


def runs_out_of_memory() -> None:
    # More than any machine has: the allocator's own error.
    at_the_step(lambda batch: torch.empty(1 << 55, dtype=torch.uint8))


def has_a_nan() -> None:
    """Afterwards each rank says what its state is."""
    at_the_step(lambda batch: batch.images[0, 0, 0, 0].fill_(torch.nan))
    finish = run_outputs.RunOutputs.finish

    def say_and_finish(self, step: int):
        digest = hashlib.sha256()
        for group in self.state.tensors().values():
            for name, tensor in sorted(group.items()):
                assert tensor.isfinite().all(), name
                digest.update(tensor.contiguous().numpy().tobytes())
        print(f"rank {RANK} holds {digest.hexdigest()} after step {step}", flush=True)
        return finish(self, step)

    run_outputs.RunOutputs.finish = say_and_finish


def dies_while_saving() -> None:
    """Rank 0, once, with all files of a checkpoint written but its mark."""
    write_bytes = checkpoint.write_bytes

    def write_or_die(url: str, data) -> None:
        if url.endswith(f"step-{STEP:09d}/{checkpoint.COMMITTED}"):
            os.kill(os.getpid(), signal.SIGKILL)
        write_bytes(url, data)

    checkpoint.write_bytes = write_or_die


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    sys.exit(run("train", train.main, sys.argv[2:]))
