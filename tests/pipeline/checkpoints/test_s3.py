"""Everything that takes a URL, on the S3 server that AWS_ENDPOINT_URL names.

The server's keys are taken from the environment, as s3fs does. Each module makes one bucket and
removes it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.checkpoints import format as checkpoint
from pipeline.checkpoints.format import (
    COMMITTED,
    committed_steps,
    read_checkpoint,
    read_newest,
    step_name,
)
from pipeline.checkpoints.writer import CheckpointWriter
from shards.storage import files as storage
from shards.storage.files import join_url, list_names, read_bytes, write_bytes
from tests.shards.pictures import pack_small_set, write_class_folders
from tests.small_run import assert_identical, small_mapping, write_preset
from tests.torchrun import ROOT, job, kill, run, torchrun_command, wait_for

pytestmark = [
    pytest.mark.s3,
    pytest.mark.skipif(
        "AWS_ENDPOINT_URL" not in os.environ, reason="no S3 server: AWS_ENDPOINT_URL is not set"
    ),
]
WRONG_SECRET = "not-the-secret-of-anyone"
SCHEDULE = {"completion": 4, "discriminator": 3, "joint": 5}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("source"), images_per_class=8)


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.command", *arguments], cwd=ROOT, text=True, timeout=120,
        capture_output=True, env={**os.environ, **environment},
    )  # fmt: skip


def pack_arguments(source: Path, destination: str) -> list[str]:
    recipe = {"crop_size": 32, "short_side": 48, "images_per_shard": 7, "validation_fraction": 0.25}
    recipe |= {"masks.side_min": 8, "masks.side_max": 16}
    options = [word for name, value in recipe.items() for word in (f"--pack.{name}", str(value))]
    return ["pack", str(source), destination, *options]


def another_process() -> Any:
    """A filesystem that shares nothing with the one that the project uses."""
    return fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)


def save(url: str, *steps: int, keep: int = 9) -> None:
    writer = CheckpointWriter(url, keep, lambda message: None, skip_late=False)
    for step in steps:
        tensors = {"completion": {"w": torch.full((64,), float(step))}}
        writer.save(step, tensors, {"seed": 5})
    writer.close()


def test_a_refused_key_is_said_in_one_line_without_the_secret(folder: str, source: Path) -> None:
    for arguments in (["preview", folder], pack_arguments(source, folder)):
        result = command(*arguments, AWS_SECRET_ACCESS_KEY=WRONG_SECRET)
        assert result.returncode == 74, result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert folder in result.stderr
        assert "credentials" in result.stderr
        assert WRONG_SECRET not in result.stdout + result.stderr


def test_a_missing_bucket_is_said_by_name(source: Path) -> None:
    url = f"s3://glcic-test-{uuid.uuid4().hex}/set"
    result = command(*pack_arguments(source, url))
    assert result.returncode != 0
    (line,) = result.stderr.splitlines()
    assert f"{url} cannot be written" in line
    assert "no such bucket" in line
    with pytest.raises(OSError, match=f"checkpoints cannot be written to {url}.*no such bucket"):
        CheckpointWriter(url, 3, print).probe()


@pytest.mark.slow
def test_a_server_that_is_down_is_given_up_after_some_attempts(folder: str) -> None:
    down = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    result = command("preview", folder, **down)
    assert result.returncode == 74
    *attempts, last = result.stderr.splitlines()
    assert len(attempts) == storage.ATTEMPTS - 1
    assert all("trying again" in line for line in attempts)
    assert last.startswith("glcic preview: ")
    assert "manifest.json" in last
    assert "127.0.0.1:9" in last


@pytest.mark.slow
def test_a_set_packed_to_the_store_is_the_set_packed_to_a_folder(
    folder: str, source: Path, tmp_path: Path
) -> None:
    local = tmp_path / "set"
    for destination in (folder, str(local)):
        result = command(*pack_arguments(source, destination))
        assert result.returncode == 0, result.stderr
    names = list_names(folder)
    assert names == sorted(path.name for path in local.iterdir())
    assert len(names) > 8
    for name in names:
        assert read_bytes(join_url(folder, name)) == (local / name).read_bytes()
    assert command(*pack_arguments(source, folder)).returncode == 0  # complete: nothing to do
    again = command(*pack_arguments(source, folder), "--pack.seed", "1")
    assert (again.returncode, "--overwrite" in again.stderr) == (65, True)
    write_bytes(join_url(folder, "train-000009.tar"), b"of a set before")
    assert command(*pack_arguments(source, folder), "--overwrite").returncode == 0
    assert list_names(folder) == names
    preview = tmp_path / "preview.png"
    assert command("preview", folder, "--output", str(preview)).returncode == 0
    assert Image.open(preview).width > 0


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_checkpoint_damaged_in_the_store_is_skipped_for_the_one_before(
    folder: str, damage: str
) -> None:
    save(folder, 3, 6)
    url = join_url(folder, step_name(6), "completion.safetensors")
    data = bytearray(read_bytes(url))
    if damage == "flip":
        data[-1] ^= 1
    other = another_process()
    other.rm_file(url) if damage == "remove" else other.pipe_file(
        url, bytes(data[:-1] if damage == "cut" else data)
    )
    warnings: list[str] = []
    found = read_newest(folder, warnings.append)
    assert found is not None
    assert found.step == 3
    assert len(warnings) == 1
    assert "completion.safetensors" in warnings[0]


def test_old_checkpoints_are_gone_to_the_last_object(folder: str) -> None:
    write_bytes(join_url(folder, step_name(1), "completion.safetensors"), b"of a killed write")
    save(folder, 2, 3, 4, 5, keep=2)
    assert committed_steps(folder) == [4, 5]
    steps = {path.split("/")[-2] for path in another_process().find(folder)}
    assert steps == {step_name(4), step_name(5)}


def test_a_store_that_keeps_old_checkpoints_does_not_end_the_run(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str) -> None:
        if step_name(1) in url:
            raise PermissionError("the object storage has kept some of it")

    said: list[str] = []
    writer = CheckpointWriter(folder, 1, said.append, skip_late=False)
    writer.save(1, {"completion": {"w": torch.zeros(1)}}, {})
    writer.wait()
    monkeypatch.setattr(checkpoint, "remove_tree", refuse)
    writer.save(2, {"completion": {"w": torch.zeros(1)}}, {})
    writer.close()
    assert "older checkpoints were not removed: the object storage has kept some of it" in said
    assert committed_steps(folder) == [1, 2]
    monkeypatch.undo()
    save(folder, 3, keep=1)
    assert committed_steps(folder) == [3]


# Sixty files: a kill finds some of them written and others not.
SAVE_MUCH = """
import sys, torch
from pipeline.checkpoints.writer import CheckpointWriter
writer = CheckpointWriter(sys.argv[1], 3, print, skip_late=False)
tensors = {f"part-{number:02d}": {"w": torch.rand(500_000)} for number in range(60)}
writer.save(7, tensors, {})
writer.close()
"""


def test_a_checkpoint_whose_upload_was_killed_is_none(folder: str, tmp_path: Path) -> None:
    save(folder, 3)
    prefix, log = join_url(folder, step_name(7)), tmp_path / "log"
    with job([sys.executable, "-c", SAVE_MUCH, folder], log) as process:
        wait_for(lambda: len(list_names(prefix)) > 3, process, log)
        kill(process)
    assert COMMITTED not in list_names(prefix)
    assert committed_steps(folder) == [3]
    found = read_newest(folder, print)
    assert found is not None
    assert found.step == 3
    save(folder, 7)
    assert list_names(prefix) == [COMMITTED, "completion.safetensors", "state.json"]


def final(url: str) -> dict[str, torch.Tensor]:
    found = read_checkpoint(join_url(url, step_name(sum(SCHEDULE.values()))))
    return {f"{s}/{n}": t for s, group in found.tensors.items() for n, t in group.items()}


@pytest.fixture(scope="module")
def trained(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The folder on the store of a run killed three times, and that of a local one never killed."""
    folder = tmp_path_factory.mktemp("trained")
    shards, killed = join_url(bucket, "set"), join_url(bucket, "killed")
    local_shards = pack_small_set(folder, images=36, images_per_shard=7)
    for path in Path(local_shards).iterdir():
        storage.upload_file(path, join_url(shards, path.name))
    presets = {}
    for name, data, url in (("whole", local_shards, folder / "whole"), ("killed", shards, killed)):
        mapping = small_mapping(data, folder, schedule=SCHEDULE, checkpoint={"keep": 3})
        presets[name] = write_preset(folder / f"{name}.yaml", {**mapping, "folder": str(url)})
    commands = {
        name: torchrun_command(2, "launch/train.py", "--config", str(preset))
        for name, preset in presets.items()
    }
    log = folder / "log"
    assert run(commands["whole"], log) == 0, log.read_text()
    checkpoints = join_url(killed, "checkpoints")
    for reached in (2, 4, 9):  # within a phase, where the next begins, in the last
        with job(commands["killed"], log) as process:
            wait_for(lambda r=reached: max(committed_steps(checkpoints), default=0) >= r,
                     process, log)  # fmt: skip
            kill(process)
    assert run(commands["killed"], log) == 0, log.read_text()
    return killed, folder / "whole"


