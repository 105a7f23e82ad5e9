from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from benchmarks.training.schedule_hours import extrapolation
from pipeline.config.loading import parse_config
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config


def config(**sections: Any) -> Config:
    return parse_config({"name": "short", "schedule": {
        "completion": 3600, "discriminator": 1800, "joint": 7200,
    }, **sections})  # fmt: skip


def test_hours_are_steps_times_seconds_and_the_total_is_summed_within_a_round() -> None:
    step_s = {Phase.COMPLETION: [1, 2], Phase.DISCRIMINATOR: [2, 2], Phase.JOINT: [3, 1]}
    figures = extrapolation(config(), config(), 0).figures(step_s, 10, "real images")
    assert [figure.runs for figure in figures] == [[1, 2], [1, 1], [6, 2], [8, 5]]
    assert {figure.group for figure in figures} == {
        "hours of short's schedule, extrapolated from 10 steps on real images"
    }


def test_another_batch_counts_by_its_images_and_is_named() -> None:
    measured = config(train={"batch_size": 24})
    step_s = {phase: [1.0] for phase in Phase}
    figures = extrapolation(measured, config(), 0).figures(step_s, 10, "real images")
    assert figures[0].runs == [4]  # four such batches are one of the schedule's
    assert "batches of 24 were measured, short has 96" in figures[0].group


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("completion", {"width": 32}),
        ("loss", {"r1_weight": 1.0}),
        ("completion_optimizer", {"kind": "adadelta"}),
    ],
)
def test_other_work_than_the_schedules_is_refused(section: str, field: dict[str, Any]) -> None:
    (name,) = field
    with pytest.raises(ValueError, match=rf"{section}\.{name} is .*, not "):
        extrapolation(config(**{section: field}), config(), 0)


def test_how_the_steps_are_computed_may_differ() -> None:
    train = {"precision": "fp32", "channels_last": False, "micro_batch_size": 8}
    assert extrapolation(config(train=train), config(), 0).schedule.total == 12_600


def test_epochs_need_the_schedules_own_set() -> None:
    preset = config(schedule={"unit": "epochs", "completion": 1, "discriminator": 0, "joint": 2})
    assert extrapolation(preset, preset, 100).schedule.total == 300
    with pytest.raises(ValueError, match="in epochs of a set that is not read here"):
        extrapolation(preset, dataclasses.replace(preset, seed=1), 0)
