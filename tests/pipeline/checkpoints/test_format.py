from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import format as checkpoint
from pipeline.checkpoints import writer as checkpoint_writer
from pipeline.checkpoints.format import (
    COMMITTED,
    committed_steps,
    read_checkpoint,
    read_newest,
    step_name,
)
from pipeline.checkpoints.writer import CheckpointWriter


def tensors(value: float = 1.0) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "completion": {"conv.weight": torch.full((2, 3, 5, 5), value)},
        "optimizers": {"completion.conv.weight.step": torch.tensor(value)},
    }


def write(url: Path, *steps: int, keep: int = 9) -> None:
    writer = CheckpointWriter(str(url), keep, log=ignore, skip_late=False)
    for step in steps:
        writer.save(step, tensors(step), {"seed": 5})
    writer.close()


def ignore(message: str) -> None:
    pass


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    write(tmp_path, 7)
    found = read_newest(str(tmp_path), ignore)
    assert found is not None
    assert (found.step, found.facts["seed"]) == (7, 5)
    assert torch.equal(found.tensors["completion"]["conv.weight"], torch.full((2, 3, 5, 5), 7.0))
    assert found.tensors["optimizers"]["completion.conv.weight.step"].shape == ()


def test_tensors_may_change_as_soon_as_save_returns(tmp_path: Path) -> None:
    writer = CheckpointWriter(str(tmp_path), 3, ignore)
    state = tensors(1.0)
    writer.save(1, state, {})
    state["completion"]["conv.weight"].zero_()
    writer.close()
    found = read_checkpoint(str(tmp_path / step_name(1)))
    assert found.tensors["completion"]["conv.weight"].min() == 1


def test_a_channels_last_tensor_is_saved_by_its_values(tmp_path: Path) -> None:
    weight = torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last)
    writer = CheckpointWriter(str(tmp_path), 3, ignore)
    writer.save(1, {"completion": {"w": weight}}, {})
    writer.close()
    assert torch.equal(
        read_checkpoint(str(tmp_path / step_name(1))).tensors["completion"]["w"], weight
    )


def test_nothing_without_the_mark_is_resumed(tmp_path: Path) -> None:
    write(tmp_path, 3, 6)
    (tmp_path / step_name(6) / COMMITTED).unlink()
    assert committed_steps(str(tmp_path)) == [3]
    found = read_newest(str(tmp_path), ignore)
    assert found is not None
    assert found.step == 3


@pytest.mark.parametrize("name", ["completion.safetensors", "optimizers.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_skipped_by_name_for_the_one_before(
    tmp_path: Path, name: str, damage: str
) -> None:
    write(tmp_path, 3, 6)
    file = tmp_path / step_name(6) / name
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-1])
    else:
        file.unlink()
    warnings: list[str] = []
    found = read_newest(str(tmp_path), warnings.append)
    assert found is not None
    assert found.step == 3
    assert len(warnings) == 1
    assert step_name(6) in warnings[0]
    assert name in warnings[0]


@pytest.mark.parametrize(
    "mark", ['{"step": 6, "files": {"state.json": {}}}', '{"files": {"../x": {}}}', "[]", "{"]
)
def test_a_mark_that_makes_no_sense_counts_as_damage(tmp_path: Path, mark: str) -> None:
    write(tmp_path, 3, 6)
    (tmp_path / step_name(6) / COMMITTED).write_text(mark)
    warnings: list[str] = []
    found = read_newest(str(tmp_path), warnings.append)
    assert found is not None
    assert found.step == 3
    assert "COMMITTED cannot be read" in warnings[0]


def test_when_no_checkpoint_is_intact_the_run_does_not_start_anew(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / step_name(3) / "completion.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no checkpoint under .* is intact"):
        read_newest(str(tmp_path), ignore)


def test_a_folder_without_checkpoints_holds_none(tmp_path: Path) -> None:
    assert read_newest(str(tmp_path / "nothing"), ignore) is None