@pytest.mark.dist
@pytest.mark.slow
def test_a_killed_run_on_the_store_ends_in_the_bits_of_a_local_one(
    trained: tuple[str, Path],
) -> None:
    killed, whole = trained
    assert_identical(final(str(whole / "checkpoints")), final(join_url(killed, "checkpoints")))
    assert committed_steps(join_url(killed, "checkpoints")) == [10, 11, 12]
    names = {"checkpoints", "config.yaml", "curves.png", "evaluation.json", "metrics.jsonl"}
    assert names <= set(list_names(killed))


@pytest.mark.dist
@pytest.mark.slow
def test_a_run_on_the_store_is_evaluated_exported_and_used(
    trained: tuple[str, Path], folder: str, tmp_path: Path
) -> None:
    killed, whole = trained
    preset = str(whole.parent / "killed.yaml")
    figures = join_url(folder, "figures.json")
    result = command("evaluate", "--config", preset, "--checkpoint", killed, "--output", figures)
    assert result.returncode == 0, result.stderr
    assert b'"glcic"' in read_bytes(figures)
    exported = join_url(folder, "network")
    result = command("export", killed, exported)
    assert result.returncode == 0, result.stderr
    assert COMMITTED in list_names(exported)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "photo.png")
    for number, url in enumerate((exported, killed, join_url(killed, "checkpoints"))):
        output = tmp_path / f"{number}.png"
        arguments = [str(tmp_path / "photo.png"), "--hole", "8,8,16,16", "--output", str(output)]
        result = command("complete", *arguments, "--checkpoint", url)
        assert result.returncode == 0, result.stderr
        assert Image.open(output).size == (64, 48)
