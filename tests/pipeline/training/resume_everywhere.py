"""For torchrun: trains a small run whole, then from each of its checkpoints anew.

    torchrun --nproc_per_node=2 tests/pipeline/training/resume_everywhere.py SHARDS FOLDER PRECISION

Each resumed run sees one checkpoint alone, as a killed run would have left it, and must end in the
bits of the whole one.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from pipeline.checkpoints.format import step_name
from pipeline.engines.start import start_worker
from pipeline.training.trainer import train
from tests.small_run import assert_identical, final_tensors, small_config


def main(shards: str, folder: Path, precision: str) -> None:
    # Sheets and evaluations are made on the way, and must leave the training as it is.
    config = small_config(
        shards, folder / "whole", train={"precision": precision},
        log={"sheet_every_steps": 5}, evaluation={"every_steps": 4},
    )  # fmt: skip
    worker = start_worker(config)
    total = train(config, worker).step
    for step in range(1, total):
        resumed = folder / f"from-{step}"
        if worker.is_main:
            source = folder / "whole" / "checkpoints" / step_name(step)
            shutil.copytree(source, resumed / "checkpoints" / step_name(step))
        worker.barrier()
        outcome = train(dataclasses.replace(config, folder=str(resumed)), worker)
        assert outcome.step == total
        if worker.is_main:
            assert_identical(final_tensors(folder / "whole", total), final_tensors(resumed, total))
            print(f"resumed at step {step} of {total}: identical", flush=True)
    worker.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
