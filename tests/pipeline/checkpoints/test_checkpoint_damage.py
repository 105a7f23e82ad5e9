"""Any damage to a checkpoint is seen, named, and met by the one before."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints.format import COMMITTED, read_newest, step_name
from pipeline.checkpoints.writer import CheckpointWriter

TRIALS = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of several files."""
    folder = tmp_path_factory.mktemp("checkpoints")
    writer = CheckpointWriter(str(folder), 5, print, skip_late=False)
    for step in (3, 6):
        tensors = {
            "completion": {"a.weight": torch.randn(3, 4), "a.bias": torch.randn(3)},
            "ema": {"a.weight": torch.randn(3, 4)},
            "optimizers": {"completion.a.weight.step": torch.tensor(float(step))},
        }
        writer.save(step, tensors, {"seed": 5, "config": {"name": "run"}})
    writer.close()
    return folder


def resumed_step(folder: Path) -> tuple[int, list[str]]:
    warnings: list[str] = []
    found = read_newest(str(folder), warnings.append)
    assert found is not None
    return found.step, warnings


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_no_flipped_bit_and_no_cut_goes_unseen(folder: Path, damage: str) -> None:
    drawn = random.Random(damage)
    files = sorted((folder / step_name(6)).iterdir())
    assert len(files) == 5
    for trial in range(TRIALS // 2):
        file = files[trial % len(files)]
        intact = file.read_bytes()
        place = drawn.randrange(len(intact))
        damaged = bytearray(intact)
        if damage == "flip":
            damaged[place] ^= 1 << drawn.randrange(8)
        else:
            del damaged[place:]
        file.write_bytes(damaged)
        step, warnings = resumed_step(folder)
        file.write_bytes(intact)
        where = f"{damage} at byte {place} of {len(intact)} of {file.name}"
        assert step == 3, where
        assert len(warnings) == 1, where
        assert step_name(6) in warnings[0], where
        assert file.name in warnings[0], where
    assert resumed_step(folder) == (6, [])


def test_the_mark_of_another_checkpoint_does_not_pass(folder: Path, tmp_path: Path) -> None:
    mark = folder / step_name(6) / COMMITTED
    intact = mark.read_bytes()
    mark.write_bytes((folder / step_name(3) / COMMITTED).read_bytes())
    step, warnings = resumed_step(folder)
    mark.write_bytes(intact)
    assert step == 3
    assert len(warnings) == 1
