"""For torchrun, on two GPUs: synchronised batch norm trains as one worker with the whole batch.

torchrun --nproc_per_node=2 tests/pipeline/device/sync_batch_norm_job.py
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
from torch import nn

from pipeline.config.schedule import Phase
from pipeline.config.schema import Config, ParallelConfig
from pipeline.engines.ddp import Worker
from pipeline.engines.start import start_worker
from pipeline.step.training_step import TrainingBatch
from tests.pipeline.step.test_precision import Cell, config_of, contents, on_device, step_of
from tests.pipeline.step.test_training_step import training_batch


def networks_after(config: Config, worker: Worker, batch: TrainingBatch) -> dict[str, torch.Tensor]:
    step = step_of(config, worker)
    for phase in Phase:
        step(phase, on_device(batch, worker.device))
    return contents(step)


def main() -> None:
    torch.relu, nn.ReLU = nn.functional.silu, nn.SiLU  # see tests/pipeline/step/test_precision.py
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
