"""`glcic train` as a user meets it: one clear message and a status for each thing gone wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.checkpoints.format import committed_steps, read_checkpoint, step_name
from tests.shards.pictures import pack_small_set
from tests.small_run import small_mapping, write_preset
from tests.torchrun import ROOT, run, torchrun_command


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(pack_small_set(tmp_path_factory.mktemp("set"), images=36, images_per_shard=7))


@pytest.fixture
def shards(packed: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(packed, tmp_path / "shards"))


def glcic_train(
    tmp_path: Path, shards: Path, *overrides: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    mapping = small_mapping(
        str(shards), tmp_path / "run", schedule={"completion": 2, "discriminator": 1, "joint": 1}
    )
    preset = write_preset(tmp_path / "preset.yaml", mapping)
    command = [sys.executable, "launch/train.py", "--config", str(preset), *overrides]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip


def assert_refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode not in (0, 1), "a status of its own, not a traceback's"
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("glcic train: ")
    for part in parts:
        assert part in result.stderr


def test_a_wrong_key_names_the_nearest_one(tmp_path: Path, shards: Path) -> None:
    result = glcic_train(tmp_path, shards, "--train.batch-sise", "4")
    assert_refused(result, "did you mean train.batch_size?")


def test_a_world_size_that_does_not_divide_the_batch_is_refused_before_the_ranks_meet(
    tmp_path: Path, shards: Path
) -> None:
    result = glcic_train(tmp_path, shards, environment={"WORLD_SIZE": "5", "RANK": "0"})
    assert_refused(result, "by 5 workers", "1, 2, 3, 4, 6, 12")


def test_a_set_that_does_not_exist_says_how_to_pack_one(tmp_path: Path) -> None:
    assert_refused(glcic_train(tmp_path, tmp_path / "nowhere"), "nowhere", "glcic pack")


def test_a_missing_shard_is_named(tmp_path: Path, shards: Path) -> None:
    (shards / "train-000001.tar").unlink()
    assert_refused(glcic_train(tmp_path, shards), "train-000001.tar")


def test_a_truncated_shard_is_named(tmp_path: Path, shards: Path) -> None:
    shard = shards / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    assert_refused(glcic_train(tmp_path, shards), "train-000001.tar")


def test_a_flipped_bit_in_an_image_stops_the_run_and_names_it(tmp_path: Path, shards: Path) -> None:
    for shard in shards.glob("train-*.tar"):
        data = bytearray(shard.read_bytes())
        data[512 + 40] ^= 1  # inside the first image of each shard
        shard.write_bytes(data)
    assert_refused(glcic_train(tmp_path, shards), ".jpg in ", "train-00000")


def test_a_set_packed_for_another_crop_is_refused(tmp_path: Path, shards: Path) -> None:
    result = glcic_train(tmp_path, shards, "--pack.crop-size", "36", "--data.short-side-min", "36")
    assert_refused(result, "--pack.crop_size 32")


def test_more_samples_in_a_batch_than_in_the_set_are_refused(tmp_path: Path, shards: Path) -> None:
    assert_refused(glcic_train(tmp_path, shards, "--train.batch-size", "500"), "only 27")


def test_an_unwritable_checkpoint_destination_is_refused_before_training(
    tmp_path: Path, shards: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    result = glcic_train(tmp_path, shards, "--checkpoint.url", str(tmp_path / "file" / "here"))
    assert_refused(result, "cannot be written")


@pytest.mark.dist
@pytest.mark.slow
def test_a_destination_that_fills_up_stops_all_ranks_with_one_message(
    tmp_path: Path, shards: Path
) -> None:
    """A limit on the size of a file stands in for a full disk: the same call fails."""
    preset = write_preset(tmp_path / "preset.yaml", small_mapping(str(shards), tmp_path / "run"))
    launcher = " ".join(torchrun_command(2, "launch/train.py", "--config", str(preset)))
    log = tmp_path / "log"
    assert run(["bash", "-c", f"ulimit -f 300; exec {launcher}"], log) != 0  # 300 kB
    told = [line for line in log.read_text().splitlines() if line.startswith("glcic train")]
    assert len(told) == 1, log.read_text()
    assert "a checkpoint could not be written to" in told[0]
    assert "File too large" in told[0]
    assert not list((tmp_path / "run" / "checkpoints").glob("*/COMMITTED"))


@pytest.mark.slow
def test_a_run_that_is_finite_no_more_stops_and_keeps_its_last_good_state(
    tmp_path: Path, shards: Path
) -> None:
    wild = ("--completion-optimizer.learning-rate", "1e30", "--schedule.completion", "30")
    result = glcic_train(
        tmp_path, shards, *wild, "--log.every-steps", "7", "--train.skip-limit", "4"
    )
    assert_refused(result, "of the completion network were skipped up to step 7", "another --name")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert max(committed_steps(str(checkpoints))) == 7
    for folder in checkpoints.glob("step-*"):
        for group in read_checkpoint(str(folder)).tensors.values():
            assert all(bool(tensor.isfinite().all()) for tensor in group.values())


@pytest.mark.slow
def test_a_corrupt_checkpoint_is_skipped_and_when_none_is_left_the_run_stops(
    tmp_path: Path, shards: Path
) -> None:
    assert glcic_train(tmp_path, shards).returncode == 0
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / step_name(4) / "completion.safetensors").write_bytes(b"damaged")
    again = glcic_train(tmp_path, shards)
    assert again.returncode == 0, again.stderr
    assert "skipping a damaged checkpoint" in again.stdout
    assert "resuming at step 3" in again.stdout

    for folder in checkpoints.iterdir():
        (folder / "state.json").write_text("{}")
    assert_refused(glcic_train(tmp_path, shards), "is intact", "state.json")


@pytest.mark.slow
def test_a_run_is_not_continued_with_another_configuration_or_other_data(
    tmp_path: Path, shards: Path
) -> None:
    assert glcic_train(tmp_path, shards).returncode == 0
    result = glcic_train(tmp_path, shards, "--loss.alpha", "0.5")
    assert_refused(result, "loss.alpha was 0.0004, is 0.5")
    assert_refused(glcic_train(tmp_path, shards, "--resume", "never"), "already holds a run")
    other = pack_small_set(tmp_path, images=36, images_per_shard=7, seed=3, name="other")
    assert_refused(glcic_train(tmp_path, Path(other)), "another packed set")


@pytest.mark.slow
def test_a_finished_run_has_everything_that_people_look_for(tmp_path: Path, shards: Path) -> None:
    result = glcic_train(tmp_path, shards, "--log.tensorboard", "true")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "run"
    assert Image.open(folder / "curves.png").width > 400
    assert Image.open(folder / "sheets" / f"{step_name(4)}.png").width > 400
    for name in ("config.yaml", "metrics.jsonl", "evaluation.json", "network/network.json"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "tensorboard").glob("events*"))
    assert "PSNR in the hole" in result.stdout
    assert "completion step 2/4: rec " in result.stdout


@pytest.mark.dist
@pytest.mark.slow
def test_under_torchrun_a_fault_is_told_once(tmp_path: Path, shards: Path) -> None:
    preset = write_preset(tmp_path / "preset.yaml", small_mapping(str(shards), tmp_path / "run"))
    log = tmp_path / "log"
    command = torchrun_command(
        2, "launch/train.py", "--config", str(preset), "--train.batch-sise", "4"
    )
    assert run(command, log) != 0
    assert log.read_text().count("did you mean train.batch_size?") == 1
