"""Training on several sets, and on shards of others, by real torchrun jobs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launch import verify
from pipeline.checkpoints.format import step_name
from tests.shards.external_shards import write_shards
from tests.shards.pictures import pack_small_set
from tests.small_run import assert_identical, final_tensors, small_mapping, write_preset
from tests.torchrun import run, torchrun_command

pytestmark = [pytest.mark.dist, pytest.mark.slow]
SCHEDULE = {"completion": 3, "discriminator": 2, "joint": 3}
NUM_STEPS = 8


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Two sets to be mixed, and one that could be taken for the second."""
    folder = tmp_path_factory.mktemp("sets")
    return (
        pack_small_set(folder, images=24, name="first"),
        pack_small_set(folder, images=16, classes=2, name="second", seed=1),
        pack_small_set(folder, images=16, classes=2, name="third", seed=2),
    )


def mapping_of(folder: Path, shards: str, second: str = "") -> dict[str, Any]:
    mapping = small_mapping(
        shards, folder, schedule=SCHEDULE, log={"record_samples": True, "every_steps": 100}
    )
    if second:
        mapping["data"] |= {"weight": 2, "mixture": [{"shards": second, "weight": 1}]}
    return mapping


def command_for(mapping: dict[str, Any], preset: Path, *overrides: str) -> list[str]:
    write_preset(preset, mapping)
    return torchrun_command(2, "launch/train.py", "--config", str(preset), *overrides)


def samples_of(folder: Path) -> dict[int, list[int]]:
    """step -> the samples that both ranks saw."""
    seen: dict[int, list[int]] = {}
    for rank in (0, 1):
        for line in (folder / "samples" / f"rank-{rank}.jsonl").read_text().splitlines():
            record = json.loads(line)
            seen.setdefault(record["step"], []).extend(record["samples"])
    return seen


def test_a_run_on_a_mixture_goes_on_in_the_same_bits_wherever_its_sets_lie(
    sets: tuple[str, str, str], tmp_path: Path
) -> None:
    first, second, third = sets
    whole, log = tmp_path / "whole", tmp_path / "log"
    command = command_for(mapping_of(whole, first, second), tmp_path / "preset.yaml")
    assert run(command, log) == 0, log.read_text()
    seen = samples_of(whole)
    assert sorted(seen) == list(range(NUM_STEPS))
    for samples in seen.values():
        assert sum(sample >= 18 for sample in samples) == 4  # of the second set: a third of 12

    resumed, moved = tmp_path / "resumed", str(tmp_path / "moved")
    checkpoint = Path("checkpoints") / step_name(4)
    shutil.copytree(whole / checkpoint, resumed / checkpoint)
    shutil.copytree(second, moved)
    # This time the mixture comes from the command line.
    mixture = json.dumps([{"shards": moved, "weight": 1}])
    command = command_for(
        mapping_of(resumed, first), tmp_path / "resumed.yaml",
        "--data.weight", "2", "--data.mixture", mixture,
    )  # fmt: skip
    assert run(command, log) == 0, log.read_text()
    assert_identical(final_tensors(whole, NUM_STEPS), final_tensors(resumed, NUM_STEPS))
    assert samples_of(resumed) == {step: seen[step] for step in range(4, NUM_STEPS)}

    refused = tmp_path / "refused.log"
    command = command_for(mapping_of(resumed, first, third), tmp_path / "other.yaml")
    assert run(command, refused) != 0
    assert "was trained on another packed set" in refused.read_text()


def test_shards_of_others_are_indexed_on_first_use_and_trained_on(tmp_path: Path) -> None:
    names = ("train-0.tar", "train-1.tar", "train-2.tar", "val-0.tar")
    shards = write_shards(tmp_path / "theirs", names, images=6)
    folder, log = tmp_path / "run", tmp_path / "log"
    command = command_for(mapping_of(folder, str(shards)), tmp_path / "preset.yaml")
    assert run(command, log) == 0, log.read_text()
    text = log.read_text()
    assert text.count("indexing the shards that others have packed") == 1
    assert len(final_tensors(folder, NUM_STEPS)) > 0
    assert (folder / "evaluation.json").exists()
    assert {sample for samples in samples_of(folder).values() for sample in samples} <= {*range(18)}
    assert verify.main([str(shards)]) == 0
