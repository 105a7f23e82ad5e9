"""ProcessGroup that hang, die, run out of memory or see a NaN, by real torchrun jobs."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from pipeline.checkpoints.format import COMMITTED, committed_steps, step_name
from tests.pipeline.failures.faulty_job import STEP
from tests.shards.pictures import pack_small_set
from tests.small_run import small_mapping, write_preset
from tests.torchrun import job, run, torchrun_command, wait_for

pytestmark = [pytest.mark.dist, pytest.mark.slow]
LAST_STEP = 12


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack_small_set(tmp_path_factory.mktemp("set"), images=36, images_per_shard=7)


def faulty_run(fault: str, preset: Path, log: Path) -> int:
    script = str(Path(__file__).parent / "faulty_job.py")
    return run(torchrun_command(2, script, fault, "--config", str(preset)), log)


def preset_of(shards: str, tmp_path: Path, name: str = "run", **train: object) -> Path:
    mapping = small_mapping(shards, tmp_path / name)
    mapping["train"] |= train
    return write_preset(tmp_path / f"{name}.yaml", mapping)


@pytest.mark.parametrize("fault", ["loops_for_ever", "is_stopped"])
def test_a_rank_that_hangs_ends_the_job_and_says_where(
    fault: str, shards: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    assert faulty_run(fault, preset_of(shards, tmp_path, timeout_s=8), log) != 0
    told = log.read_text()
    assert f"rank 1 hangs: step {STEP} (discriminator) has not ended within 8 s" in told
    assert re.search(r"faulty_job.py.* in make_or_fail", told), "the stack of the hung thread"
    assert told.count("Traceback") == 1, "but that of torchrun"
    # All that was saved before is there, and the run could go on.
    assert max(committed_steps(str(tmp_path / "run" / "checkpoints"))) == STEP - 1


def test_a_batch_that_does_not_fit_ends_all_ranks_with_the_memory_account(
    shards: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    assert faulty_run("runs_out_of_memory", preset_of(shards, tmp_path), log) != 0
    told = log.read_text()
    assert f"rank 1 ran out of memory in step {STEP} (discriminator)" in told
    assert "6 samples for each of 2 workers, 6 at a time" in told
    assert "--train.micro-batch-size 3" in told
    assert told.count("Traceback") == 1, "but that of torchrun"


def test_a_nan_on_one_rank_is_left_out_on_both_and_neither_drifts_from_the_other(
    shards: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    assert faulty_run("has_a_nan", preset_of(shards, tmp_path), log) == 0, log.read_text()
    states = re.findall(r"rank \d holds (\w+) after step 12", log.read_text())
    assert len(states) == 2
    assert states[0] == states[1]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    trained = [record for record in records if "images_per_second" in record]
    skipped = {r["step"]: r.get("discriminator_skipped_steps", 0) for r in trained}
    assert skipped[STEP - 2] == 0
    assert skipped[STEP] == 1
    assert skipped[LAST_STEP] == 1
    assert not any("completion_skipped_steps" in record for record in records)


def test_a_run_that_dies_in_the_middle_of_a_save_continues_from_the_one_before(
    shards: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    preset = preset_of(shards, tmp_path)
    assert faulty_run("dies_while_saving", preset, log) != 0
    checkpoints = tmp_path / "run" / "checkpoints"
    torn = checkpoints / step_name(STEP)
    assert torn.is_dir()
    assert not (torn / COMMITTED).exists()
    log.write_text("")
    command = torchrun_command(2, "launch/train.py", "--config", str(preset))
    assert run(command, log) == 0, log.read_text()
    assert f"resuming at step {STEP - 1} of {LAST_STEP}" in log.read_text()
    assert max(committed_steps(str(checkpoints))) == LAST_STEP


def test_sigusr1_to_one_rank_saves_and_stops_all_of_them(shards: str, tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    mapping = small_mapping(
        shards, folder, schedule={"completion": 100_000}, checkpoint={"every_steps": 100_000}
    )
    preset = write_preset(tmp_path / "preset.yaml", mapping)
    command = torchrun_command(2, "launch/train.py", "--config", str(preset))
    with job(command, log) as process:
        metrics = folder / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0, process, log)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children.split()[-1]), signal.SIGUSR1)
        assert process.wait(60) != 0
    (step,) = committed_steps(str(folder / "checkpoints"))
    assert f"stopped by a signal after step {step}" in log.read_text()
