"""For torchrun: switches that only several workers show.

    torchrun --nproc_per_node=2 tests/pipeline/device/switches_job.py SHARDS FOLDER

Under the reducer compiled networks and compressed gradients train as plain ones do, to a tolerance,
and gradients in one message to the bit, two workers having but one order to sum in; and a run in
fp16 with compressed gradients, whose dilation was chosen at its start, goes on from the middle to
the same bits, its loss scale included.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
from torch import nn

from pipeline.checkpoints.format import read_checkpoint, step_name
from pipeline.config.schedule import Phase
from pipeline.device import compilation
from pipeline.engines.ddp import BUCKET_CAP_MB, Worker
from pipeline.engines.start import start_worker
from pipeline.training.trainer import train
from tests.pipeline.step.test_precision import BF16, FP32, Cell, assert_close, config_of, trained
from tests.small_run import assert_identical, final_tensors, small_config


def check_parity(worker: Worker) -> None:
    smooth = torch.relu, nn.ReLU
    torch.relu, nn.ReLU = nn.functional.silu, nn.SiLU  # see tests/pipeline/step/test_precision.py
    phases = (Phase.COMPLETION, Phase.JOINT)
    plain = trained(config_of(Cell()), worker, phases)
    worker.compress_gradients = True
    compressed = Cell(loss=BF16["loss"], weights=0.01)  # one rounding to 8 bits, not one a layer
    result = trained(config_of(compressed), worker, phases)
    assert_close(compressed, result, plain)
    differs = any(
        not torch.equal(vector, plain.networks[phase][name])
        for phase, vectors in result.networks.items()
        for name, vector in vectors.items()
    )
    assert differs, "nothing was compressed"
    worker.compress_gradients = False
    worker.bucket_cap_mb = 0
    packed = trained(config_of(Cell()), worker, phases)
    for phase, vectors in packed.networks.items():
        for name, vector in vectors.items():
            assert torch.equal(vector, plain.networks[phase][name]), (phase, name)
    worker.bucket_cap_mb = BUCKET_CAP_MB
    compilation.BACKEND = "aot_eager"
    traced = Cell(backend="aot_eager", **FP32)
    assert_close(traced, trained(config_of(traced), worker, phases), plain)
    torch.relu, nn.ReLU = smooth


def check_resume(shards: str, folder: Path, worker: Worker) -> None:
    config = small_config(
        shards, folder / "whole", train={"precision": "fp16", "dilation": "auto"},
        parallel={"compress_gradients": True},
    )  # fmt: skip
    total = train(config, trainer_of(worker)).step
    resumed = folder / "resumed"
    source = folder / "whole" / "checkpoints" / step_name(6)
    if worker.is_main:
        shutil.copytree(source, resumed / "checkpoints" / step_name(6))
    worker.barrier()
    train(dataclasses.replace(config, folder=str(resumed)), trainer_of(worker))
    if worker.is_main:
        whole = final_tensors(folder / "whole", total)
        steps = (final_tensors(folder / "whole", step) for step in range(1, total))
        scales = {float(tensors["optimizers/loss_scale.scale"]) for tensors in steps}
        assert len(scales) > 1, "the loss scale never moved"
        assert_identical(whole, final_tensors(resumed, total))
        chosen = [read_checkpoint(str(path)).facts["dilation"] for path in (
            source, resumed / "checkpoints" / step_name(total))]  # fmt: skip
        assert chosen[0] == chosen[1]


def trainer_of(worker: Worker) -> Worker:
    """A worker as a process of its own would have it, whose loss scale moves often."""
    fresh = Worker(
        rank=worker.rank, world_size=worker.world_size, local_rank=worker.local_rank,
        local_world_size=worker.local_world_size, precision="fp16", compress_gradients=True,
    )  # fmt: skip
    assert fresh.scaler is not None
    fresh.scaler.set_growth_interval(4)
    return fresh


def main(shards: str, folder: Path) -> None:
    worker = start_worker(small_config(shards, folder))
    check_parity(worker)
    check_resume(shards, folder, worker)
    print(f"rank {worker.rank}: checked", flush=True)
    worker.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
