from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from pipeline.config.schedule import Phase, Schedule
from pipeline.engines.ddp import Worker
from pipeline.monitoring.metric_definitions import STATES, TRAINING
from pipeline.monitoring.node_totals import READER, STORAGE, gather_node_values
from pipeline.monitoring.registry import MetricSet
from pipeline.monitoring.training_metrics import TrainingMetrics
from pipeline.reporting.metrics_log import read_metrics
from pipeline.training import run_outputs, trainer
from shards.cache.shard_cache import CacheCounters
from shards.reading.samples import ReadCounters
from shards.storage.files import StorageCounters
from tests.shards.pictures import pack_small_set
from tests.small_run import small_config


def values(text: str) -> dict[str, float]:
    """By name, without its beginning, and the values of its own labels."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, labels, value = re.fullmatch(r"glcic_(\w+)\{(.*)\} (\S+)", line).groups()
        own = [v for k, v in re.findall(r'(\w+)="([^"]*)"', labels) if k not in ("run", "host")]
        found[" ".join([name, *own])] = float(value)
    return found


def train_to_textfile(folder: Path, **changes: object) -> dict[str, float]:
    """What a run has told at its end."""
    shards = pack_small_set(folder, images=36, images_per_shard=7)
    config = small_config(
        shards, folder / "run", telemetry={"textfile_folder": str(folder)}, **changes
    )
    trainer.train(config, Worker(), Console(quiet=True))
    return textfile_values(folder)


def textfile_values(folder: Path) -> dict[str, float]:
    (textfile,) = folder.glob("*.prom")
    return values(textfile.read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, train_to_textfile(folder)


def test_a_finished_run_leaves_its_last_values_which_are_those_it_logged(
    finished: tuple[Path, dict[str, float]],
) -> None:
    folder, found = finished
    records = read_metrics(str(folder / "run"))
    logged = next(record for record in reversed(records) if "reconstruction" in record)
    assert found["train_loss reconstruction"] == pytest.approx(logged["reconstruction"])
    assert found["train_loss discriminator"] == pytest.approx(logged["discriminator"])
    assert found["train_gradient_norm completion"] == pytest.approx(
        logged["completion_gradient_norm"]
    )
    assert found["evaluation_psnr_decibels hole"] == pytest.approx(
        records[-1]["evaluation_hole_psnr_db"]
    )
    assert [state for state in STATES if found[f"train_state {state}"]] == ["finished"]


def test_a_run_counts_steps_images_samples_and_checkpoints(
    finished: tuple[Path, dict[str, float]],
) -> None:
    folder, found = finished
    assert found["train_step"] == found["train_target_steps"] == 12
    for phase, steps in {"completion": 4, "discriminator": 3, "joint": 5}.items():
        assert found[f"train_steps_total {phase}"] == steps
        assert found[f"train_images_total {phase}"] == 12 * steps
        assert found[f"train_step_seconds_count {phase}"] == steps
        waited = found[f"train_data_wait_seconds_sum {phase}"]
        assert 0 <= waited <= found[f"train_step_seconds_sum {phase}"]
    assert found["data_samples_total"] == 12 * 12
    assert found["data_read_bytes_total"] > 0
    assert found["checkpoint_last_success_step"] == 12
    assert found["checkpoint_write_seconds_count"] == found["checkpoint_save_seconds_count"] == 12
    newest = folder / "run" / "checkpoints" / "step-000000012"
    files = sum(os.path.getsize(path) for path in newest.iterdir() if path.name != "COMMITTED")
    assert found["checkpoint_bytes"] == files
    assert found["checkpoint_pending"] == found["run_files_pending"] == 0


def test_a_resumed_run_begins_where_it_was_and_its_counters_at_zero(tmp_path: Path) -> None:
    first = train_to_textfile(tmp_path, schedule={"completion": 4, "discriminator": 3, "joint": 2})
    second = train_to_textfile(tmp_path)
    assert first["train_step"] == 9
    assert second["train_step"] == 12
    assert second["train_steps_total joint"] == 3
    assert second["train_steps_total completion"] == 0


def test_a_run_that_ends_with_an_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("as if")

    monkeypatch.setattr(run_outputs, "evaluate_network", fail)
    with pytest.raises(RuntimeError, match="as if"):
        train_to_textfile(tmp_path)
    found = textfile_values(tmp_path)
    assert found["train_state failed"] == 1
    assert found["train_state looking"] == 0
    assert found["train_step"] == 12


def test_updates_that_were_left_out_are_told_before_the_run_gives_up(tmp_path: Path) -> None:
    # The first update makes the weights so large that none after it is finite.
    too_fast = {"learning_rate": 1e30}
    with pytest.raises(RuntimeError, match="were skipped"):
        train_to_textfile(tmp_path, completion_optimizer=too_fast, train={"skip_limit": 3},
                          schedule={"completion": 40})  # fmt: skip
    found = textfile_values(tmp_path)
    assert found["train_skipped_updates_total completion"] >= 3
    assert found["train_skipped_updates_total discriminator"] == 0
    assert found["train_state failed"] == 1


def test_what_is_gathered_is_what_readers_and_stores_count() -> None:
    counted = set(ReadCounters().snapshot())
    counted |= {f"cache_{name}" for name in CacheCounters().snapshot()}
    assert READER.keys() <= counted
    assert READER.keys() | {"cache_waits_for_others"} == counted
    assert STORAGE.keys() == StorageCounters().snapshot().keys()


def test_the_first_worker_of_a_node_speaks_for_its_node_alone() -> None:
    names = ["samples", *READER, *STORAGE, *(f"reader {name}" for name in STORAGE), *"abc"]
    rows = [torch.full((len(names),), float(10**rank), dtype=torch.float64) for rank in range(4)]
    node = SimpleNamespace(
        rank=2, world_size=4, local_world_size=2, device=torch.device("cpu"),
        all_gather=lambda mine: torch.cat([*rows[:2], torch.full_like(mine, 100.0), *rows[3:]]),
    )  # fmt: skip
    metrics = MetricSet([metric for metric in TRAINING if metric.by == "node"], "small")
    gather_node_values(metrics, node, SimpleNamespace(batches=1, counters={}), 6)
    found = {
        (sample.name, sample.labels.get("process")): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }
    assert found["glcic_data_damaged_samples_total", None] == 1100
    assert found["glcic_storage_retries_total", "trainer"] == 1100
    assert found["glcic_storage_retries_total", "reader"] == 1100


def test_other_nodes_do_not_speak_for_the_whole_run(tmp_path: Path) -> None:
    config = small_config(str(tmp_path), tmp_path / "run")
    worker = Worker(rank=2, world_size=4, local_rank=0, local_world_size=2)
    metrics = TrainingMetrics(config, worker, Schedule(4, 3, 5))
    metrics.begin_at(0, None)
    metrics.step_made(1, Phase.COMPLETION, 0.0)
    told = {sample.name for family in metrics.set.collect() for sample in family.samples}
    assert "glcic_train_steps_total" in told
    assert not told & {"glcic_train_images_total", "glcic_train_target_steps", "glcic_train_loss"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_is_told_without_waiting_for_the_device(tmp_path: Path) -> None:
    device = torch.device("cuda", 0)
    config = small_config(str(tmp_path), tmp_path / "run")
    worker = Worker(device=device)
    metrics = TrainingMetrics(config, worker, Schedule(4, 3, 5))
    metrics.begin_at(0, None)
    torch.ones(4, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics.step_begins()
        metrics.step_made(1, Phase.JOINT, 0.01)
        gather_node_values(metrics.set, worker, SimpleNamespace(batches=1, counters={}), 12)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    peak = [
        sample.value
        for family in metrics.set.collect()
        for sample in family.samples
        if sample.name == "glcic_gpu_memory_allocated_peak_bytes"
    ]
    assert peak[0] > 0