def test_only_the_newest_stay_and_unfinished_older_ones_go(tmp_path: Path) -> None:
    unfinished = tmp_path / step_name(2)
    unfinished.mkdir()
    (unfinished / "completion.safetensors").write_bytes(b"half")
    write(tmp_path, 1, 3, 4, 5, keep=2)
    assert committed_steps(str(tmp_path)) == [4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == [step_name(4), step_name(5)]


def test_an_older_checkpoint_goes_only_after_the_newer_one_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1, keep=1)
    monkeypatch.setattr(checkpoint_writer, "commit", _fail)
    writer = CheckpointWriter(str(tmp_path), 1, ignore)
    writer.save(2, tensors(), {})
    with pytest.raises(OSError, match=r"could not be written .* no space"):
        writer.close()
    assert committed_steps(str(tmp_path)) == [1]


def _fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


def test_what_a_killed_write_left_is_replaced(tmp_path: Path) -> None:
    stale = tmp_path / step_name(4)
    stale.mkdir()
    (stale / "leftover.safetensors").write_bytes(b"old")
    write(tmp_path, 4)
    assert not (stale / "leftover.safetensors").exists()
    assert read_checkpoint(str(stale)).step == 4


def test_an_unwritable_destination_is_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="cannot be written to"):
        CheckpointWriter(str(tmp_path / "file" / "checkpoints"), 3, ignore).probe()


def test_a_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    CheckpointWriter(str(tmp_path / "checkpoints"), 3, ignore).probe()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_the_mark_lists_size_and_hash_of_every_file(tmp_path: Path) -> None:
    write(tmp_path, 1)
    folder = tmp_path / step_name(1)
    listed = json.loads((folder / COMMITTED).read_text())["files"]
    assert set(listed) == {path.name for path in folder.iterdir()} - {COMMITTED}
    for name, entry in listed.items():
        assert entry["size_bytes"] == (folder / name).stat().st_size
        assert len(entry["sha256"]) == 64


def test_checkpoints_live_on_any_filesystem_that_fsspec_knows() -> None:
    url = "memory://checkpoints-of-a-run"
    writer = CheckpointWriter(url, 2, ignore, skip_late=False)
    writer.probe()
    for step in (1, 2, 3):
        writer.save(step, tensors(step), {})
    writer.close()
    assert committed_steps(url) == [2, 3]
    found = read_newest(url, ignore)
    assert found is not None
    assert found.step == 3


class OtherGeneration:
    """Writes of the same step by a process that believes it still is rank 0, at a chosen moment."""

    def __init__(self, url: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
        self.url, self.before, self.file_written = url, before, checkpoint.write_bytes
        self.data = b"the other's bytes"
        monkeypatch.setattr(checkpoint, "write_bytes", self.write)

    def write(self, url: str, data: bytes) -> None:
        if url.endswith(self.before):
            self.file_written(str(self.url / step_name(6) / "completion.safetensors"), self.data)
        self.file_written(url, data)


def test_files_of_two_writers_are_no_checkpoint_and_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 3, keep=1)
    OtherGeneration(tmp_path, monkeypatch, before=f"{step_name(6)}/{COMMITTED}")
    said: list[str] = []
    writer = CheckpointWriter(str(tmp_path), 1, said.append)
    writer.save(6, tensors(6), {})
    writer.close()
    found = read_newest(str(tmp_path), ignore)
    assert found is not None
    assert found.step == 3
    assert "step-000000006 was altered" in said[-1]


def test_a_late_write_of_an_older_generation_leaves_what_is_committed(tmp_path: Path) -> None:
    """Cut off in that write, it would leave the run without any checkpoint."""
    write(tmp_path, 6, keep=1)
    before = {path.name: path.stat().st_ino for path in (tmp_path / step_name(6)).iterdir()}
    said: list[str] = []
    writer = CheckpointWriter(str(tmp_path), 1, said.append)
    writer.save(6, tensors(6.5), {})
    writer.close()
    after = {path.name: path.stat().st_ino for path in (tmp_path / step_name(6)).iterdir()}
    assert after == before
    assert said == ["checkpoint step-000000006 is there already"]


def test_an_older_generation_removes_nothing_that_is_newer_than_its_own(tmp_path: Path) -> None:
    write(tmp_path, 6, 9, keep=2)
    write(tmp_path, 7, keep=1)
    assert 9 in committed_steps(str(tmp_path))


def test_a_damaged_checkpoint_is_written_again_by_the_run_that_comes_back_to_it(
    tmp_path: Path,
) -> None:
    write(tmp_path, 3, 6)
    (tmp_path / step_name(6) / "completion.safetensors").write_bytes(b"x")
    write(tmp_path, 6)
    assert read_checkpoint(str(tmp_path / step_name(6))).step == 6
