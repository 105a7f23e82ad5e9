"""Training with holes that are drawn for each sample of each step, by real torchrun jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoints.format import committed_steps
from tests.shards.pictures import pack_small_set
from tests.small_run import assert_identical, final_tensors, small_mapping, write_preset
from tests.torchrun import job, kill, run, train_command, wait_for

pytestmark = [pytest.mark.dist, pytest.mark.slow]
NUM_STEPS = 12
FRESH_MASKS = [
    {"weight": 2, "masks": {"side_min": 4, "side_max": 7}},
    {
        "weight": 1,
        "masks": {
            "kind": "strokes",
            "holes_per_mask": 2,
            "strokes": {"length_min": 4, "length_max": 12, "width_min": 3, "width_max": 6},
        },
    },
]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("sets")
    return (
        pack_small_set(folder, images=24, name="first"),
        pack_small_set(folder, images=16, classes=2, holes_per_mask=3, name="second", seed=1),
    )


def mapping_of(folder: Path, sets: tuple[str, str], **changes: Any) -> dict[str, Any]:
    first, second = sets
    return small_mapping(
        first, folder,
        data={
            "shards": first, "mixture": [{"shards": second, "weight": 0.5}],
            "short_side_min": 32, "short_side_max": 44,
            "holes": "fresh", "fresh_masks": FRESH_MASKS, "damaged": "substitute",
        },
        schedule={"completion": 4, "discriminator": 3, "joint": 5},
        checkpoint={"every_steps": 2, "keep": 10},
        log={"record_samples": True, "every_steps": 100},
        # Wide enough that a step takes a while: the kill must come before the run's end.
        completion={"width": 64},
        **changes,
    )  # fmt: skip


def holes_of(folder: Path) -> dict[int, list[tuple[int, Any, Any]]]:
    """step -> what all ranks saw of it, lane by lane: sample, hole, region of the real patch."""
    seen: dict[int, list[tuple[int, Any, Any]]] = {}
    for path in sorted((folder / "samples").glob("rank-*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            columns = (record[name] for name in ("samples", "holes", "real_holes"))
            seen.setdefault(record["step"], []).extend(zip(*columns, strict=True))
    return seen


@pytest.fixture(scope="module")
def whole(sets: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two workers that nothing disturbed."""
    tmp_path = tmp_path_factory.mktemp("whole")
    folder, log = tmp_path / "whole", tmp_path / "log"
    preset = write_preset(tmp_path / "preset.yaml", mapping_of(folder, sets))
    assert run(train_command(2, preset), log) == 0, log.read_text()
    return folder


def test_a_run_that_was_killed_goes_on_with_the_holes_and_ends_in_the_bits_of_one_that_was_not(
    sets: tuple[str, str], whole: Path, tmp_path: Path
) -> None:
    killed, log = tmp_path / "killed", tmp_path / "log"
    checkpoints = str(killed / "checkpoints")
    command = train_command(2, write_preset(tmp_path / "preset.yaml", mapping_of(killed, sets)))
    with job(command, log) as process:
        wait_for(lambda: any(step >= 6 for step in committed_steps(checkpoints)), process, log)
        kill(process)
    assert max(committed_steps(checkpoints)) < NUM_STEPS, "killed too late"
    assert run(command, log) == 0, log.read_text()
    assert_identical(final_tensors(whole, NUM_STEPS), final_tensors(killed, NUM_STEPS))
    seen, seen_after = holes_of(whole), holes_of(killed)
    assert sorted(seen) == list(range(NUM_STEPS))
    assert NUM_STEPS - 1 in seen_after
    assert {step: seen[step] for step in seen_after} == seen_after


def test_each_sample_of_each_step_has_a_hole_of_its_own_and_evaluation_the_packed_ones(
    whole: Path,
) -> None:
    holes = [hole for lanes in holes_of(whole).values() for _, hole, _ in lanes]
    assert len({json.dumps(hole) for hole in holes}) > 0.9 * len(holes)
    assert {bool(second[2]) for _, second in holes} == {False, True}, "boxes and strokes"
    assert json.loads((whole / "evaluation.json").read_text())["num_samples"] == 4


def test_three_workers_see_the_holes_that_two_see(
    sets: tuple[str, str], whole: Path, tmp_path: Path
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    mapping = mapping_of(folder, sets, evaluation={"recalibration_images": 0, "limit": 2})
    mapping["completion"] = {"width": 8}
    preset = write_preset(tmp_path / "preset.yaml", mapping)
    assert run(train_command(3, preset), log) == 0, log.read_text()
    assert holes_of(folder) == holes_of(whole)
