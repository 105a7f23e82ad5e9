"""For torchrun: a run undisturbed, with the number of workers at each step that is asked for.

    torchrun --nproc_per_node=2 tests/k8s/replay_job.py 120:2,31:1,209:2 --config PRESET

So many steps by so many workers, one after another, each part resuming where the one before ended.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch.distributed as dist

from launch.support.arguments import parse_with_config
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.engines.start import start_worker
from pipeline.training.trainer import train

RANK = int(os.environ["RANK"])


def stop_after(worker: Worker, steps: int) -> Worker:
    """At exactly this step, while a signal would be agreed upon."""
    made = 0

    def has_come(flag: bool) -> bool:
        nonlocal made
        made += 1
        return made == steps

    worker.raised_anywhere = has_come
    return worker


def train_part(config: Config, steps: int, workers: int) -> None:
    if workers > RANK:
        os.environ["WORLD_SIZE"] = str(workers)
        train(config, stop_after(start_worker(config), steps))
    dist.barrier()


def main(parts: str, arguments: list[str]) -> None:
    _, config = parse_with_config(argparse.ArgumentParser(), arguments)
    dist.init_process_group("gloo")
    for part in parts.split(","):
        steps, _, workers = part.partition(":")
        train_part(config, int(steps), int(workers))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
