"""For torchrun, on two workers: networks and losses that are not the default ones, each trained
whole, stopped and resumed in every phase.

    torchrun --nproc_per_node=2 tests/pipeline/training/experiments_job.py SHARDS FOLDER
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from pipeline.checkpoints.format import step_name
from pipeline.engines.ddp import Worker
from pipeline.engines.start import start_worker
from pipeline.reporting.metrics_log import read_metrics
from pipeline.training.trainer import train
from tests.small_run import assert_identical, final_tensors, small_config

EXPERIMENTS: dict[str, dict[str, Any]] = {
    "DAM": {
        "completion": {"kind": "dam", "attention_kernel": 3},
        "loss": {"alpha": "auto", "map_weight": 0.1, "map_region": "hole"},
        "train": {"precision": "bf16"},
    },
    "joins alone": {"completion": {"kind": "dam", "attention_maps": "zero"}},
    "author's DAM": {
        "completion": {"kind": "dam", "attention_form": "author"},
        "loss": {"map_region": "known"},
        "train": {"precision": "bf16", "micro_batch_size": 3},
    },
    "U-Net": {
        "completion": {"kind": "unet", "gate_skips": True, "depth": 3},
        "discriminator": {"local_patch": "all_holes"},
        "loss": {
            "reconstruction": "masked", "masked_mean": "hole", "error": "absolute",
            "discriminator_input": "raw", "real_patch": "same", "r1_weight": 1.0,
            "real_label": 0.9,
        },
    },
}  # fmt: skip
RESUMED_AT = (2, 5, 9)  # one step of each phase
SHOWN = {
    "DAM": ("map_distance", "alpha", "gradient_ratio"),
    "joins alone": (),
    "author's DAM": ("map_distance",),
    "U-Net": ("discriminator_slope",),
}


def main(shards: str, folder: Path) -> None:
    worker: Worker = start_worker(small_config(shards, folder))
    for name, changes in EXPERIMENTS.items():
        config = small_config(shards, folder / name / "whole", **changes)
        worker.precision = config.train.precision  # one process group for all
        total = train(config, worker).step
        records = read_metrics(config.run_folder)
        for figure in SHOWN[name]:
            assert any(figure in record for record in records), (figure, records)
        for step in RESUMED_AT:
            resumed = folder / name / f"from-{step}"
            if worker.is_main:
                source = folder / name / "whole" / "checkpoints" / step_name(step)
                shutil.copytree(source, resumed / "checkpoints" / step_name(step))
            worker.barrier()
            assert train(dataclasses.replace(config, folder=str(resumed)), worker).step == total
            if worker.is_main:
                whole = final_tensors(folder / name / "whole", total)
                assert_identical(whole, final_tensors(resumed, total))
                print(f"{name} resumed at step {step} of {total}: identical", flush=True)
    worker.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
