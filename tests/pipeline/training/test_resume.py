"""Runs that are cut off anywhere and go on, by real torchrun jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.checkpoints.format import committed_steps
from tests.shards.pictures import pack_small_set
from tests.small_run import assert_identical, final_tensors, small_mapping, write_preset
from tests.torchrun import job, kill, run, torchrun_command, train_command, wait_for

pytestmark = [pytest.mark.dist, pytest.mark.slow]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack_small_set(tmp_path_factory.mktemp("set"), images=36, images_per_shard=7)


# Three workers too: only then does the order in which gradients are summed matter.
@pytest.mark.parametrize(("workers", "precision"), [(2, "bf16"), (3, "fp32")])
def test_a_run_resumed_at_any_step_of_any_phase_ends_in_the_same_bits(
    workers: int, precision: str, shards: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    script = str(HERE / "resume_everywhere.py")
    command = torchrun_command(workers, script, shards, str(tmp_path), precision)
    assert run(command, log, timeout_s=420) == 0, log.read_text()
    assert log.read_text().count(": identical") == 11


def test_a_run_killed_in_the_middle_ends_in_the_bits_of_one_that_was_not(
    shards: str, tmp_path: Path
) -> None:
    schedule = {"completion": 6, "discriminator": 4, "joint": 8}
    checkpoint = {"every_steps": 2, "keep": 3}
    folders = {name: tmp_path / name for name in ("whole", "killed")}
    presets = {
        name: write_preset(
            tmp_path / f"{name}.yaml",
            # Wide enough that a step takes a while: the kill must come before the next checkpoint.
            small_mapping(
                shards, folder, schedule=schedule, checkpoint=checkpoint, completion={"width": 64}
            ),
        )
        for name, folder in folders.items()
    }
    log = tmp_path / "log"
    assert run(train_command(2, presets["whole"]), log) == 0, log.read_text()
    checkpoints = folders["killed"] / "checkpoints"
    # In the middle of each phase and at its edges, which lie at 6 and 10.
    for reached in (2, 6, 8, 10, 14):
        with job(train_command(2, presets["killed"]), log) as process:
            wait_for(
                lambda reached=reached: any(
                    s >= reached for s in committed_steps(str(checkpoints))
                ),
                process,
                log,
            )
            kill(process)
        assert max(committed_steps(str(checkpoints))) <= reached + 2, "killed elsewhere than meant"
    assert run(train_command(2, presets["killed"]), log) == 0, log.read_text()
    assert_identical(final_tensors(folders["whole"], 18), final_tensors(folders["killed"], 18))
    lines = (folders["killed"] / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps), "the record of a resumed run has no step twice"
