"""What several processes do together, by real torchrun jobs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline.checkpoints.format import committed_steps
from tests.shards.pictures import pack_small_set
from tests.small_run import final_tensors, small_mapping, write_preset
from tests.torchrun import job, run, torchrun_command, train_command, wait_for

pytestmark = [pytest.mark.dist, pytest.mark.slow]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack_small_set(tmp_path_factory.mktemp("set"), images=36, images_per_shard=7)


def recording_preset(shards: str, folder: Path) -> Path:
    """Of a run in `folder` that records what it sees; the preset lies beside it."""
    log = {"record_samples": True, "every_steps": 100}
    return write_preset(folder.with_suffix(".yaml"), small_mapping(shards, folder, log=log))


def samples_seen(folder: Path, workers: int) -> dict[int, list[tuple]]:
    """step -> what the ranks saw, in the order of the lanes: sample, holes, holes of the patch."""
    seen: dict[int, list[tuple]] = {}
    for rank in range(workers):
        for line in (folder / "samples" / f"rank-{rank}.jsonl").read_text().splitlines():
            record = json.loads(line)
            seen.setdefault(record["step"], []).extend(
                zip(record["samples"], record["holes"], record["real_holes"], strict=True)
            )
    return seen


def test_any_number_of_workers_sees_the_same_samples_and_masks_also_after_a_change(
    shards: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    seen = {}
    for workers in (1, 2, 4):
        folder = tmp_path / f"workers-{workers}"
        assert run(train_command(workers, recording_preset(shards, folder)), log) == 0, (
            log.read_text()
        )
        seen[workers] = samples_seen(folder, workers)
    assert sorted(seen[1]) == list(range(12))
    assert seen[2] == seen[1]
    assert seen[4] == seen[1]

    # The run of two workers goes on from its fifth step with four.
    moved = tmp_path / "moved"
    preset = recording_preset(shards, moved)
    start = tmp_path / "workers-2" / "checkpoints" / "step-000000005"
    assert run(train_command(4, preset, "--resume", str(start)), log) == 0, log.read_text()
    rest = samples_seen(moved, 4)
    assert rest == {step: seen[1][step] for step in range(5, 12)}

    # And the run of four workers goes on from its ninth step with one.
    alone = tmp_path / "alone"
    preset = recording_preset(shards, alone)
    start = tmp_path / "workers-4" / "checkpoints" / "step-000000009"
    assert run(train_command(1, preset, "--resume", str(start)), log) == 0, log.read_text()
    assert samples_seen(alone, 1) == {step: seen[1][step] for step in range(9, 12)}


def test_one_and_two_workers_have_the_same_gradients_to_float_tolerance(
    shards: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    script = str(HERE / "gradients_job.py")
    gradients = []
    for workers in (1, 2):
        output = tmp_path / f"{workers}.safetensors"
        assert run(torchrun_command(workers, script, shards, str(output)), log) == 0, (
            log.read_text()
        )
        gradients.append(safetensors.torch.load_file(output))
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            gradients[1][name],
            gradient,
            rtol=1e-4,
            atol=1e-5 * scale,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_micro_batches_of_one_worker_train_as_workers_with_one_each_do(
    shards: str, tmp_path: Path
) -> None:
    """Through all phases, batch norm included: the sums alone are rounded in another order."""
    # Adadelta: Adam would blow the rounding of biases before batch norm up to whole steps.
    adadelta = {"kind": "adadelta", "learning_rate": 1.0, "epsilon": 1e-6}
    changes = {"completion_optimizer": adadelta, "discriminator_optimizer": adadelta}
    log = tmp_path / "log"
    results = []
    for workers in (1, 2):
        folder = tmp_path / f"workers-{workers}"
        mapping = small_mapping(shards, folder, **changes)
        mapping["train"] |= {"micro_batch_size": 6}
        preset = write_preset(tmp_path / f"workers-{workers}.yaml", mapping)
        assert run(train_command(workers, preset), log) == 0, log.read_text()
        results.append(final_tensors(folder, 12))
    compared = [name for name in results[0] if not name.endswith("num_batches_tracked")]
    for name in compared:
        scale = float(results[0][name].abs().max())
        torch.testing.assert_close(
            results[1][name],
            results[0][name],
            rtol=1e-3,
            atol=1e-4 * scale,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_a_terminated_run_saves_where_it_stands_and_exits_with_an_error(
    shards: str, tmp_path: Path
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    mapping = small_mapping(
        shards, folder, schedule={"completion": 100_000}, checkpoint={"every_steps": 100_000}
    )
    preset = write_preset(tmp_path / "preset.yaml", mapping)
    with job(train_command(2, preset), log) as process:
        wait_for(lambda: (folder / "metrics.jsonl").exists() and
                 (folder / "metrics.jsonl").stat().st_size > 0, process, log)  # fmt: skip
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    assert status != 0, "a pod that exits with 0 counts as completed and is never replaced"
    (step,) = committed_steps(str(folder / "checkpoints"))
    assert step > 0
    assert f"stopped by a signal after step {step}" in log.read_text()
