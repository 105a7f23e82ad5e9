"""For torchrun, on two GPUs: synchronised batch norm trains as one worker with the whole batch.

torchrun --nproc_per_node=2 tests/pipeline/sync_batch_norm_job.py
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn

from pipeline.config import Config, ParallelConfig
from pipeline.schedule import Phase
from pipeline.step import TrainingBatch
from pipeline.workers import Worker, start_worker
from tests.pipeline.test_precision import Cell, config_of, contents, on_device, step_of
from tests.pipeline.test_step import training_batch


def networks_after(config: Config, worker: Worker, batch: TrainingBatch) -> dict[str, torch.Tensor]:
    step = step_of(config, worker)
    for phase in Phase:
        step(phase, on_device(batch, worker.device))
    return contents(step)


def main() -> None:
    torch.relu, nn.ReLU = nn.functional.silu, nn.SiLU  # see tests/pipeline/test_precision.py
    config = config_of(Cell())
    synchronised = dataclasses.replace(config, parallel=ParallelConfig(sync_batch_norm=True))
    worker = start_worker(synchronised)
    batch = training_batch()
    found = networks_after(synchronised, worker, batch.split(2)[worker.rank])
    expected = networks_after(config, Worker(device=worker.device), batch)
    for name, vector in expected.items():
        difference = float((found[name] - vector).norm() / vector.norm())
        assert difference < 1e-5, (name, difference)
    print(f"rank {worker.rank}: checked", flush=True)
    worker.close()


if __name__ == "__main__":
    main()
