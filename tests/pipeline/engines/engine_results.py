"""What the engines' trials found, for their tests and for the table in docs/support-matrix.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.engines.ddp import Worker
from tests.pipeline.engines.engine_trials import ENGINES, Trial, read_batches, trial_config
from tests.shards.pictures import pack_small_set
from tests.torchrun import run, torchrun_command

# Of one step from the same state: of losses and gradient norms, and of every tensor of the state
# relative to its largest value. The same sums in another order stay far below it.
TOLERANCE = 1e-5
# Convolutions over weights in another memory format are other code, with another rounding.
LAYOUT_TOLERANCE = 0.05


def engine_results(folder: Path) -> dict[str, Any]:
    """Runs all trials: by one worker here, which is `folder`/alone, then by two under torchrun."""
    shards = pack_small_set(folder / "set", images=36, images_per_shard=7)
    config = trial_config(shards, folder / "alone", ENGINES[0])
    Trial(config, read_batches(config, Worker())).train()
    log = folder / "log"
    script = str(Path(__file__).with_name("engines_job.py"))
    command = torchrun_command(2, script, shards, str(folder))
    # On the CPU whatever the machine has: the table says so.
    assert run(command, log, timeout_s=600, CUDA_VISIBLE_DEVICES="") == 0, log.read_text()
    return {**json.loads((folder / "engines.json").read_text()), "shards": shards}


def step_agrees(row: dict[str, Any]) -> bool:
    other_layout = row["channels_last"] and row["zero_stage"] > 0
    return max(row["figures"], row["state"]) <= (LAYOUT_TOLERANCE if other_layout else TOLERANCE)


def whole_agrees(row: dict[str, Any], sensitivity: float) -> bool:
    """Whether a run has gone no further from the default engine's than its last bits explain."""
    return row["whole_figures"] <= max(sensitivity, TOLERANCE)
