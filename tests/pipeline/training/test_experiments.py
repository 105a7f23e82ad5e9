"""Networks and losses beside the default ones, in whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.training.experiments_job import EXPERIMENTS, RESUMED_AT
from tests.shards.pictures import pack_small_set
from tests.torchrun import run, torchrun_command


@pytest.mark.dist
@pytest.mark.slow
def test_each_trains_on_two_workers_and_resumes_to_the_bit_in_every_phase(tmp_path: Path) -> None:
    shards = pack_small_set(tmp_path, images=36, images_per_shard=7, holes_per_mask=2)
    log = tmp_path / "log"
    script = str(Path(__file__).parent / "experiments_job.py")
    assert run(torchrun_command(2, script, shards, str(tmp_path / "runs")), log) == 0, (
        log.read_text()
    )
    for name in EXPERIMENTS:
        for step in RESUMED_AT:
            assert f"{name} resumed at step {step} of 12: identical" in log.read_text()
